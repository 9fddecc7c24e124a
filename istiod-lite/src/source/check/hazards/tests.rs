use std::path::PathBuf;

use crate::source::check::check;

/// What the check of some objects says, none of which is an error.
fn warned(objects: &[&str]) -> Vec<String> {
    let found = check(&[(PathBuf::from("a.yaml"), objects.join("---\n"))]).problems;
    assert!(!found.iter().any(|problem| problem.is_error()), "{found:#?}");
    found.iter().map(ToString::to_string).collect()
}

/// One warning for each of these beginnings, in their order.
fn check_said(objects: &[&str], beginnings: &[&str]) {
    let found = warned(objects);
    assert_eq!(found.len(), beginnings.len(), "{found:#?}");
    for (said, beginning) in found.iter().zip(beginnings) {
        assert!(said.starts_with(beginning), "{beginning}\n{found:#?}");
    }
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = match kind {
        "VirtualService" => "networking.istio.io/v1",
        "RequestPolicy" => "ambit.dev/v1alpha1",
        "Service" => "v1",
        _ => "gateway.networking.k8s.io/v1",
    };
    let (namespace, name) = name.split_once('/').unwrap();
    format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
}

/// An HTTPRoute with one rule, which sends to a Service of its parent's or another namespace.
fn route(name: &str, parent: &str, to: &str, rule: &str) -> String {
    let spec = format!("{{parentRefs: [{{{parent}}}], rules: [{{backendRefs: [{{{to}, port: 80}}], {rule}}}]}}");
    object("HTTPRoute", name, &spec)
}

/// An HTTPRoute of `shop/orders` for its own requests.
fn orders(rule: &str) -> String {
    route("shop/orders", "group: '', kind: Service, name: orders", "name: orders", rule)
}

/// A VirtualService of the same.
fn virtual_orders(rule: &str) -> String {
    let spec =
        format!("{{hosts: [orders.shop.svc.cluster.local], http: [{{route: [{{destination: {{host: orders}}}}], {rule}}}]}}");
    object("VirtualService", "shop/orders", &spec)
}

#[test]
fn a_retry_of_what_may_not_arrive_twice_is_said_to_be_hardly_one() {
    let asks = "retry: {attempts: 2, codes: [503]}";
    let of = |methods: &str| orders(&format!("matches: [{methods}], {asks}"));
    check_said(&[&of("{method: POST}")], &["a.yaml:4: HTTPRoute shop/orders: spec.rules[0].retry: POST may not arrive twice"]);
    let both = "HTTPRoute shop/orders: spec.rules[0].retry: PATCH and POST may not";
    check_said(&[&of("{method: POST}, {method: GET}, {method: PATCH}")], &[&format!("a.yaml:4: {both}")]);
    let rule = |method: &str| {
        virtual_orders(&format!("match: [{{method: {{exact: {method}}}}}], retries: {{attempts: 2, retryOn: 5xx}}"))
    };
    check_said(&[&rule("POST")], &["a.yaml:4: VirtualService shop/orders: spec.http[0].retries: POST may not"]);

    check_said(&[&rule("PUT")], &[]);
    for fine in ["{method: GET}", "{method: PUT}", "{path: {type: PathPrefix, value: /a}}"] {
        check_said(&[&of(fine)], &[]);
    }
    check_said(&[&orders("matches: [{method: POST}]")], &[]);
    check_said(&[&orders("matches: [{method: POST}], retry: {attempts: 0, codes: [503]}")], &[]);
    // What another controller's Gateway sends again is its business.
    let elsewhere = route("shop/orders", "name: public", "name: orders", &format!("matches: [{{method: POST}}], {asks}"));
    check_said(&[&elsewhere], &[]);
}

/// A RequestPolicy of `shop` for a Service or HTTPRoute.
fn policy(name: &str, target: &str, writes: &str) -> String {
    let group = if target.starts_with("kind: Service") { "''" } else { "gateway.networking.k8s.io" };
    let spec = format!("{{targetRefs: [{{group: {group}, {target}}}], retries: {{writes: {writes}}}}}");
    object("RequestPolicy", name, &spec)
}

#[test]
fn that_a_policy_has_writes_done_twice_is_said_where_it_does() {
    let of = |methods: &str| orders(&format!("name: all, {methods}retry: {{attempts: 2, codes: [503]}}"));
    let rule = policy("shop/twice", "kind: HTTPRoute, name: orders, sectionName: all", "Allowed");
    let said = |methods: &str| {
        format!(
            "a.yaml:4: HTTPRoute shop/orders: spec.rules[0].retry: {methods} are sent again also after an endpoint has seen them, by \
             `retries.writes` of RequestPolicy shop/twice: what one does may be done 3 times"
        )
    };
    check_said(&[&of("matches: [{method: POST}, {method: GET}], "), &rule], &[&said("requests with POST")]);
    let any = said("requests of any method, POST among them,");
    check_said(&[&of(""), &rule], &[&any]);
    check_said(&[&of(""), &policy("shop/twice", "kind: Service, name: orders", "Allowed")], &[&any]);

    check_said(&[&of("matches: [{method: GET}], "), &rule], &[]);
    check_said(&[&orders("name: all"), &rule], &[]);
    let not_twice = [
        policy("shop/twice", "kind: HTTPRoute, name: orders, sectionName: other", "Allowed"),
        policy("other/twice", "kind: HTTPRoute, name: orders", "Allowed"),
        policy("shop/once", "kind: HTTPRoute, name: orders", "Unseen")
            + "---\n"
            + &policy("shop/twice", "kind: Service, name: orders", "Allowed"),
    ];
    for policies in &not_twice {
        check_said(&[&of(""), policies], &[]);
        let hardly = ["a.yaml:4: HTTPRoute shop/orders: spec.rules[0].retry: POST may not arrive twice"];
        check_said(&[&of("matches: [{method: POST}], "), policies], &hardly);
    }

    let of_virtual = virtual_orders("match: [{method: {exact: PATCH}}], retries: {attempts: 1, retryOn: 5xx}");
    let service = policy("shop/twice", "kind: Service, name: orders", "Allowed");
    check_said(
        &[&of_virtual, &service],
        &["a.yaml:4: VirtualService shop/orders: spec.http[0].retries: requests with PATCH are sent"],
    );
    // What is tried again for being late has to have the time for it.
    let late = "matches: [{method: POST}], timeouts: {request: 2s, backendRequest: 1s}, retry: {attempts: 3}";
    let both = [
        "a.yaml:4: HTTPRoute shop/orders: spec.rules[0].retry: requests with POST are",
        "a.yaml:4: HTTPRoute shop/orders: spec.rules[0].timeouts",
    ];
    check_said(&[&orders(late), &service], &both);
}

#[test]
fn a_retry_of_calls_is_one_of_posts() {
    let service = |port: &str| object("Service", "shop/orders", &format!("{{selector: {{app: orders}}, ports: [{port}]}}"));
    let asks = orders("retry: {codes: [503]}");
    let said = "a.yaml:9: HTTPRoute shop/orders: spec.rules[0].retry: port 80 of Service shop/orders carries gRPC";
    check_said(&[&service("{name: grpc-api, port: 80}"), &asks], &[said]);
    check_said(&[&service("{name: api, port: 80, appProtocol: grpc}"), &asks], &[said]);
    check_said(&[&service("{name: http, port: 80}"), &asks], &[]);
    check_said(&[&service("{name: http, port: 80}, {name: grpc, port: 81}"), &asks], &[]);
    check_said(&[&service("{name: grpc, port: 80}"), &orders("timeouts: {request: 1s}")], &[]);
}

#[test]
fn that_a_virtual_service_does_not_have_calls_sent_again_is_said_with_what_would() {
    let of = |on: &str, more: &str| virtual_orders(&format!("{more}retries: {{attempts: 2, retryOn: '{on}'}}"));
    let said =
        |statuses: &str| format!("a.yaml:4: VirtualService shop/orders: spec.http[0].retries: {statuses} of gRPC, whose calls");
    let both = said("`cancelled` and `unavailable` are statuses");
    check_said(&[&of("connect-failure,refused-stream,unavailable,cancelled", "")], &[&both]);
    let found = warned(&[&of("internal,503", "match: [{method: {prefix: P}}], ")]);
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert!(one.starts_with(&said("`internal` is a status")) && one.contains("(`retries.writes: Allowed`)"), "{one}");
    // It goes before what is said of a port that carries gRPC, and not before what is said of POST.
    let service = object("Service", "shop/orders", "{selector: {app: orders}, ports: [{name: grpc, port: 80}]}");
    check_said(&[&of("unavailable", ""), &service], &[&said("`unavailable` is a status")]);
    let post = ["a.yaml:4: VirtualService shop/orders: spec.http[0].retries: POST may not arrive twice"];
    check_said(&[&of("unavailable", "match: [{method: {exact: POST}}], ")], &post);

    let allowed = policy("shop/twice", "kind: Service, name: orders", "Allowed");
    let done = ["a.yaml:4: VirtualService shop/orders: spec.http[0].retries: requests of any method, POST among them,"];
    check_said(&[&of("unavailable", ""), &allowed], &done);
    for fine in ["5xx,connect-failure,503", ""] {
        check_said(&[&of(fine, "")], &[]);
    }
    check_said(&[&of("unavailable", "match: [{method: {exact: GET}}], ")], &[]);
    check_said(&[&virtual_orders("retries: {attempts: 0, retryOn: unavailable}")], &[]);
    // What is sent again for nothing that is known is not sent again.
    check_said(
        &[&of("nonsense", "match: [{method: {exact: POST}}], ")],
        &["a.yaml:4: VirtualService shop/orders: spec.http[0].retries.retryOn: \"nonsense\" is left out"],
    );
}

#[test]
fn a_time_that_is_over_before_all_tries_are_is_said_with_their_sum() {
    let of =
        |request: &str, retry: &str| orders(&format!("timeouts: {{request: {request}, backendRequest: 1s}}, retry: {{{retry}}}"));
    let said = |rest: &str| format!("a.yaml:4: HTTPRoute shop/orders: spec.rules[0].timeouts.request: {rest}");
    let short = said("2s are over before all tries are: 4 of 1s each, and 175ms at least between them, take 4.175s ");
    check_said(&[&of("2s", "attempts: 3")], &[&short]);
    // Waits double four times and are ten times the first from then on.
    let waiting = said("41s are over before all tries are: 7 of 1s each, and 35s at least between them, take 42s ");
    check_said(&[&of("41s", "attempts: 6, backoff: 1s")], &[&waiting]);
    let virtual_of =
        |time: &str| virtual_orders(&format!("timeout: {time}, retries: {{attempts: 3, perTryTimeout: 1s, retryOn: 5xx}}"));
    check_said(&[&virtual_of("2s")], &["a.yaml:4: VirtualService shop/orders: spec.http[0].timeout: 2s are over"]);

    check_said(&[&of("42s", "attempts: 6, backoff: 1s")], &[]);
    check_said(&[&of("0s", "attempts: 3")], &[]);
    check_said(&[&of("2s", "attempts: 0")], &[]);
    check_said(&[&virtual_of("5s")], &[]);
    check_said(&[&orders("timeouts: {request: 2s}, retry: {attempts: 3}")], &[]);
    // No further try is made of a write that is late.
    let writes = "matches: [{method: POST}], timeouts: {request: 2s, backendRequest: 1s}, retry: {attempts: 3}";
    check_said(&[&orders(writes)], &["a.yaml:4: HTTPRoute shop/orders: spec.rules[0].retry: POST"]);
}

fn gateway(class: &str) -> String {
    let spec = format!("{{gatewayClassName: {class}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}");
    object("Gateway", "edge/public", &spec)
}

#[test]
fn retries_and_times_of_a_gateway_are_held_against_those_behind_it() {
    let outer =
        route("edge/public", "name: public", "name: orders, namespace: shop", "retry: {attempts: 2}, timeouts: {request: 1s}");
    let inner = orders("retry: {attempts: 3}, timeouts: {request: 5s}");
    let retry = "a.yaml:9: HTTPRoute edge/public: spec.rules[0].retry: a request may come to Service shop/orders 12 times";
    let time = "a.yaml:9: HTTPRoute edge/public: spec.rules[0].timeouts.request: requests of Gateway edge/public end after 1s, and \
                HTTPRoute shop/orders lets one to Service shop/orders take 5s";
    check_said(&[&gateway("nginx"), &outer, &inner], &[retry, time]);
    let virtual_service = virtual_orders("retries: {attempts: 4, retryOn: 5xx}, timeout: 500ms");
    let more = "a.yaml:9: HTTPRoute edge/public: spec.rules[0].retry: a request may come to Service shop/orders 15 times";
    check_said(&[&gateway("nginx"), &outer, &virtual_service], &[more]);

    // A Gateway of the mesh goes past waypoints, so that only its own route holds; of one that is not given nothing is known.
    check_said(&[&gateway("ambit"), &outer, &inner], &[]);
    check_said(&[&outer, &inner], &[]);
    check_said(&[&gateway("nginx"), &outer, &orders("timeouts: {request: 1s}")], &[]);
    let other_port = route(
        "shop/orders",
        "group: '', kind: Service, name: orders, port: 81",
        "name: orders",
        "retry: {attempts: 3}, timeouts: {request: 5s}",
    );
    check_said(&[&gateway("nginx"), &outer, &other_port], &[]);
    // GRPCRoutes come before HTTPRoutes, and have no retries.
    let calls = "{parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, port: 80}]}]}";
    check_said(&[&gateway("nginx"), &outer, &inner, &object("GRPCRoute", "shop/calls", calls)], &[]);
}

#[test]
fn a_route_of_clients_is_below_those_of_their_own_services() {
    let asks = route(
        "web/orders",
        "group: '', kind: Service, name: orders, namespace: shop",
        "name: orders, namespace: shop",
        "retry: {attempts: 2}, timeouts: {request: 5s}",
    );
    let front = |rule: &str| route("web/front", "group: '', kind: Service, name: front", "name: front", rule);
    let found = [
        "a.yaml:4: HTTPRoute web/front: spec.rules[0].timeouts.request: requests of Service web/front end after 1s, and HTTPRoute \
         web/orders lets one to Service shop/orders take 5s",
        "a.yaml:9: HTTPRoute web/orders: spec.rules[0].retry: a request of pods of web comes to Service shop/orders 3 times at most, and \
         one to their Service web/front 2 times by HTTPRoute web/front: where the one asks for the other it may come 6 times",
    ];
    check_said(&[&front("retry: {}, timeouts: {request: 1s}"), &asks], &found);
    check_said(&[&front("timeouts: {request: 5s}"), &asks], &[]);
    // The route of the client's namespace holds in the place of the Service's own: that is one layer.
    check_said(&[&orders("retry: {attempts: 3}, timeouts: {request: 9s}"), &asks], &[]);
    // And a waypoint sends what a route leads to another Service past the routes of that one.
    let leads = route("shop/front", "group: '', kind: Service, name: front", "name: orders", "retry: {attempts: 2}");
    check_said(&[&orders("retry: {attempts: 3}, timeouts: {request: 9s}"), &leads], &[]);
}

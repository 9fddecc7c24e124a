//! Routes: every reason, and that what is called dropped is what the waypoint answers with 500.

use ambit_api::envoy::pb::envoy::config::route::v3::{RouteConfiguration, route::Action};
use prost::Message;

use super::{GATEWAY, mesh, service};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::of;
use crate::translate::waypoint;

/// An HTTPRoute `r` of namespace `shop` with this spec, on one line.
fn route(spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop, generation: 7}}\nspec: {spec}\n"
    )
}

const TO_A: &str = "parentRefs: [{group: '', kind: Service, name: a}]";

/// `type=status reason: message` of each condition of route `r` in a mesh with a waypoint and services `shop/a`, which goes
/// through it, and `bank/b`.
fn said(spec: &str, more: &str) -> Vec<String> {
    let udp =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: u, namespace: shop}\nspec: {ports: [{port: 53, protocol: UDP}]}\n";
    let text = format!("{GATEWAY}{}{}{udp}{}{more}", service("a", "shop", "gate"), service("b", "bank", "none"), route(spec));
    let key = ObjectKey { kind: Kind::HttpRoute, name: NamespacedName::new("shop", "r") };
    let conditions = of(&mesh(&text), &key, None).unwrap().conditions;
    assert!(conditions.iter().all(|condition| condition.observed_generation == Some(7)));
    conditions.iter().map(|c| format!("{}={} {}: {}", c.r#type, c.status, c.reason, c.message)).collect()
}

#[track_caller]
fn check(spec: &str, expected: &[&str]) {
    assert_eq!(said(&format!("{{{spec}}}"), ""), expected, "{spec}");
}

const RESOLVED: &str = "ResolvedRefs=True ResolvedRefs: All references are resolved";
const ATTACHED: &str = "Accepted=True Accepted: Attached; waypoint shop/gate applies it";

#[test]
fn each_fault_of_a_parent_has_its_reason() {
    check(&format!("{TO_A}, rules: [{{backendRefs: [{{name: a, port: 80}}]}}]"), &[ATTACHED, RESOLVED]);
    check(
        "parentRefs: [{group: '', kind: Service, name: gone}]",
        &["Accepted=False NoMatchingParent: Service shop/gone does not exist", RESOLVED],
    );
    check(
        "parentRefs: [{group: '', kind: Service, name: a, sectionName: grpc}]",
        &["Accepted=False NoMatchingParent: Service shop/a has no such port", RESOLVED],
    );
    check(
        "parentRefs: [{group: '', kind: Service, name: b, namespace: bank}]",
        &["Accepted=True Accepted: Attached, and without effect: Service bank/b has no waypoint", RESOLVED],
    );
    check("parentRefs: [{name: gate}]", &["Accepted=True Accepted: Attached to the waypoint", RESOLVED]);
    check(
        "parentRefs: [{name: gate, sectionName: other}]",
        &[
            "Accepted=False NoMatchingParent: Gateway shop/gate has no listener of that name and port by which a waypoint is reached",
            RESOLVED,
        ],
    );
    check("parentRefs: [{name: of-another-controller}, {group: example.com, kind: Bucket, name: a}]", &[]);
    // A reference that is given twice has one entry.
    check("parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a}]", &[ATTACHED, RESOLVED]);
}

#[test]
fn a_waypoint_says_which_namespaces_it_takes_routes_of() {
    let of_bank = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x, namespace: bank}\nspec: {parentRefs: [{name: gate, namespace: shop}]}\n";
    let index = mesh(&format!("{GATEWAY}{of_bank}"));
    let key = ObjectKey { kind: Kind::HttpRoute, name: NamespacedName::new("bank", "x") };
    let conditions = of(&index, &key, None).unwrap().conditions;
    assert_eq!(conditions[0].reason, "NotAllowedByListeners");
    assert!(conditions[0].message.contains("namespace bank"), "{}", conditions[0].message);
}

/// What is said of a route to a Gateway is what the waypoint does with it.
#[test]
fn a_route_is_attached_to_a_waypoint_if_and_only_if_it_holds() {
    let kinds = "protocol: HBONE, allowedRoutes: {kinds: [{kind: GRPCRoute}]}";
    let faulty = "protocol: HBONE}, {name: web, port: 8080, protocol: HTTP";
    for (listener, parent, reason) in [
        ("protocol: HBONE", "{name: gate}", "Accepted"),
        ("protocol: HBONE", "{name: gate, sectionName: mesh, port: 15008}", "Accepted"),
        ("protocol: HBONE", "{name: gate, sectionName: nope}", "NoMatchingParent"),
        ("protocol: HBONE", "{name: gate, port: 80}", "NoMatchingParent"),
        (faulty, "{name: gate, sectionName: web}", "NoMatchingParent"),
        (faulty, "{name: gate}", "Accepted"),
        (kinds, "{name: gate}", "NotAllowedByListeners"),
    ] {
        let spec = format!(
            "{{parentRefs: [{parent}], rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: held.example}}}}]}}]}}"
        );
        let service = service("a", "shop", "gate").replace("spec: {ports", "spec: {clusterIP: 10.0.0.7, ports");
        let text = format!("{}{service}{}", GATEWAY.replace("protocol: HBONE", listener), route(&spec));
        let index = mesh(&text);
        let key = ObjectKey { kind: Kind::HttpRoute, name: NamespacedName::new("shop", "r") };
        assert_eq!(of(&index, &key, None).unwrap().conditions[0].reason, reason, "{listener} {parent}");
        let resources = waypoint::translate(&index, &NamespacedName::new("shop", "gate")).unwrap();
        let holds = resources.routes.iter().any(|(_, route)| String::from_utf8_lossy(&route.value).contains("held.example"));
        assert_eq!(holds, reason == "Accepted", "{listener} {parent}");
    }
}

#[test]
fn each_fault_of_a_reference_has_its_reason() {
    let backend = |reference: &str, expected: &str| {
        check(
            &format!("{TO_A}, rules: [{{backendRefs: [{reference}]}}]"),
            &[ATTACHED, &format!("ResolvedRefs=False {expected}")],
        );
    };
    let place = "rules[0].backendRefs[0]";
    backend("{name: gone, port: 80}", &format!("BackendNotFound: {place}: Service shop/gone does not exist"));
    backend("{name: a, port: 81}", &format!("BackendNotFound: {place}: Service shop/a has no port 81"));
    backend("{kind: Bucket, name: a}", &format!("InvalidKind: {place}: Bucket of group \"\" cannot be sent to; Service can"));
    backend(
        "{name: b, namespace: bank, port: 80}",
        &format!(
            "RefNotPermitted: {place}: a ReferenceGrant in namespace bank has to permit HTTPRoutes of namespace shop to refer to Service bank/b"
        ),
    );
    backend(
        "{name: u, port: 53}",
        &format!("UnsupportedProtocol: {place}: port 53 of Service shop/u is UDP; requests go over TCP"),
    );
    // The first gives the reason; all are told.
    backend(
        "{name: gone, port: 80}, {name: a, port: 81}",
        "BackendNotFound: rules[0].backendRefs[0]: Service shop/gone does not exist; rules[0].backendRefs[1]: Service shop/a has no port 81",
    );
    // Its own parent a route may refer to wherever it is.
    check(
        "parentRefs: [{group: '', kind: Service, name: b, namespace: bank}], rules: [{backendRefs: [{name: b, namespace: bank, port: 80}]}]",
        &["Accepted=True Accepted: Attached, and without effect: Service bank/b has no waypoint", RESOLVED],
    );
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: bank}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}\n";
    let granted = said(&format!("{{{TO_A}, rules: [{{backendRefs: [{{name: b, namespace: bank, port: 80}}]}}]}}"), grant);
    assert_eq!(granted, [ATTACHED, RESOLVED]);
}

const EXTENSION: &str = "{type: ExtensionRef, extensionRef: {group: example.com, kind: Lua, name: l}}";

#[test]
fn an_extension_that_nobody_knows_is_an_unresolved_reference() {
    let fault = "ResolvedRefs=False InvalidKind: rules[0].filters[0]: Lua l is no extension that this mesh knows";
    check(&format!("{TO_A}, rules: [{{filters: [{EXTENSION}], backendRefs: [{{name: a, port: 80}}]}}]"), &[ATTACHED, fault]);
}

/// Rules that are not carried out, and why.
const DROPPED: [(&str, &str); 5] = [
    (
        "backend-filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}]",
        "filter RequestMirror of backendRefs[0] is not supported",
    ),
    ("backend-filters: [{type: CORS, cors: {allowOrigins: ['*']}}]", "filter CORS of backendRefs[0] is not supported"),
    (
        "matches: [{path: {type: Exact, value: /x}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}]",
        "replacePrefixMatch needs a match of type PathPrefix",
    ),
    (
        "matches: [{path: {type: Exact, value: /x}}], no-backend: 1, filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}]",
        "replacePrefixMatch needs a match of type PathPrefix",
    ),
    (
        "backend-filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /y}}}]",
        "filter URLRewrite with a path of backendRefs[0] is not supported",
    ),
];

/// A rule to `a:80` with what is given; two words of the table are not fields.
fn rule(given: &str) -> String {
    if let Some(filters) = given.strip_prefix("backend-filters: ") {
        return format!("{{backendRefs: [{{name: a, port: 80, filters: {filters}}}]}}");
    }
    match given.contains("no-backend: 1, ") {
        true => format!("{{{}}}", given.replace("no-backend: 1, ", "")),
        false => format!("{{{given}, backendRefs: [{{name: a, port: 80}}]}}"),
    }
}

#[test]
fn a_route_of_which_nothing_is_carried_out_is_not_accepted_and_one_of_which_something_is_says_what_is_dropped() {
    for (given, why) in DROPPED {
        let all = said(&format!("{{{TO_A}, rules: [{}]}}", rule(given)), "");
        assert_eq!(all, [format!("Accepted=False UnsupportedValue: rules[0]: {why}"), RESOLVED.into()]);
        let some = said(&format!("{{{TO_A}, rules: [{{backendRefs: [{{name: a, port: 80}}]}}, {}]}}", rule(given)), "");
        let partially = format!("PartiallyInvalid=True UnsupportedValue: Dropped Rule rules[1]: {why}");
        assert_eq!(some, [ATTACHED.into(), partially, RESOLVED.into()]);
    }
}

#[test]
fn what_is_not_carried_out_of_a_session_is_said_by_its_field() {
    let one = "backendRefs: [{name: a, port: 80}]";
    let two = "backendRefs: [{name: a, port: 80}, {name: a, port: 80, weight: 3}]";
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]";
    for (session, to, notes) in [
        ("sessionName: s", one, &[][..]),
        ("absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}", one, &[]),
        ("idleTimeout: 5m", one, &[".idleTimeout has no effect"]),
        ("absoluteTimeout: 1h", one, &[".absoluteTimeout makes the cookie one that outlives its client's session"]),
        ("type: Header, absoluteTimeout: 1h", one, &[".absoluteTimeout has no effect on a header"]),
        ("sessionName: s", two, &[" holds only within a backend, and weights choose one for each request"]),
        ("idleTimeout: 5m", redirect, &[" has no effect on a redirect"]),
    ] {
        let noted: String = notes.iter().map(|note| format!("; rules[0].sessionPersistence{note}")).collect();
        check(
            &format!("{TO_A}, rules: [{{sessionPersistence: {{{session}}}, {to}}}]"),
            &[&format!("{ATTACHED}{noted}"), RESOLVED],
        );
    }
}

/// Whether the waypoint answers what the only rule matches with 500, or sends it to no backend.
fn answered_with_500(rule: &str) -> bool {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop, labels: {istio.io/use-waypoint: gate}}\nspec: {clusterIP: 10.0.0.7, ports: [{name: http, port: 80}]}\n";
    let index = mesh(&format!("{GATEWAY}{service}{}", route(&format!("{{{TO_A}, rules: [{rule}]}}"))));
    let resources = waypoint::translate(&index, &NamespacedName::new("shop", "gate")).unwrap();
    let (_, any) = resources.routes.iter().find(|(name, _)| name.starts_with("inbound-vip|80|http|")).unwrap();
    let configuration = RouteConfiguration::decode(any.value.as_slice()).unwrap();
    let action = configuration.virtual_hosts[0].routes[0].action.as_ref().unwrap();
    matches!(action, Action::DirectResponse(response) if response.status == 500)
        || format!("{action:?}").contains("invalid-backend")
}

#[test]
fn what_does_not_go_with_a_redirect_is_told() {
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    let (cors, mirror) = ("{type: CORS, cors: {}}", "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}");
    let told = "; rules[0].filters CORS has no effect on a redirect; rules[0].filters RequestMirror has no effect on a redirect"
        .to_owned();
    check(&format!("{TO_A}, rules: [{{filters: [{redirect}, {cors}, {mirror}]}}]"), &[&format!("{ATTACHED}{told}"), RESOLVED]);
}

#[test]
fn what_the_status_calls_dropped_is_what_the_waypoint_refuses() {
    for (given, _) in DROPPED {
        assert!(answered_with_500(&rule(given)), "{given}");
    }
    assert!(answered_with_500(&rule(&format!("filters: [{EXTENSION}]"))));
    for carried_out in [
        "matches: [{path: {value: /x}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}]",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}]",
        "filters: [{type: CORS, cors: {allowOrigins: ['https://a.example']}}]",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 10}}]",
        "no-backend: 1, filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]",
        "backend-filters: [{type: URLRewrite, urlRewrite: {hostname: h}}]",
    ] {
        assert!(!answered_with_500(&rule(carried_out)), "{carried_out}");
        let conditions = said(&format!("{{{TO_A}, rules: [{}]}}", rule(carried_out)), "");
        assert_eq!(conditions, [ATTACHED, RESOLVED], "{carried_out}");
    }
}

/// The first condition of each object of these names, of the kind and namespace `shop`, in a mesh with service `shop/a` on ports 80 and 81.
fn first(text: &str, routes: &[(Kind, &str)]) -> Vec<String> {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop, labels: {istio.io/use-waypoint: gate}}\nspec: {ports: [{name: one, port: 80}, {name: two, port: 81}]}\n";
    let index = mesh(&format!("{GATEWAY}{service}{text}"));
    let of = |(kind, name): &(Kind, &str)| {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let conditions =
            of(&index, &ObjectKey { kind: *kind, name: NamespacedName::new(namespace, name) }, None).unwrap().conditions;
        let condition = &conditions[0];
        format!("{}={} {}: {}", condition.r#type, condition.status, condition.reason, condition.message)
    };
    routes.iter().map(of).collect()
}

/// A route of any kind to `shop/a:80`, or only one of its ports.
fn of_kind(kind: &str, name: &str, port: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let parent = format!("{{group: '', kind: Service, name: a, namespace: shop{port}}}");
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{parent}], {more}rules: [{{backendRefs: [{{name: a, namespace: shop, port: 80}}]}}]}}\n"
    )
}

#[test]
fn of_several_kinds_on_one_port_the_route_that_does_not_hold_says_which_does() {
    let (grpc, http) = (of_kind("GRPCRoute", "g", "", ""), of_kind("HTTPRoute", "h", "", ""));
    assert_eq!(first(&grpc, &[(Kind::GrpcRoute, "g")]), [ATTACHED]);
    let conflicted = "Accepted=False Conflicted: GRPCRoute shop/g holds in its place on Service shop/a";
    let both = format!("{grpc}{http}");
    assert_eq!(first(&both, &[(Kind::GrpcRoute, "g"), (Kind::HttpRoute, "h")]), [ATTACHED, conflicted]);
    let on_one = format!("{}{http}", of_kind("GRPCRoute", "g", ", port: 81", ""));
    let partly = format!("{ATTACHED}; on port 81 GRPCRoute shop/g holds in its place");
    assert_eq!(first(&on_one, &[(Kind::HttpRoute, "h")]), [partly]);
    let foreign = format!("{grpc}{}", of_kind("HTTPRoute", "bank/h", "", ""));
    assert_eq!(first(&foreign, &[(Kind::HttpRoute, "bank/h")]), [ATTACHED], "for clients of its own namespace");
}

#[test]
fn a_tcp_route_holds_on_ports_without_other_routes() {
    let tcp = of_kind("TCPRoute", "t", "", "");
    assert_eq!(first(&tcp, &[(Kind::TcpRoute, "t")]), [ATTACHED]);
    let second = format!("{tcp}{}", of_kind("TCPRoute", "u", "", ""));
    let conflicted = "Accepted=False Conflicted: TCPRoute shop/t holds in its place on Service shop/a";
    assert_eq!(first(&second, &[(Kind::TcpRoute, "t"), (Kind::TcpRoute, "u")]), [ATTACHED, conflicted]);
    let http = format!("{tcp}{}", of_kind("HTTPRoute", "h", "", ""));
    let conflicted = "Accepted=False Conflicted: HTTPRoute shop/h holds in its place on Service shop/a";
    assert_eq!(first(&http, &[(Kind::TcpRoute, "t"), (Kind::HttpRoute, "h")]), [conflicted, ATTACHED]);
    let foreign = format!("{tcp}{}", of_kind("HTTPRoute", "bank/h", "", ""));
    let conflicted = "Accepted=False Conflicted: TCPRoute shop/t holds in its place on Service shop/a";
    assert_eq!(first(&foreign, &[(Kind::TcpRoute, "t"), (Kind::HttpRoute, "bank/h")]), [ATTACHED, conflicted]);
    let elsewhere = of_kind("TCPRoute", "bank/t", "", "");
    let refused = "Accepted=False UnsupportedValue: A TCPRoute holds only for Services of its own namespace, which shop/a is not";
    assert_eq!(first(&elsewhere, &[(Kind::TcpRoute, "bank/t")]), [refused]);
    let on_gateway = tcp.replace("{group: '', kind: Service, name: a, namespace: shop}", "{name: gate}");
    let refused = "Accepted=False NotAllowedByListeners: Gateway shop/gate takes no TCPRoutes, but HTTPRoutes and GRPCRoutes";
    assert_eq!(first(&on_gateway, &[(Kind::TcpRoute, "t")]), [refused]);
}

#[test]
fn tls_routes_hold_each_for_its_names_on_ports_without_routes_for_requests() {
    let route = |name: &str, hosts: &str| of_kind("TLSRoute", name, "", &format!("hostnames: [{hosts}], "));
    let one = route("one", "a.example.com, '*.example.com'");
    assert_eq!(first(&one, &[(Kind::TlsRoute, "one")]), [ATTACHED]);
    let other = format!("{one}{}", route("other", "a.example.com, b.example.com"));
    assert_eq!(first(&other, &[(Kind::TlsRoute, "one"), (Kind::TlsRoute, "other")]), [ATTACHED, ATTACHED]);
    let none_left = format!("{one}{}", route("two", "'*.example.com'"));
    let conflicted = |by: &str| format!("Accepted=False Conflicted: {by} holds in its place on Service shop/a");
    assert_eq!(first(&none_left, &[(Kind::TlsRoute, "two")]), [conflicted("TLSRoute shop/one")]);
    let tcp = format!("{one}{}", of_kind("TCPRoute", "t", "", ""));
    assert_eq!(first(&tcp, &[(Kind::TlsRoute, "one"), (Kind::TcpRoute, "t")]), [ATTACHED, &conflicted("TLSRoute shop/one")]);
    let http = format!("{one}{}", of_kind("HTTPRoute", "h", "", ""));
    assert_eq!(first(&http, &[(Kind::TlsRoute, "one"), (Kind::HttpRoute, "h")]), [&conflicted("HTTPRoute shop/h"), ATTACHED]);
    let foreign = format!("{one}{}", of_kind("HTTPRoute", "bank/h", "", ""));
    assert_eq!(first(&foreign, &[(Kind::HttpRoute, "bank/h")]), [conflicted("TLSRoute shop/one")]);
    let elsewhere = route("bank/t", "a.example.com");
    let refused = "Accepted=False UnsupportedValue: A TLSRoute holds only for Services of its own namespace, which shop/a is not";
    assert_eq!(first(&elsewhere, &[(Kind::TlsRoute, "bank/t")]), [refused]);
    let on_gateway = one.replace("{group: '', kind: Service, name: a, namespace: shop}", "{name: gate}");
    let refused = "Accepted=False NotAllowedByListeners: Gateway shop/gate takes no TLSRoutes, but HTTPRoutes and GRPCRoutes";
    assert_eq!(first(&on_gateway, &[(Kind::TlsRoute, "one")]), [refused]);
}

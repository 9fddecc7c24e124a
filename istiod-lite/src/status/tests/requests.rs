//! What is said of RequestPolicies, for each of their targets.

use super::{GATEWAY, mesh, service};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::of;
use crate::status::patch::patch;

const ROUTES: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{name: first}, {name: second}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: loose, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: plain}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec: {parentRefs: [{name: gate}]}
";

fn policy(name: &str, year: u32, targets: &str) -> String {
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\n\
         metadata: {{name: {name}, namespace: shop, generation: 4, creationTimestamp: '{year}-01-01T00:00:00Z'}}\n\
         spec: {{targetRefs: [{targets}], fault: {{abort: {{status: 503}}}}}}\n"
    )
}

fn route(kind: &str, name: &str) -> String {
    format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}")
}

fn of_service(name: &str) -> String {
    format!("{{group: '', kind: Service, name: {name}}}")
}

/// `ancestor: status reason: message` of each condition of the policy `x`, made in 2026, with these targets.
#[track_caller]
fn check(targets: &str, more: &str, expected: &[&str]) {
    let services = [service("a", "shop", "gate"), service("plain", "shop", "none")].concat();
    let index = mesh(&format!("{GATEWAY}{services}{ROUTES}{}{more}", policy("x", 2026, targets)));
    let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "x") };
    let status = of(&index, &key, None).unwrap();
    let said: Vec<String> = status
        .conditions
        .iter()
        .map(|c| format!("{}: {}={} {}: {}", c.parent.as_deref().unwrap(), c.r#type, c.status, c.reason, c.message))
        .collect();
    let good = said.len() == expected.len() && said.iter().zip(expected).all(|(said, part)| said.starts_with(part));
    assert!(good, "{targets}: {said:#?}");
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(4)));
    let written = patch(None, &status, "2026-02-02T00:00:00Z").unwrap();
    assert_eq!(written["ancestors"].as_array().unwrap().len(), expected.len(), "{written}");
}

#[test]
fn a_request_policy_says_for_each_target_whether_it_holds() {
    let targets = [of_service("a"), route("HTTPRoute", "orders"), route("GRPCRoute", "calls")].join(", ");
    check(
        &targets,
        "",
        &[
            "Service shop/a: Accepted=True Accepted: Attached",
            "HTTPRoute shop/orders: Accepted=True Accepted",
            "GRPCRoute shop/calls: Accepted=True Accepted",
        ],
    );
    let missing = [of_service("gone"), route("GRPCRoute", "orders"), of_service("plain"), route("HTTPRoute", "loose")].join(", ");
    check(
        &missing,
        "",
        &[
            "Service shop/gone: Accepted=False TargetNotFound: Service shop/gone does not exist",
            "GRPCRoute shop/orders: Accepted=False TargetNotFound",
            "Service shop/plain: Accepted=False AncestorNotBound: Service shop/plain has no waypoint",
            "HTTPRoute shop/loose: Accepted=False AncestorNotBound",
        ],
    );
    let rules = ["second", "third"].map(|rule| route("HTTPRoute", "orders").replace('}', &format!(", sectionName: {rule}}}")));
    check(
        &rules.join(", "),
        "",
        &[
            "HTTPRoute shop/orders: Accepted=True",
            "HTTPRoute shop/orders: Accepted=False TargetNotFound: HTTPRoute shop/orders has no rule with the name third",
        ],
    );
}

#[test]
fn that_an_envoy_does_not_look_at_the_size_of_heads_is_said() {
    for (limits, said) in [("maxHeaderBytes: 4096", true), ("maxBodyBytes: 4096", false)] {
        let text = policy("x", 2026, &of_service("a")).replace("fault: {abort: {status: 503}}", &format!("limits: {{{limits}}}"));
        let index = mesh(&format!("{GATEWAY}{}{text}", service("a", "shop", "gate")));
        let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "x") };
        let status = of(&index, &key, None).unwrap();
        let [only] = status.conditions.as_slice() else { panic!("{limits}: {} conditions", status.conditions.len()) };
        assert!(only.message.starts_with("Attached") && only.message.contains("not in Envoy") == said, "{}", only.message);
    }
}

#[test]
fn that_a_grpc_route_has_nothing_that_is_retried_is_said() {
    let targets = [route("HTTPRoute", "orders"), route("GRPCRoute", "calls")].join(", ");
    let text = policy("x", 2026, &targets).replace("fault: {abort: {status: 503}}", "retries: {writes: Allowed}");
    let index = mesh(&format!("{GATEWAY}{}{ROUTES}{text}", service("a", "shop", "gate")));
    let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "x") };
    let status = of(&index, &key, None).unwrap();
    let said: Vec<bool> =
        status.conditions.iter().map(|condition| condition.message.contains("retries.writes has no effect")).collect();
    assert_eq!(said, [false, true]);
    assert!(status.conditions.iter().all(|condition| condition.status == "True"));
}

#[test]
fn that_upgrades_hold_for_no_calls_and_no_services_of_others_is_said() {
    let targets = [of_service("a"), route("HTTPRoute", "orders"), route("GRPCRoute", "calls"), route("HTTPRoute", "theirs")];
    let text = policy("x", 2026, &targets.join(", ")).replace("fault: {abort: {status: 503}}", "upgrades: [irc/6.9]");
    let theirs = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: theirs, namespace: shop}\n\
                  spec: {parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: b, namespace: other}]}\n";
    let index = mesh(&format!("{GATEWAY}{}{ROUTES}{theirs}{text}", service("a", "shop", "gate")));
    let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "x") };
    let status = of(&index, &key, None).unwrap();
    let said: Vec<&str> =
        status.conditions.iter().map(|condition| condition.message.split_once("; ").map_or("", |(_, more)| more)).collect();
    let calls = "upgrades has no effect on it, as calls of gRPC are not upgraded";
    let foreign = "upgrades has no effect for Services of another namespace, whose own policies say that";
    assert_eq!(said, ["", "", calls, foreign]);
    assert!(status.conditions.iter().all(|condition| condition.status == "True"));
}

#[test]
fn of_two_request_policies_for_one_target_the_older_one_holds() {
    let own = [of_service("a"), route("HTTPRoute", "orders")].join(", ");
    let older = policy("older", 2025, &of_service("a"));
    let conflict = "Service shop/a: Accepted=False Conflicted: RequestPolicy shop/older has the same target";
    check(&own, &older, &[conflict, "HTTPRoute shop/orders: Accepted=True"]);
    let younger = policy("a", 2027, &own);
    check(&own, &younger, &["Service shop/a: Accepted=True", "HTTPRoute shop/orders: Accepted=True"]);
    let rule = route("HTTPRoute", "orders").replace('}', ", sectionName: first}");
    let specific = policy("specific", 2025, &rule);
    check(&own, &specific, &["Service shop/a: Accepted=True", "HTTPRoute shop/orders: Accepted=True"]);
}

#[test]
fn a_route_at_the_edge_of_the_mesh_bears_a_request_policy() {
    let edge = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: ambit, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: outer, namespace: shop}
spec: {parentRefs: [{name: edge}]}
";
    check(&route("HTTPRoute", "outer"), edge, &["HTTPRoute shop/outer: Accepted=True Accepted: Attached"]);
}

#[test]
fn a_policy_says_why_its_limit_is_counted_by_nobody() {
    let providers = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n\
        \u{20}   - {name: good, ambitRateLimitGrpc: {service: a.shop.svc.cluster.local, port: 80}}\n\
        \u{20}   - {name: gone, ambitRateLimitGrpc: {service: gone.shop.svc.cluster.local, port: 80}}\n\
        \u{20}   - {name: strict, ambitRateLimitGrpc: {service: gone.shop.svc.cluster.local, port: 80, failOpen: false}}\n\
        \u{20}   - {name: bad, ambitRateLimitGrpc: {service: a.shop.svc.cluster.local, port: 80, timeout: soon}}\n\
        \u{20}   - {name: guard, envoyExtAuthzGrpc: {service: a.shop.svc.cluster.local, port: 80}}\n";
    for (provider, said) in [
        ("good", "True The rate limit server can be asked"),
        ("gone", "False rateLimit.global does not hold: there is no service gone.shop.svc.cluster.local:80"),
        ("strict", "False rateLimit.global has all requests refused: there is no service gone.shop.svc.cluster.local:80"),
        ("bad", "False rateLimit.global does not hold: the extension provider bad cannot be asked: ambitRateLimitGrpc.timeout"),
        ("guard", "False rateLimit.global does not hold: the ConfigMap istio-system/istio has no extension provider guard"),
        ("nobody", "False rateLimit.global does not hold: the ConfigMap istio-system/istio has no extension provider nobody"),
    ] {
        let limit = format!("global: {{provider: {provider}, domain: shop, descriptors: [{{entries: [{{from: Policy}}]}}]}}");
        let policy = format!(
            "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: x, namespace: shop}}\n\
             spec: {{targetRefs: [{}], rateLimit: {{{limit}}}}}\n",
            of_service("a")
        );
        let index = mesh(&[GATEWAY, &service("a", "shop", "gate"), providers, &policy].concat());
        let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "x") };
        let status = of(&index, &key, None).unwrap();
        let [accepted, resolved] = status.conditions.as_slice() else { panic!("{:?}", status.conditions) };
        assert_eq!((accepted.r#type, accepted.status), ("Accepted", "True"), "{accepted:?}");
        let written = format!("{} {}", resolved.status, resolved.message);
        assert!(resolved.r#type == "ResolvedRefs" && written.starts_with(said), "{provider}: {resolved:?}");
        let ancestors = patch(None, &status, "2026-02-02T00:00:00Z").unwrap();
        assert_eq!(ancestors["ancestors"].as_array().map(Vec::len), Some(1), "{ancestors}");
    }
}

#[test]
fn a_policy_whose_provider_is_not_there_says_so() {
    let processes = |provider: &str| {
        format!(
            "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRefs: [{}], externalProcessing: {{provider: {provider}}}}}\n",
            of_service("a")
        )
    };
    let providers = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n\
        \u{20}   - {name: good, envoyExtProcGrpc: {service: a.shop.svc.cluster.local, port: 80}}\n\
        \u{20}   - {name: port, envoyExtProcGrpc: {service: a.shop.svc.cluster.local, port: 81}}\n\
        \u{20}   - {name: bad, envoyExtProcGrpc: {service: a.shop.svc.cluster.local, port: 80, processingMode: {requestBodyMode: GRPC}}}\n\
        \u{20}   - {name: guard, envoyExtAuthzGrpc: {service: a.shop.svc.cluster.local, port: 80}}\n";
    for (provider, said) in [
        ("good", "Attached to the waypoints of its target"),
        ("port", "there is no port a.shop.svc.cluster.local:81 of the extension provider port"),
        ("bad", "the extension provider bad cannot process anything: envoyExtProcGrpc: unknown variant `GRPC`"),
        ("guard", "has no extension provider guard of kind envoyExtProcGrpc"),
    ] {
        let index = mesh(&[GATEWAY, &service("a", "shop", "gate"), providers, &processes(provider)].concat());
        let key = ObjectKey { kind: Kind::RequestPolicy, name: NamespacedName::new("shop", "p") };
        let conditions = of(&index, &key, None).unwrap().conditions;
        let [condition] = conditions.as_slice() else { panic!("{conditions:?}") };
        let good = condition.status == "True";
        assert!(condition.message.contains(said) && good == (provider == "good"), "{provider}: {condition:?}");
    }
}

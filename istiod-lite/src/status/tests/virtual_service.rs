//! What VirtualServices say of themselves.

use super::{GATEWAY, mesh, service};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::of;
use crate::status::patch::patch;

const TO_A: &str = "http: [{route: [{destination: {host: a}}]}]";

/// A VirtualService of namespace `shop`, made in this second.
fn made(name: &str, second: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop, generation: 7, \
         creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\nspec: {{{spec}}}\n"
    )
}

/// What `x` says of itself, with other objects besides.
#[track_caller]
fn check(spec: &str, more: &str, expected: &str) {
    let services = [service("a", "shop", "gate"), service("plain", "shop", "none")].concat();
    let index = mesh(&format!("{GATEWAY}{services}{}{more}", made("x", 2, spec)));
    let key = ObjectKey { kind: Kind::VirtualService, name: NamespacedName::new("shop", "x") };
    let status = of(&index, &key, None).unwrap();
    let [condition] = status.conditions.as_slice() else { panic!("{:#?}", status.conditions) };
    let said = format!("{}={} {}: {}", condition.r#type, condition.status, condition.reason, condition.message);
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(condition.observed_generation, Some(7));
    let written = patch(None, &status, "2026-02-02T00:00:00Z").unwrap();
    assert_eq!(written["conditions"].as_array().unwrap().len(), 1, "{written}");
}

#[test]
fn a_virtual_service_says_what_of_it_holds() {
    let of_a = format!("hosts: [a], {TO_A}");
    check(&of_a, "", "Accepted=True Accepted: Attached to the waypoint of Service shop/a");
    check(
        "hosts: [a], http: [{route: [{destination: {host: a, subset: v2}}]}]",
        "",
        "Accepted=False UnsupportedValue: spec.http[0]: there is no subset \"v2\", as no DestinationRule of its namespace has the host \
         a.shop.svc.cluster.local; requests that go there are answered with 500. The rest holds",
    );
    let parts = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: parts, namespace: shop}\n\
                 spec: {host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v3, trafficPolicy: {tls: {mode: SIMPLE}}}]}\n";
    let leads = |subset: &str| format!("hosts: [a], http: [{{route: [{{destination: {{host: a, subset: {subset}}}}}]}}]");
    check(&leads("v1"), parts, "Accepted=True Accepted: ");
    let lost = "Accepted=False UnsupportedValue: spec.http[0]: ";
    check(&leads("v2"), parts, &format!("{lost}DestinationRule shop/parts has no subset \"v2\"; requests that go there"));
    check(&leads("v3"), parts, &format!("{lost}its subset \"v3\" asks for TLS, which a waypoint does not begin; requests"));
    check(
        "hosts: [a], http: [{route: [{destination: {host: gone}}]}]",
        "",
        "Accepted=False UnsupportedValue: spec.http[0]: Service shop/gone does not exist; requests that go there are answered with 500",
    );
    check(
        "hosts: [a], http: [{route: [{destination: {host: a}}], retries: {attempts: 2, retryOn: '5xx,nonsense'}}]",
        "",
        "Accepted=False UnsupportedValue: spec.http[0].retries.retryOn: \"nonsense\" is left out, as it is none of 5xx, gateway-error",
    );
    let outside = format!("hosts: [a], gateways: [front, mesh], {TO_A}");
    check(&outside, "", "Accepted=False UnsupportedValue: spec.gateways[0]: \"front\": it holds in the mesh alone");
    check(&outside.replace(", mesh", ""), "", "Accepted=False UnsupportedValue: spec.gateways does not have \"mesh\"");
    check("hosts: [a], tcp: [{}]", "", "Accepted=False UnsupportedValue: It has no rules for requests");
    check(&format!("hosts: [gone], {TO_A}"), "", "Accepted=False TargetNotFound: Service shop/gone does not exist");
    check(&format!("hosts: [a.other.svc.cluster.local], {TO_A}"), "", "Accepted=False TargetNotFound: ");
    check(&format!("hosts: [plain], {TO_A}"), "", "Accepted=False AncestorNotBound: Service shop/plain has no waypoint");
    check(
        &format!("hosts: [gone, a, plain, a.other.svc.cluster.local], {TO_A}"),
        "",
        "Accepted=False TargetNotFound: Service shop/gone does not exist; Service shop/plain has no waypoint, so the \
         VirtualService has no effect on it; \"a.other.svc.cluster.local\" is of another namespace: write a VirtualService there, \
         or an HTTPRoute with a ReferenceGrant; it holds for Service shop/a",
    );
    check(
        "hosts: [plain, a], http: [{route: [{destination: {host: gone}}]}]",
        "",
        "Accepted=False AncestorNotBound: Service shop/plain has no waypoint, so the VirtualService has no effect on it; it holds \
         for Service shop/a; spec.http[0]: Service shop/gone does not exist; requests that go there are answered with 500",
    );
    check(&of_a, &made("o", 1, &of_a), "Accepted=False Conflicted: VirtualService shop/o has the host \"a\" too and is older");
    check(&of_a, &made("o", 3, &of_a), "Accepted=True");
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
                 spec: {parentRefs: [{group: '', kind: Service, name: a}]}\n";
    check(&of_a, route, "Accepted=False Conflicted: HTTPRoute shop/r is attached to Service shop/a, and comes before");
}

//! Listeners at the edge of the mesh that carry connections, and the routes on them.

use super::mesh;
use crate::deploy::{Deployed, Reports};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::{Condition, Listener, of};

const EDGE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: ambit
  listeners:
  - {name: pass, port: 443, protocol: TLS, hostname: "*.example.com", tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: TLSRoute}]}}
  - {name: end, port: 443, protocol: TLS, hostname: end.example.com, tls: {mode: Terminate, certificateRefs: [{name: missing}]}}
  - {name: https, port: 443, protocol: HTTPS, hostname: web.example.com, tls: {certificateRefs: [{name: missing}]}}
  - {name: bytes, port: 9000, protocol: TCP}
  - {name: web, port: 80, protocol: HTTP}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 443}]}
"#;

fn said(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.r#type, c.status, c.reason)).collect()
}

fn route(kind: &str, name: &str, parent: &str, more: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{name: edge{parent}}}], {more}rules: [{{backendRefs: [{{name: db, port: 443}}]}}]}}\n"
    )
}

fn listeners(text: &str) -> Vec<Listener> {
    let mut reports = Reports::default();
    assert!(reports.set(NamespacedName::new("shop", "edge"), Deployed::Applied));
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "edge") };
    of(&mesh(text), &key, Some(&reports)).unwrap().listeners
}

#[test]
fn a_listener_for_connections_takes_routes_of_its_kind_and_names_and_is_on_a_port_with_others_by_name() {
    let text = [
        EDGE.to_owned(),
        route("TLSRoute", "a", "", "hostnames: [a.example.com], "),
        route("TLSRoute", "b", ", sectionName: end", "hostnames: ['*.example.com'], "),
        route("TCPRoute", "one", ", sectionName: bytes", ""),
        route("TCPRoute", "two", ", sectionName: bytes", ""),
    ]
    .concat();
    let of_all = listeners(&text);
    let told: Vec<_> = of_all.iter().map(|one| (one.name.as_str(), one.supported_kinds.clone(), one.attached_routes)).collect();
    let expected = [
        ("pass", vec!["TLSRoute"], 1),
        ("end", vec!["TLSRoute"], 1),
        ("https", vec!["HTTPRoute", "GRPCRoute"], 0),
        // All are attached, and the oldest holds.
        ("bytes", vec!["TCPRoute"], 2),
        ("web", vec!["HTTPRoute", "GRPCRoute"], 0),
    ];
    assert_eq!(told, expected);
    assert_eq!(said(&of_all[0].conditions)[2], "ResolvedRefs=False InvalidRouteKinds");
    assert!(of_all[0].conditions[2].message.contains("TCPRoute cannot be attached; TLSRoute can"), "{:?}", of_all[0].conditions);
    assert_eq!(
        said(&of_all[1].conditions)[..3],
        ["Accepted=True Accepted", "Programmed=False Invalid", "ResolvedRefs=False InvalidCertificateRef"]
    );
    assert!(of_all.iter().all(|one| said(&one.conditions)[3] == "Conflicted=False NoConflicts"), "{of_all:?}");
}

#[test]
fn a_route_for_connections_says_which_listener_does_not_take_it_and_what_it_cannot_reach() {
    let first = |kind: Kind, text: String| {
        let key = ObjectKey { kind, name: NamespacedName::new("shop", "r") };
        let conditions = of(&mesh(&format!("{EDGE}{text}")), &key, None).unwrap().conditions;
        (said(&conditions).join(", "), conditions[0].message.clone())
    };
    let tls =
        |parent: &str, host: &str| first(Kind::TlsRoute, route("TLSRoute", "r", parent, &format!("hostnames: ['{host}'], "))).0;
    let resolved = "ResolvedRefs=True ResolvedRefs";
    for host in ["a.example.com", "*.example.com", "*.com"] {
        assert_eq!(tls("", host), format!("Accepted=True Accepted, {resolved}"), "{host}");
    }
    assert_eq!(tls("", "a.example.org"), format!("Accepted=False NoMatchingListenerHostname, {resolved}"));
    assert_eq!(tls(", sectionName: web", "a.example.com"), format!("Accepted=False NotAllowedByListeners, {resolved}"));
    assert_eq!(tls(", sectionName: https", "web.example.com"), format!("Accepted=False NotAllowedByListeners, {resolved}"));
    assert_eq!(tls(", sectionName: none", "a.example.com"), format!("Accepted=False NoMatchingParent, {resolved}"));
    let (said, message) = first(Kind::TcpRoute, route("TCPRoute", "r", ", sectionName: pass", ""));
    assert_eq!(said, format!("Accepted=False NotAllowedByListeners, {resolved}"));
    assert!(message.ends_with("takes no TCPRoutes; a listener of protocol TCP does"), "{message}");
    let lost = route("TCPRoute", "r", ", sectionName: bytes", "").replace("name: db", "name: lost");
    assert_eq!(first(Kind::TcpRoute, lost).0, "Accepted=True Accepted, ResolvedRefs=False BackendNotFound");
}

#[test]
fn listeners_for_connections_that_cannot_be_told_apart_conflict() {
    let told = |listeners: &str| {
        let spec = format!("spec: {{gatewayClassName: ambit, listeners: [{listeners}]}}");
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\n{spec}\n"
        );
        let of_all = self::listeners(&text);
        of_all.iter().map(|one| said(&one.conditions).remove(0)).collect::<Vec<_>>()
    };
    const PASS: &str = "{name: a, port: 443, protocol: TLS, hostname: a.b, tls: {mode: Passthrough}}";
    let both = |reason: &str| [format!("Accepted=False {reason}"), format!("Accepted=False {reason}")];
    assert_eq!(told(&format!("{PASS}, {{name: b, port: 443, protocol: HTTPS, hostname: a.b}}")), both("HostnameConflict"));
    assert_eq!(told(&format!("{PASS}, {{name: b, port: 443, protocol: TCP}}")), both("ProtocolConflict"));
    assert_eq!(told(&format!("{PASS}, {{name: b, port: 443, protocol: HTTP, hostname: b.b}}")), both("ProtocolConflict"));
    assert_eq!(told("{name: a, port: 9, protocol: TCP}, {name: b, port: 9, protocol: TCP}"), both("HostnameConflict"));
    let options = PASS.replace("Passthrough", "Passthrough, options: {a: b}");
    assert_eq!(told(&options), ["Accepted=False UnsupportedValue"]);
}

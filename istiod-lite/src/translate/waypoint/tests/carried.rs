//! Listeners at the edge of the mesh that carry connections.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{input, of_waypoint, render};
use crate::translate::waypoint::Resources;

/// Services and a certificate are those of the golden input.
fn edge(listeners: &str, more: &str) -> Resources {
    let text = input("https");
    let (_, rest) = text.split_once("\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant").unwrap();
    // Without its routes.
    let (rest, _) = rest.split_once("\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute").unwrap();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec: {{gatewayClassName: ambit, listeners: [{listeners}]}}"
    );
    of_waypoint(&format!("{gateway}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant{rest}\n{more}"))
}

fn route(kind: &str, name: &str, created: &str, hosts: &str, backends: &str) -> String {
    let hosts = if hosts.is_empty() { String::new() } else { format!("hostnames: [{hosts}], ") };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}\nspec: {{parentRefs: [{{name: edge}}], {hosts}rules: [{{backendRefs: [{backends}]}}]}}\n"
    )
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";
const BILLING: &str = "inbound-vip|80|tcp|billing.shop.svc.cluster.local";

fn listener(resources: &Resources, name: &str) -> Value {
    resources.listeners.iter().find(|(known, _)| known == name).map(|(_, any)| render(any)).unwrap_or_else(|| panic!("no {name}"))
}

/// Where each server name leads: the filter chain, its clusters with their weights, and whether TLS ends there.
fn leads(listener: &Value) -> BTreeMap<String, (String, String, bool)> {
    let mut leads = BTreeMap::new();
    for chain in listener["filter_chains"].as_array().unwrap() {
        let proxy = &chain["filters"].as_array().unwrap().last().unwrap()["typed_config"];
        let clusters = match (&proxy["cluster"], &proxy["weighted_clusters"]) {
            (Value::String(only), _) => only.clone(),
            (_, weighted) => {
                let of = |one: &Value| format!("{}={}", one["name"].as_str().unwrap(), one["weight"]);
                weighted["clusters"].as_array().map_or_else(|| "-".into(), |all| all.iter().map(of).collect::<Vec<_>>().join(","))
            }
        };
        let ends = !chain["transport_socket"].is_null();
        let names = chain["filter_chain_match"]["server_names"].as_array().cloned().unwrap_or_else(|| vec!["any".into()]);
        for name in names {
            let name = name.as_str().unwrap().to_owned();
            let said = (chain["name"].as_str().unwrap().to_owned(), clusters.clone(), ends);
            assert!(leads.insert(name.clone(), said).is_none(), "{name} leads to two chains");
        }
    }
    leads
}

#[test]
fn a_server_name_leads_to_the_route_that_says_it_most_closely_on_the_listener_that_does() {
    let listeners = r#"
        {name: wide, port: 443, protocol: TLS, hostname: "*.Example.com", tls: {mode: Passthrough}},
        {name: own, port: 443, protocol: TLS, hostname: own.example.com, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}},
        {name: ends, port: 443, protocol: TLS, hostname: "*.example.org", tls: {mode: Terminate, certificateRefs: [{name: one}]}},
        {name: bare, port: 443, protocol: TLS, hostname: bare.example.org, tls: {mode: Terminate, certificateRefs: [{name: missing}]}},
        {name: closed, port: 8443, protocol: TLS, hostname: closed.example.com, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}
    "#;
    let more = [
        route(
            "TLSRoute",
            "first",
            EARLY,
            "a.example.com, own.example.com, a.example.org",
            "{name: billing, port: 80, weight: 3}, {name: lost, port: 80}",
        ),
        route("TLSRoute", "second", LATE, "a.example.com, '*.com', '*.example.org'", "{name: billing, port: 80}"),
    ]
    .concat();
    let resources = edge(listeners, &more);
    let of_port = listener(&resources, "ingress|443");
    assert_eq!(of_port["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
    let lead = |chain: &str, clusters: &str, ends| (format!("ingress|443|{chain}"), clusters.to_owned(), ends);
    let spread = format!("{BILLING}=3,invalid-backend=1");
    let expected = [
        ("a.example.com", lead("wide|shop/first", &spread, false)),
        ("*.example.com", lead("wide|shop/second", BILLING, false)),
        // Its listener takes no routes, so that none of another takes what is for it.
        ("own.example.com", lead("own|blocked", "blocked", false)),
        ("a.example.org", lead("ends|shop/first", &spread, true)),
        ("*.example.org", lead("ends|shop/second", BILLING, true)),
        ("bare.example.org", lead("bare|blocked", "blocked", false)),
    ];
    assert_eq!(leads(&of_port), expected.map(|(name, lead)| (name.to_owned(), lead)).into_iter().collect());
    let text = of_port.to_string();
    assert!(text.contains("security=tls") && text.contains("security=none") && !text.contains("mutual_tls"), "{text}");
    assert!(!text.contains("alpn_protocols"), "what is spoken in TLS that ends here nobody here knows");
    let names = |of: &[(String, super::Any)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&resources.clusters), ["connect_originate", BILLING]);
    assert_eq!(names(&resources.secrets), ["certificate|shop/one"]);
    assert_eq!(names(&resources.listeners), ["connect_originate", "ingress|443"], "what nothing is carried at is closed");
}

#[test]
fn requests_and_connections_share_a_port_by_server_name_and_policies_hold_for_both() {
    let listeners = r#"
        {name: pass, port: 443, protocol: TLS, hostname: pass.example.com, tls: {mode: Passthrough}},
        {name: web, port: 443, protocol: HTTPS, hostname: "*.example.com", tls: {certificateRefs: [{name: one}]}},
        {name: bare, port: 443, protocol: HTTPS, hostname: bare.example.com, tls: {certificateRefs: [{name: missing}]}}
    "#;
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], action: DENY, rules: [{from: [{source: {ipBlocks: [192.0.2.0/24]}}]}]}\n";
    let more = [
        route("TLSRoute", "pass", EARLY, "pass.example.com", "{name: billing, port: 80}"),
        route("HTTPRoute", "web", EARLY, "", "{name: billing, port: 80}"),
        policy.to_owned(),
    ]
    .concat();
    let resources = edge(listeners, &more);
    let of_port = listener(&resources, "ingress|443");
    let expected = [
        ("pass.example.com", ("ingress|443|pass|shop/pass".to_owned(), BILLING.to_owned(), false)),
        ("*.example.com", ("ingress|443|web".to_owned(), "-".to_owned(), true)),
        ("bare.example.com", ("ingress|443|bare|blocked".to_owned(), "blocked".to_owned(), false)),
    ];
    assert_eq!(leads(&of_port), expected.map(|(name, lead)| (name.to_owned(), lead)).into_iter().collect());
    for chain in of_port["filter_chains"].as_array().unwrap() {
        assert!(chain["filters"].to_string().contains("ns[shop]-policy[p]-rule[0]"), "{chain:#}");
    }
}

#[test]
fn of_a_port_of_which_nothing_is_looked_at_the_oldest_route_takes_every_connection() {
    let listeners = "{name: db, port: 543, protocol: TCP}, {name: none, port: 9001, protocol: TCP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}";
    let more = [
        route("TCPRoute", "a-late", LATE, "", "{name: lost, port: 80}"),
        route("TCPRoute", "early", EARLY, "", "{name: billing, port: 80}, {name: billing, port: 80, weight: 0}"),
    ]
    .concat();
    let resources = edge(listeners, &more);
    let names: Vec<_> = resources.listeners.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["connect_originate", "ingress|543"]);
    let of_port = listener(&resources, "ingress|543");
    assert_eq!(of_port["address"]["socket_address"]["port_value"], 10543);
    assert!(of_port["listener_filters"].is_null(), "{of_port:#}");
    let expected = [("any".to_owned(), ("ingress|543".to_owned(), BILLING.to_owned(), false))];
    assert_eq!(leads(&of_port), expected.into_iter().collect());
}

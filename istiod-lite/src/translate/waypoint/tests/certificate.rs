//! Who is told which client asks.

use std::collections::BTreeMap;

use super::{of_waypoint, render};

const SERVED: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec: {hosts: [out.example.com], addresses: [240.0.0.1], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.7}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: in, namespace: shop}
spec: {hosts: [in.example.com], addresses: [240.0.0.2], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.8}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pods, namespace: shop}
spec: {hosts: [pods.example.com], addresses: [240.0.0.3], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {app: a}}}
"#
);

#[test]
fn a_host_outside_of_the_mesh_is_not_told_who_asks() {
    let resources = of_waypoint(SERVED);
    let (_, inner) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let mut told = BTreeMap::new();
    for chain in render(inner)["filter_chains"].as_array().unwrap() {
        let Some(host) = chain["name"].as_str().unwrap().strip_prefix("inbound-vip|80|http|") else { continue };
        let manager = &chain["filters"][0]["typed_config"];
        let tells = !manager["early_header_mutation_extensions"].is_null();
        // What the client has written is taken out where it is not replaced.
        let keeps = manager["forward_client_cert_details"] == "ALWAYS_FORWARD_ONLY";
        assert_eq!(tells, keeps, "{host}");
        told.insert(host.to_owned(), tells);
    }
    let expected = [
        ("a.shop.svc.cluster.local", true),
        ("shop/in.example.com", true),
        ("shop/out.example.com", false),
        ("shop/pods.example.com", true),
    ];
    assert_eq!(told, expected.map(|(host, tells)| (host.to_owned(), tells)).into());
}

/// The table of routes of `a`, with one rule of an HTTPRoute.
fn routed(rule: &str) -> String {
    table_of_a(&format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: a}}], rules: [{rule}]}}\n"
    ))
}

/// The same with one of a VirtualService.
fn routed_by_virtual_service(rule: &str) -> String {
    table_of_a(&format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, namespace: shop}}\n\
         spec: {{hosts: [a], http: [{rule}]}}\n"
    ))
}

fn table_of_a(route: &str) -> String {
    let resources = of_waypoint(&format!("{SERVED}{route}"));
    let name = "inbound-vip|80|http|a.shop.svc.cluster.local";
    let (_, table) = resources.routes.iter().find(|(known, _)| known == name).unwrap();
    render(table).to_string()
}

/// The requests that it would lead there say who asks, as all of the service do.
#[test]
fn no_route_of_a_service_leads_to_a_host_outside_of_the_mesh() {
    let own = r#""cluster":"inbound-vip|80|http|a.shop.svc.cluster.local""#;
    for table in [
        routed("{backendRefs: [{name: a, port: 80}]}"),
        routed_by_virtual_service("{route: [{destination: {host: a, port: {number: 80}}}]}"),
    ] {
        assert!(table.contains(own), "{table}");
    }
    for outside in [
        "{name: out.example.com, port: 80}",
        "{kind: Hostname, name: out.example.com, port: 80}",
        "{group: networking.istio.io, kind: Hostname, name: out.example.com, port: 80}",
        "{group: networking.istio.io, kind: ServiceEntry, name: out, port: 80}",
    ] {
        let table = routed(&format!("{{backendRefs: [{outside}]}}"));
        assert!(!table.contains("out.example.com") && table.contains("invalid-backend"), "{outside}: {table}");
        let filter = format!("{{type: RequestMirror, requestMirror: {{backendRef: {outside}}}}}");
        let table = routed(&format!("{{filters: [{filter}], backendRefs: [{{name: a, port: 80}}]}}"));
        assert!(!table.contains("out.example.com") && table.contains(own), "a copy to {outside}: {table}");
    }
    for host in ["out.example.com", "out"] {
        let to = format!("{{destination: {{host: {host}, port: {{number: 80}}}}}}");
        let table = routed_by_virtual_service(&format!("{{route: [{to}]}}"));
        assert!(!table.contains("out.example.com") && table.contains("invalid-backend"), "{host}: {table}");
        let copied = format!("{{route: [{{destination: {{host: a}}}}], mirrors: [{to}]}}");
        let table = routed_by_virtual_service(&copied);
        assert!(!table.contains("out.example.com") && table.contains(own), "a copy to {host}: {table}");
    }
}

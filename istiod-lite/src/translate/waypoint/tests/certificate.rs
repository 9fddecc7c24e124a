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

//! Gateways at the edge of the mesh that speak TLS.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Any, input, of_waypoint, render};

fn find(of: &[(String, Any)], name: &str) -> Value {
    of.iter().find(|(known, _)| known == name).map(|(_, any)| render(any)).unwrap_or_else(|| panic!("no {name}"))
}

fn texts(values: &Value, field: &str) -> Vec<String> {
    values.as_array().into_iter().flatten().map(|value| value[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_server_name_leads_to_a_chain_of_its_listener_with_its_certificates_alone() {
    let resources = of_waypoint(&input("https"));
    let names = |of: &[(String, Any)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    // Neither a certificate that is not granted nor one whose key is another's, nor a port without any.
    assert_eq!(names(&resources.secrets), ["certificate|keys/two", "certificate|shop/one"]);
    assert_eq!(names(&resources.listeners), ["connect_originate", "ingress|443", "ingress|80"]);
    let listener = find(&resources.listeners, "ingress|443");
    assert_eq!(listener["address"]["socket_address"]["port_value"], 10443);
    assert_eq!(listener["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
    let mut shown = BTreeMap::new();
    for chain in listener["filter_chains"].as_array().unwrap() {
        let tls = &chain["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(tls["alpn_protocols"], serde_json::json!(["h2", "http/1.1"]), "{chain:#}");
        let routes = &chain["filters"][0]["typed_config"]["rds"]["route_config_name"];
        assert_eq!(*routes, chain["name"], "routes of its own");
        let host = chain["filter_chain_match"]["server_names"][0].as_str().unwrap_or("any").to_owned();
        shown.insert(host, texts(&tls["tls_certificate_sds_secret_configs"], "name"));
    }
    let certificates = |names: &[&str]| names.iter().map(|name| format!("certificate|{name}")).collect::<Vec<_>>();
    let expected = [
        ("*.example.com", certificates(&["shop/one", "keys/two"])),
        ("any", certificates(&["shop/one"])),
        ("own.example.com", certificates(&["keys/two"])),
    ];
    assert_eq!(shown, expected.map(|(host, names)| (host.to_owned(), names)).into_iter().collect());
}

#[test]
fn a_connection_for_one_listener_reaches_no_routes_of_another_and_a_host_of_another_is_misdirected() {
    let resources = of_waypoint(&input("https"));
    let hosts = |name: &str| {
        let table = find(&resources.routes, name);
        let of_host = |host: &Value| {
            let status = &host["routes"][0]["direct_response"]["status"];
            let said = if host["routes"].is_null() {
                "none".into()
            } else if status.is_null() {
                "routes".into()
            } else {
                status.to_string()
            };
            (host["domains"][0].as_str().unwrap().to_owned(), said)
        };
        table["virtual_hosts"].as_array().unwrap().iter().map(of_host).collect::<BTreeMap<String, String>>()
    };
    let expected = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(host, said)| ((*host).to_owned(), (*said).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let others = [("foreign.example.com", "421"), ("broken.example.com", "421")];
    let any = [("*", "none"), ("www.example.org", "routes"), ("*.example.com", "421"), ("own.example.com", "421")];
    assert_eq!(hosts("ingress|443|any"), expected(&[&any[..], &others].concat()));
    let wide = [("*", "421"), ("www.example.com", "routes"), ("*.example.com", "none"), ("own.example.com", "421")];
    assert_eq!(hosts("ingress|443|wide"), expected(&[&wide[..], &others].concat()));
    let own = [("*", "421"), ("*.example.com", "421"), ("own.example.com", "routes")];
    assert_eq!(hosts("ingress|443|own"), expected(&[&own[..], &others].concat()));
    // The scheme implies the port.
    let table = find(&resources.routes, "ingress|443|own").to_string();
    assert!(table.contains(r#""path_redirect":"/pay""#) && !table.contains("port_redirect"), "{table}");
}

#[test]
fn processors_and_servers_of_limits_that_any_route_names_are_in_all_chains_of_a_port() {
    let more = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: scrub, envoyExtProcGrpc: {service: billing.shop.svc.cluster.local, port: 80}}
    - {name: limits, ambitRateLimitGrpc: {service: billing.shop.svc.cluster.local, port: 80}}
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: of-edge, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: billing}]
  rateLimit: {global: {provider: limits, domain: shop, descriptors: [{entries: [{from: Policy}]}]}}
  externalProcessing: {provider: scrub}
"#;
    let resources = of_waypoint(&(input("https") + more));
    let wanted = ["envoy.filters.http.ratelimit.limits", "envoy.filters.http.ext_proc/scrub"];
    let listener = find(&resources.listeners, "ingress|443");
    let chains = listener["filter_chains"].as_array().unwrap();
    assert_eq!(chains.len(), 3);
    for chain in chains {
        let filters = texts(&chain["filters"][0]["typed_config"]["http_filters"], "name");
        let places = wanted.map(|name| filters.iter().position(|filter| filter == name));
        assert!(places[0].is_some() && places[0] < places[1], "{filters:?}");
    }
    let routes = find(&resources.routes, "ingress|443|wide").to_string();
    assert!(wanted.iter().all(|name| routes.contains(name)), "{routes}");
    for name in ["ext-proc|80|billing.shop.svc.cluster.local", "rate-limit|80|grpc|billing.shop.svc.cluster.local"] {
        find(&resources.clusters, name);
    }
}

#[test]
fn a_private_key_is_in_no_text_of_the_index() {
    let index = super::index(&input("https"));
    let text = format!("{index:?}");
    assert!(text.contains("Pair(..)") && !text.contains("PRIVATE KEY"));
}

//! Hashes of requests, and latency, by which endpoints are chosen.

use serde_json::{Value, json};

use super::{Any, check, of_waypoint, render};

const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}, {name: tcp, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: b}, ports: [{name: http, port: 80}]}
"#
);

/// A TrafficPolicy of a Service of the same name.
fn policy(name: &str, balancing: &str) -> String {
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {name}}}], loadBalancing: {{{balancing}}}}}\n"
    )
}

/// A DestinationRule of Service `a`.
fn rule(hash: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: shop}}\n\
         spec: {{host: a, trafficPolicy: {{loadBalancer: {{consistentHash: {{{hash}}}}}}}}}\n"
    )
}

/// A route of Service `a` to both.
const SPLIT: &str = r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: a, port: 80}]
  rules: [{backendRefs: [{name: a, port: 80}, {name: b, port: 80}]}]
"#;

fn found(resources: &[(String, Any)], name: &str) -> Value {
    let (_, resource) = resources.iter().find(|(known, _)| known == name).unwrap();
    render(resource)
}

/// The policy of a cluster with its settings.
fn balanced(objects: &str, cluster: &str) -> (Value, Value, Value) {
    let cluster = found(&of_waypoint(&format!("{AROUND}{objects}")).clusters, cluster);
    (cluster["lb_policy"].clone(), cluster["ring_hash_lb_config"].clone(), cluster["maglev_lb_config"].clone())
}

/// What the requests of the first route of Service `a` are hashed by.
fn hashed(objects: &str) -> Value {
    let resources = of_waypoint(&format!("{AROUND}{objects}"));
    found(&resources.routes, REQUESTS)["virtual_hosts"][0]["routes"][0]["route"]["hash_policy"].clone()
}

const REQUESTS: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const BYTES: &str = "inbound-vip|81|tcp|a.shop.svc.cluster.local";

fn header(name: &str) -> Value {
    json!({"header": {"header_name": name}})
}

#[test]
fn golden_hashes() {
    check("hashes", |kind, name| kind == "routes" || kind == "clusters" && name.starts_with("inbound-vip|"));
}

#[test]
fn requests_are_hashed_where_hashes_lead_to_endpoints_and_connections_take_turns() {
    let by_user = policy("a", "policy: RingHash, hashOn: [{header: x-user}]");
    assert_eq!(balanced(&by_user, REQUESTS), (json!("RING_HASH"), Value::Null, Value::Null));
    assert_eq!(balanced(&by_user, BYTES), (Value::Null, Value::Null, Value::Null));
    assert_eq!(hashed(&by_user), json!([header("x-user")]));
    let all = policy(
        "a",
        "policy: Maglev, hashOn: [{cookie: {name: c, ttl: 1m}}, {cookie: {name: d}}, {queryParameter: q}, {sourceIP: true}]",
    );
    assert_eq!(balanced(&all, REQUESTS).0, "MAGLEV");
    let expected = json!([
        {"cookie": {"name": "c", "path": "/", "ttl": "60s"}},
        {"cookie": {"name": "d", "path": "/"}},
        {"query_parameter": {"name": "q"}},
        {"connection_properties": {"source_ip": true}},
    ]);
    assert_eq!(hashed(&all), expected);
    for objects in [String::new(), policy("a", "policy: PeakEwma"), policy("b", "policy: Maglev, hashOn: [{header: x}]")] {
        assert_eq!(hashed(&objects), Value::Null, "{objects}");
    }
}

#[test]
fn a_rule_with_a_consistent_hash_is_carried_out_as_by_istio() {
    let ring = |places: u64| (json!("RING_HASH"), json!({"minimum_ring_size": places}), Value::Null);
    let maglev = |places: u64| (json!("MAGLEV"), Value::Null, json!({"table_size": places}));
    for (said, expected) in [
        ("minimumRingSize: 64", ring(64)),
        ("ringHash: {minimumRingSize: 32}, minimumRingSize: 64", ring(32)),
        ("maglev: {tableSize: 251}", maglev(251)),
        // What cannot be is as if it were not said.
        ("ringHash: {minimumRingSize: -1}", (json!("RING_HASH"), Value::Null, Value::Null)),
        ("maglev: {tableSize: 100}", (json!("MAGLEV"), Value::Null, Value::Null)),
    ] {
        let objects = rule(&format!("httpHeaderName: x-user, {said}"));
        assert_eq!(balanced(&objects, REQUESTS), expected, "{said}");
        assert_eq!(hashed(&objects), json!([header("x-user")]), "{said}");
    }
    for (said, expected) in [
        ("useSourceIp: true", json!([{"connection_properties": {"source_ip": true}}])),
        ("httpQueryParameterName: q", json!([{"query_parameter": {"name": "q"}}])),
        ("httpCookie: {name: c}", json!([{"cookie": {"name": "c"}}])),
        (
            "httpCookie: {name: c, path: /a, ttl: 90s, attributes: [{name: Secure}, {name: 'a;b'}]}",
            json!([{"cookie": {"name": "c", "path": "/a", "ttl": "90s", "attributes": [{"name": "Secure"}]}}]),
        ),
    ] {
        assert_eq!(hashed(&rule(said)), expected, "{said}");
    }
    for nothing in ["", "useSourceIp: false", "httpHeaderName: 'a b'", "maglev: {}"] {
        assert_eq!(balanced(&rule(nothing), REQUESTS), (Value::Null, Value::Null, Value::Null), "{nothing}");
        assert_eq!(hashed(&rule(nothing)), Value::Null, "{nothing}");
    }
}

#[test]
fn a_route_to_several_services_hashes_by_all_that_they_ask_for() {
    let (a, b) = (
        policy("a", "policy: RingHash, hashOn: [{header: x}]"),
        policy("b", "policy: Maglev, hashOn: [{header: y}, {header: x}]"),
    );
    assert_eq!(hashed(&format!("{SPLIT}{a}{b}")), json!([header("x"), header("y")]));
    assert_eq!(hashed(&format!("{SPLIT}{b}")), json!([header("y"), header("x")]));
}

#[test]
fn who_knows_nothing_of_latency_goes_by_what_is_under_way() {
    let by_latency = policy("a", "policy: PeakEwma");
    let resources = of_waypoint(&format!("{AROUND}{by_latency}"));
    for (name, told) in [(REQUESTS, json!("peak_ewma")), (BYTES, Value::Null)] {
        let cluster = found(&resources.clusters, name);
        assert_eq!(cluster["lb_policy"], "LEAST_REQUEST");
        let own = &cluster["metadata"]["filter_metadata"]["io.ambit"];
        assert_eq!((&own["load_balancing"], &own["service"]), (&told, &json!("shop/a")), "{name}");
    }
}

//! Parts of a Service that a DestinationRule names and a VirtualService leads to.

use serde_json::{Value, json};

use super::{index, of_waypoint, render};
use crate::index::ServiceRef;
use crate::source::NamespacedName;

const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: shop, labels: {app: a}}
spec: {address: 192.0.2.7, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: shop}
spec:
  hosts: [a]
  http:
  - match: [{uri: {prefix: /new}}]
    route: [{destination: {host: a, subset: v2}}]
    mirror: {host: a, subset: all}
  - route: [{destination: {host: a, subset: v1}, weight: 3}, {destination: {host: a}, weight: 1}]
"#
);
const WHOLE: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const V1: &str = "inbound-vip|80|http/v1|a.shop.svc.cluster.local";
const V2: &str = "inbound-vip|80|http/v2|a.shop.svc.cluster.local";
const ALL: &str = "inbound-vip|80|http/all|a.shop.svc.cluster.local";

/// Two pods of one version and one of another, and these objects.
fn mesh(objects: &str) -> String {
    let pod = |at: u8, version: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a-{at}, namespace: shop, labels: {{app: a, version: {version}}}}}\n\
             spec: {{serviceAccountName: a, nodeName: node-1, containers: [{{name: c, image: i}}]}}\n\
             status: {{podIPs: [{{ip: 10.244.1.{at}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        )
    };
    [AROUND, &pod(1, "v1"), &pod(2, "v1"), &pod(3, "v2"), objects].concat()
}

/// The rule of the host, with this besides its three subsets.
fn rule(more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: shop}}\n\
         spec: {{host: a, subsets: [{{name: v1, labels: {{version: v1}}{more}}}, {{name: v2, labels: {{version: v2}}}}, {{name: all}}],\n  \
         trafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: 9}}}}, loadBalancer: {{simple: RANDOM}}}}}}\n"
    )
}

/// The last parts of the addresses of a cluster's endpoints.
fn endpoints(objects: &str, name: &str) -> Vec<String> {
    let resources = of_waypoint(&mesh(objects));
    let (_, found) = resources.endpoints.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}"));
    let found = render(found)["endpoints"][0]["lb_endpoints"].clone();
    let address = |one: &Value| one["endpoint"]["address"]["socket_address"]["address"].as_str().unwrap().to_owned();
    found.as_array().map(|all| all.iter().map(address).collect()).unwrap_or_default()
}

fn cluster(objects: &str, name: &str) -> Value {
    let resources = of_waypoint(&mesh(objects));
    render(&resources.clusters.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1)
}

#[test]
fn requests_are_led_to_the_endpoints_of_a_subset_alone() {
    let rule = rule("");
    let resources = of_waypoint(&mesh(&rule));
    let (_, table) = resources.routes.iter().find(|(name, _)| name == WHOLE).unwrap();
    let routes = render(table)["virtual_hosts"][0]["routes"].clone();
    assert_eq!(
        (&routes[0]["route"]["cluster"], &routes[0]["route"]["request_mirror_policies"][0]["cluster"]),
        (&json!(V2), &json!(ALL))
    );
    let weighted = routes[1]["route"]["weighted_clusters"]["clusters"].as_array().unwrap();
    let shares: Vec<_> = weighted.iter().map(|one| (one["name"].as_str().unwrap(), one["weight"].as_u64())).collect();
    assert_eq!(shares, [(V1, Some(3)), (WHOLE, Some(1))]);
    assert_eq!(endpoints(&rule, V1), ["10.244.1.1", "10.244.1.2"]);
    assert_eq!(endpoints(&rule, V2), ["10.244.1.3", "192.0.2.7"]);
    for all in [ALL, WHOLE] {
        assert_eq!(endpoints(&rule, all), ["10.244.1.1", "10.244.1.2", "10.244.1.3", "192.0.2.7"]);
    }
    assert_eq!(cluster(&rule, V1)["metadata"]["filter_metadata"]["io.ambit"]["service"], "shop/a");
}

#[test]
fn a_subset_that_nobody_leads_to_has_no_cluster_and_one_that_is_not_there_no_endpoints() {
    let resources = of_waypoint(&mesh(""));
    assert!(resources.clusters.iter().all(|(name, _)| !name.contains("http/")), "{:?}", resources.clusters);
    let (_, table) = resources.routes.iter().find(|(name, _)| name == WHOLE).unwrap();
    assert_eq!(render(table)["virtual_hosts"][0]["routes"][0]["route"]["cluster"], "invalid-backend");
}

#[test]
fn what_is_asked_of_a_subset_comes_before_what_is_asked_of_its_host() {
    let own = rule(", trafficPolicy: {connectionPool: {http: {http2MaxRequests: 4}}}");
    let asked = |rule: &str, name: &str| {
        let found = cluster(rule, name);
        (found["circuit_breakers"]["thresholds"][0]["max_requests"].clone(), found["lb_policy"].clone())
    };
    assert_eq!(asked(&own, V1), (json!(4), json!("RANDOM")), "what it does not say is the host's");
    for other in [V2, WHOLE] {
        assert_eq!(asked(&own, other), (json!(9), json!("RANDOM")), "{other}");
    }
    let of_port = rule(", trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: LEAST_REQUEST}}]}");
    assert_eq!(asked(&of_port, V1), (json!(u32::MAX), json!("LEAST_REQUEST")), "what is said of a port inherits nothing");
    let policy = "---\napiVersion: ambit.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: a}], limits: {requests: 7}}\n";
    assert_eq!(asked(&format!("{own}{policy}"), V1), (json!(7), Value::Null), "a TrafficPolicy comes before the rule");
}

#[test]
fn the_endpoints_of_a_subset_are_among_those_of_its_service_alone() {
    let index = index(&mesh(&rule("")));
    let service = ServiceRef::Kubernetes(NamespacedName::new("shop", "a"));
    let alone = super::super::assignments(&index, &service);
    let whole = of_waypoint(&mesh(&rule("")));
    for name in [V1, V2, ALL, WHOLE] {
        let in_whole = whole.endpoints.iter().find(|(known, _)| known == name);
        assert!(in_whole.is_some() && alone.iter().find(|(known, _)| known == name) == in_whole, "{name}");
    }
}

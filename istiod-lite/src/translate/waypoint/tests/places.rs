//! Endpoints by where they and the waypoint run.

use serde_json::{Value, json};

use super::{index, render};
use crate::source::NamespacedName;
use crate::translate::waypoint::{Place, Resources, translate_for};

const AROUND: &str = with_waypoint!("");
const CLUSTER: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
/// The nodes, in their order, each with a pod.
const NODES: [(&str, &str); 5] = [("east", "a"), ("east", "a"), ("east", "b"), ("west", "a"), ("north", "a")];
/// What all see of whom it is not known where they are.
const ALIKE: &str = "0 east/a: 1 2; 0 east/b: 3; 0 north/a: 5; 0 west/a: 4";
const NOBODY_ASKS: &str = "0: 1 2 3 4 5";

/// A Service with this besides its port, a pod on each node, and these objects.
fn resources(service: &str, objects: &str) -> Resources {
    let mut yaml = AROUND.to_owned();
    for (at, (region, zone)) in (1..).zip(NODES) {
        yaml += &format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{at}, labels: {{topology.kubernetes.io/region: {region}, \
             topology.kubernetes.io/zone: {zone}}}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: a-{at}, namespace: shop, labels: {{app: a}}}}\n\
             spec: {{serviceAccountName: a, nodeName: n{at}, containers: [{{name: c, image: i}}]}}\n\
             status: {{podIPs: [{{ip: 10.244.1.{at}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        );
    }
    yaml += &format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.10, selector: {{app: a}}, ports: [{{name: http, port: 80}}]{service}}}\n{objects}"
    );
    let index = index(&yaml);
    let places: Vec<Place> = (1..=NODES.len()).map(|at| Place::of_node(&index, &format!("n{at}")).unwrap()).collect();
    translate_for(&index, &NamespacedName::new("shop", "waypoint"), &places).unwrap()
}

/// The endpoints as a waypoint on the node sees them, or one of which nothing is known (0): the priority of each group, where it is, its
/// share if it has one, and the last parts of its addresses.
fn seen(resources: &Resources, node: usize) -> String {
    let everywhere = || resources.endpoints.iter().find(|(name, _)| name == CLUSTER).map(|(_, body)| body);
    let there = node.checked_sub(1).and_then(|at| {
        let (region, zone) = NODES[at];
        let placed = resources.placed.get(CLUSTER)?;
        placed.iter().find(|(place, _)| **place == *format!("{region}/{zone}//n{node}")).map(|(_, body)| body)
    });
    let groups = render(there.or_else(everywhere).unwrap())["endpoints"].clone();
    let group = |group: &Value| {
        let part = |part: &str| group["locality"][part].as_str().unwrap_or_default().to_owned();
        let place = [part("region"), part("zone")].join("/");
        let place = if place == "/" { String::new() } else { format!(" {place}") };
        let share = group["load_balancing_weight"].as_u64().map(|share| format!(" *{share}")).unwrap_or_default();
        let last = |endpoint: &Value| {
            let address = endpoint["endpoint"]["address"]["socket_address"]["address"].as_str().unwrap();
            address.rsplit('.').next().unwrap().to_owned()
        };
        let endpoints: Vec<String> = group["lb_endpoints"].as_array().unwrap().iter().map(last).collect();
        format!("{}{place}{share}: {}", group["priority"].as_u64().unwrap_or(0), endpoints.join(" "))
    };
    groups.as_array().map(|groups| groups.iter().map(group).collect::<Vec<_>>().join("; ")).unwrap_or_default()
}

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{targetRefs: [{{kind: Service, name: a}}], {spec}}}\n"
    )
}

fn rule(setting: &str, more: &str) -> Resources {
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: shop}}\n\
         spec: {{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{{setting}}}}}{more}}}}}\n"
    );
    resources("", &rule)
}

#[test]
fn where_nobody_asks_all_endpoints_are_of_no_place_and_all_waypoints_are_sent_the_same() {
    let made = resources("", &policy("outlierDetection: {}"));
    assert_eq!(seen(&made, 0), NOBODY_ASKS);
    assert!(made.placed.is_empty(), "{:?}", made.placed.keys());
}

#[test]
fn a_service_prefers_its_waypoints_zone_or_node() {
    let close = resources(", trafficDistribution: PreferClose", "");
    assert_eq!(seen(&close, 0), ALIKE);
    assert_eq!(seen(&close, 1), "0 east/a: 1 2; 1 east/b: 3; 2 north/a: 5; 2 west/a: 4");
    assert_eq!(seen(&close, 4), "0 west/a: 4; 1 east/a: 1 2; 1 east/b: 3; 1 north/a: 5");
    let node = resources(", trafficDistribution: PreferSameNode", "");
    assert_eq!(seen(&node, 1), "0 east/a: 1; 1 east/a: 2; 2 east/b: 3; 3 north/a: 5; 3 west/a: 4");
}

#[test]
fn a_policy_has_others_take_over_where_failures_are_found() {
    let asked = |spec: &str| resources("", &policy(spec));
    let near = "0 east/b: 3; 1 east/a: 1 2; 2 north/a: 5; 2 west/a: 4";
    assert_eq!(seen(&asked("loadBalancing: {locality: {failover: true}}, outlierDetection: {}"), 3), near);
    assert_eq!(seen(&asked("loadBalancing: {locality: {failover: true}}, healthCheck: {tcp: {}}"), 3), near);
    assert_eq!(seen(&asked("loadBalancing: {locality: {failover: true}}"), 3), NOBODY_ASKS);
    // It comes before what the Service says.
    let off = resources(", trafficDistribution: PreferClose", &policy("loadBalancing: {locality: {failover: false}}"));
    assert_eq!(seen(&off, 3), NOBODY_ASKS);
    let silent = resources(", trafficDistribution: PreferClose", &policy("outlierDetection: {}"));
    assert_eq!(seen(&silent, 3), near);
}

#[test]
fn a_destination_rule_says_which_region_takes_over_or_by_which_labels() {
    const FINDS: &str = ", outlierDetection: {}";
    assert_eq!(seen(&rule("enabled: true", FINDS), 4), "0 west/a: 4; 1 east/a: 1 2; 1 east/b: 3; 1 north/a: 5");
    let to_north = "failover: [{from: west, to: north}]";
    assert_eq!(seen(&rule(to_north, FINDS), 4), "0 west/a: 4; 1 north/a: 5; 2 east/a: 1 2; 2 east/b: 3");
    let twice = rule("failover: [{from: west, to: north}, {from: west, to: east}]", FINDS);
    assert_eq!(seen(&twice, 4), seen(&rule(to_north, FINDS), 4), "the first holds");
    assert_eq!(seen(&rule(to_north, ""), 4), NOBODY_ASKS, "nobody is found to fail");
    assert_eq!(seen(&rule(&format!("enabled: false, {to_north}"), FINDS), 4), NOBODY_ASKS);
    let by_node = rule("failoverPriority: [kubernetes.io/hostname]", FINDS);
    assert_eq!(seen(&by_node, 1), "0 east/a: 1; 1 east/a: 2; 1 east/b: 3; 1 north/a: 5; 1 west/a: 4");
    let by_value = rule("failoverPriority: [topology.kubernetes.io/zone=b]", FINDS);
    assert_eq!(seen(&by_value, 4), "0 east/b: 3; 1 east/a: 1 2; 1 north/a: 5; 1 west/a: 4");
}

#[test]
fn a_destination_rule_gives_places_shares() {
    let made = rule("distribute: [{from: east/a/*, to: {east/a/*: 80, west/*: 20}}, {from: west, to: {\"*\": 100}}]", "");
    assert_eq!(seen(&made, 1), "0 east/a *80: 1 2; 0 west/a *20: 4");
    assert_eq!(seen(&made, 4), "0 east/a *40: 1 2; 0 east/b *20: 3; 0 north/a *20: 5; 0 west/a *20: 4");
    // Of where nothing is said, and of where it is not known, all endpoints are alike.
    let alike = "0 east/a *2: 1 2; 0 east/b *1: 3; 0 north/a *1: 5; 0 west/a *1: 4";
    assert_eq!((seen(&made, 3), seen(&made, 0)), (alike.to_owned(), alike.to_owned()));
    let weighted = |resources: &Resources| {
        let (_, cluster) = resources.clusters.iter().find(|(name, _)| name == CLUSTER).unwrap();
        render(cluster)["common_lb_config"].clone()
    };
    assert_eq!(weighted(&made), json!({"locality_weighted_lb_config": {}}));
    assert_eq!(weighted(&rule("enabled: true", "")), Value::Null);
}

use super::*;
use crate::local::topology::PodFacts;

fn pod(workload: &str, account: &str, address: &str, waypoint: bool) -> PodFacts {
    PodFacts {
        workload: workload.into(),
        service_account: account.into(),
        node: "node-1".into(),
        addresses: vec![address.parse().unwrap()],
        stats: None,
        ready: true,
        enrolled: true,
        captured: true,
        guarded: true,
        waypoint,
        services: Vec::new(),
    }
}

fn topology() -> Topology {
    let mut topology = Topology::default();
    let mut add = |namespace: &str, name: &str, facts| topology.pods.insert(NamespacedName::new(namespace, name), facts);
    add("shop", "api-1", pod("api", "api", "10.244.1.2", false));
    add("billing", "billing-v1", pod("billing", "billing", "10.244.2.2", false));
    add("billing", "waypoint", pod("waypoint", "waypoint", "10.244.2.3", true));
    topology
}

fn line(text: &str) -> AccessLine {
    AccessLine::parse(&format!("2026-01-01T00:00:00Z access {text}")).unwrap()
}

fn only(sightings: &Sightings) -> (EdgeKey, Seen) {
    let keys: Vec<&EdgeKey> = sightings.keys().collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    (keys[0].clone(), sightings.get(keys[0]).unwrap())
}

const API: &str = "spiffe://cluster.local/ns/shop/sa/api";
const BILLING: &str = "spiffe://cluster.local/ns/billing/sa/billing";

fn through_the_waypoint(last_hop: &str) -> Sightings {
    let (mut sightings, topology) = (Sightings::default(), topology());
    let first = line(&format!(
        "direction=outbound src.addr=10.244.1.2:4000 src.workload=api-1 src.namespace=shop src.identity={API} \
         dst.addr=10.96.0.1:8080 dst.workload=waypoint dst.namespace=billing dst.service=billing.billing.svc.cluster.local \
         dst.identity=spiffe://cluster.local/ns/billing/sa/waypoint reason=ok duration_ms=3.0 security=mutual_tls"
    ));
    sightings.take("ztunnel/node-1", &first, &topology);
    let second = line(&format!(
        "direction=inbound src.addr=10.244.1.2:4000 src.identity={API} dst.addr=10.244.2.2:8080 dst.workload=billing-v1 \
         dst.namespace=billing dst.service=billing.billing.svc.cluster.local dst.identity={BILLING} reason=ok \
         duration_ms=2.0 security={last_hop} method=POST status=200"
    ));
    sightings.take("waypoint/billing/waypoint", &second, &topology);
    sightings
}

#[test]
fn an_edge_through_a_waypoint_ends_at_the_workload_behind_it() {
    let (key, seen) = only(&through_the_waypoint("mutual_tls"));
    assert_eq!((key.source.to_string(), key.destination.to_string()), ("shop/api".into(), "billing/billing".into()));
    assert_eq!(seen.source_identity.as_deref(), Some(API));
    assert_eq!(seen.destination_identity.as_deref(), Some(BILLING));
    assert_eq!(seen.via.as_deref(), Some("billing/waypoint"));
    assert_eq!((seen.connections, seen.protection.mutual_tls), (1, 2));
    assert!(Edge::new(&key, None, Some(seen.clone())).encrypted);
}

#[test]
fn one_hop_in_clear_makes_the_edge_not_encrypted() {
    let (key, seen) = only(&through_the_waypoint("none"));
    assert!(!Edge::new(&key, None, Some(seen.clone())).encrypted);
    assert!(!Edge::new(&key, None, None).encrypted);
}

#[test]
fn a_refusal_keeps_its_reason_and_policy() {
    let mut sightings = Sightings::default();
    let refused = line(&format!(
        "direction=inbound src.addr=10.244.1.2:4000 src.identity={API} dst.addr=10.244.2.2:8080 dst.workload=billing-v1 \
         dst.namespace=billing policy=billing/no reason=policy_denied_explicit duration_ms=0.1 security=mutual_tls error=\"a sentence\""
    ));
    sightings.take("ztunnel/node-2", &refused, &topology());
    let (key, seen) = only(&sightings);
    let edge = Edge::new(&key, None, Some(seen.clone()));
    let refusal = edge.refusal.unwrap();
    assert_eq!((refusal.reason.as_str(), refusal.policy.as_deref()), ("policy_denied_explicit", Some("billing/no")));
    assert_eq!((refusal.by.as_str(), refusal.detail.as_deref()), ("ztunnel/node-2", Some("a sentence")));
    assert!(!edge.encrypted, "nothing was carried");
}

#[test]
fn both_ends_of_a_refusal_are_kept_with_the_words_of_the_one_that_decided() {
    let ends = |policy: &str| {
        let line_of = |direction: &str, words: &str| {
            line(&format!(
                "direction={direction} src.addr=10.244.1.2:4000 src.identity={API} dst.addr=10.244.2.2:8080 dst.workload=billing-v1 \
                 dst.namespace=billing policy={policy} reason=policy_denied_explicit security=mutual_tls error=\"{words}\""
            ))
        };
        [("ztunnel/node-2", line_of("inbound", "by rule")), ("ztunnel/node-1", line_of("outbound", "answered 401"))]
    };
    let [server, caller] = ends("billing/no");
    for order in [[&server, &caller, &server], [&caller, &server, &caller]] {
        let mut sightings = Sightings::default();
        order.into_iter().for_each(|(proxy, line)| sightings.take(proxy, line, &topology()));
        let refusal = only(&sightings).1.refusal.unwrap();
        assert_eq!((refusal.by.as_str(), refusal.detail.as_deref()), ("ztunnel/node-2", Some("by rule")));
        assert_eq!(refusal.seen_by.iter().map(String::as_str).collect::<Vec<_>>(), ["ztunnel/node-1", "ztunnel/node-2"]);
        let [_, (proxy, other)] = ends("billing/another");
        sightings.take(proxy, &other, &topology());
        let refusal = only(&sightings).1.refusal.unwrap();
        assert_eq!((refusal.by.as_str(), refusal.seen_by.len()), ("ztunnel/node-1", 1), "another policy is another refusal");
    }
}

#[test]
fn a_refusal_without_names_is_told_by_the_address_dialled() {
    let (mut sightings, mut topology) = (Sightings::default(), topology());
    topology.services.insert(NamespacedName::new("billing", "billing"), vec!["10.96.0.11".parse().unwrap()]);
    let refused = line(&format!(
        "direction=inbound src.addr=10.244.1.2:4000 src.identity={API} dst.addr=10.96.0.11:8080 policy=billing/no \
         reason=policy_denied_explicit security=mutual_tls status=403"
    ));
    sightings.take("waypoint/billing/waypoint", &refused, &topology);
    let (key, seen) = only(&sightings);
    assert_eq!(key.destination.to_string(), "billing/billing");
    assert_eq!(seen.refusal.unwrap().policy.as_deref(), Some("billing/no"));
}

#[test]
fn the_callers_own_counts_go_before_connections() {
    let (key, seen) = only(&through_the_waypoint("mutual_tls"));
    let counted = EdgeStats { protocol: "http".into(), requests: 50, errors: 1, ..EdgeStats::default() };
    let edge = Edge::new(&key, Some(&counted), Some(seen.clone()));
    assert_eq!((edge.protocol.as_str(), edge.requests, edge.errors), ("http", 50, 1));
    let edge = Edge::new(&key, None, Some(seen.clone()));
    assert_eq!((edge.protocol.as_str(), edge.requests, edge.p50_ms), ("tcp", 1, Some(3.0)));
}

#[test]
fn what_a_waypoint_reached_is_known_from_the_metrics_of_the_pods_node() {
    let mut sightings = through_the_waypoint("mutual_tls");
    let mut topology = topology();
    let billing = NamespacedName::new("billing", "billing-v1");
    topology.pods.get_mut(&billing).unwrap().services = vec![NamespacedName::new("billing", "billing")];
    let key = only(&sightings).0;
    sightings.seen.get_mut(&key).unwrap().destination_identity = None;
    let text = "opened{reporter=\"destination\",source_workload=\"waypoint\",source_workload_namespace=\"billing\",\
                destination_workload=\"billing-v1\",destination_workload_namespace=\"billing\",\
                destination_principal=\"cluster.local/ns/billing/sa/billing\"} 1";
    let sample = crate::local::scrape::samples(text, "opened").next().unwrap();
    sightings.take_opened(&sample, 1, &topology);
    assert_eq!(sightings.get(&key).unwrap().destination_identity.as_deref(), Some(BILLING));
}

#[test]
fn connections_that_are_open_at_a_reset_stay_encrypted() {
    let mut sightings = through_the_waypoint("mutual_tls");
    sightings.reset();
    let (key, seen) = only(&sightings);
    assert_eq!(seen.connections, 0);
    let edge = Edge::new(&key, None, Some(seen));
    assert!(edge.encrypted, "{edge:?}");
}

//! What the proxy has itself seen decides among equals.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::*;

/// Connections and rests by the names of endpoints.
#[derive(Debug, Default)]
struct Seen {
    open: BTreeMap<&'static str, u32>,
    rested: BTreeMap<&'static str, Instant>,
}

fn name(endpoint: &Uid) -> &str {
    endpoint.as_str().rsplit('/').next().unwrap()
}

impl Observed for Seen {
    fn open(&self, endpoint: &Uid) -> u32 {
        self.open.get(name(endpoint)).copied().unwrap_or_default()
    }

    fn rested(&self, endpoint: &Uid, port: u16) -> Option<Instant> {
        assert!([8080, port::HBONE].contains(&port), "it is the port of the endpoint or waypoint that is rested");
        self.rested.get(name(endpoint)).copied()
    }

    fn resolved(&self, _: &str) -> Name {
        Name::Unknown
    }
}

fn two() -> MeshState {
    let other = endpoint_of(workload("other", "10.0.0.3"), "api");
    state(vec![api(), other], vec![service("api", &["10.96.0.1"])])
}

/// How often each endpoint is chosen in 1000 times.
fn shares(state: &MeshState, seen: &Seen) -> BTreeMap<String, usize> {
    let source = web();
    let mut shares = BTreeMap::new();
    for n in 0..1000_u64 {
        let random = further(n);
        let destination = "10.96.0.1:80".parse().unwrap();
        let plan = hbone(plan(state, Request { source: &source, destination, random, avoid: &[], observed: seen }));
        *shares.entry(plan.target.workload.unwrap().name.to_string()).or_default() += 1;
    }
    shares
}

#[test]
fn of_two_that_come_up_the_one_with_fewer_connections_is_chosen() {
    let seen = Seen { open: [("api", 5), ("other", 4)].into(), ..Seen::default() };
    let shares = shares(&two(), &seen);
    assert!(shares["other"] > 850, "{shares:?}");
}

#[test]
fn connections_that_stay_are_spread_by_capacity() {
    let heavy = Workload { capacity: 3, ..api() };
    let other = endpoint_of(workload("other", "10.0.0.3"), "api");
    let state = state(vec![heavy, other], vec![service("api", &["10.96.0.1"])]);
    let source = web();
    let mut seen = Seen::default();
    for n in 0..400_u64 {
        let random = further(n);
        let destination = "10.96.0.1:80".parse().unwrap();
        let plan = hbone(plan(&state, Request { source: &source, destination, random, avoid: &[], observed: &seen }));
        let name = if &*plan.target.workload.unwrap().name == "api" { "api" } else { "other" };
        *seen.open.entry(name).or_default() += 1;
    }
    assert!((290..=310).contains(&seen.open["api"]), "{seen:?}");
}

#[test]
fn an_endpoint_that_is_rested_gets_nothing_as_long_as_another_does_not() {
    let now = Instant::now();
    let seen = Seen { rested: [("api", now)].into(), ..Seen::default() };
    assert_eq!(shares(&two(), &seen), [("other".to_owned(), 1000)].into());
    let earlier = Seen { rested: [("api", now), ("other", now + Duration::from_secs(1))].into(), ..Seen::default() };
    assert_eq!(shares(&two(), &earlier), [("api".to_owned(), 1000)].into(), "all are rested: the one that failed first");
}

#[test]
fn when_all_of_the_best_rank_are_rested_the_next_rank_is_used() {
    use crate::service::Scope;
    let lb = LoadBalancing { mode: Mode::Failover, preferences: vec![Scope::Node], allow_unhealthy: false };
    let far = Workload { node: "node-2".into(), ..endpoint_of(workload("far", "10.0.0.3"), "api") };
    let state = state(vec![api(), far], vec![Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) }]);
    assert_eq!(shares(&state, &Seen::default()), [("api".to_owned(), 1000)].into());
    let seen = Seen { rested: [("api", Instant::now())].into(), ..Seen::default() };
    assert_eq!(shares(&state, &seen), [("far".to_owned(), 1000)].into());
}

#[test]
fn a_weighted_waypoint_whose_replicas_are_rested_is_used_only_when_all_are() {
    let canary = endpoint_of(workload("canary", "10.0.0.8"), "canary");
    let waypoints = [(at(GatewayDestination::Service(key("gw"))), 90), (at_ip("10.0.0.8"), 10)];
    let state =
        state(vec![api(), gateway(), canary], vec![through(service("api", &["10.96.0.1"]), &waypoints), gateway_service()]);
    let both = shares(&state, &Seen::default());
    assert!(both["gw"] > 850 && both["canary"] > 50, "{both:?}");
    let now = Instant::now();
    let seen = Seen { rested: [("gw", now)].into(), ..Seen::default() };
    assert_eq!(shares(&state, &seen), [("canary".to_owned(), 1000)].into());
    let seen = Seen { rested: [("gw", now), ("canary", now + Duration::from_secs(1))].into(), ..Seen::default() };
    assert_eq!(shares(&state, &seen), [("gw".to_owned(), 1000)].into(), "all are rested: the one that failed first");
}

/// A proxy that decides at this moment.
#[derive(Debug)]
struct At(Instant);

impl Observed for At {
    fn open(&self, _: &Uid) -> u32 {
        0
    }

    fn rested(&self, _: &Uid, _: u16) -> Option<Instant> {
        None
    }

    fn resolved(&self, _: &str) -> Name {
        Name::Unknown
    }

    fn now(&self) -> Option<Instant> {
        Some(self.0)
    }
}

#[test]
fn an_address_that_a_pod_of_the_mesh_has_left_is_nobodys_until_somebody_is_told_of_or_a_minute_has_passed() {
    let plain = Workload { tunnel: Tunnel::None, ..workload("plain", "10.0.0.4") };
    let mut state = state(vec![web(), api(), plain], vec![]);
    let begun = Instant::now();
    let go = |state: &MeshState, destination: &str, seconds: u64| {
        let (destination, at) = (destination.parse().unwrap(), At(begun + Duration::from_secs(seconds)));
        plan(state, Request { source: &web(), destination, random: 0, avoid: &[], observed: &at })
    };
    for pod in ["api", "plain"] {
        state.vacate_address(&format!("Kubernetes//Pod/shop/{pod}"), begun);
    }
    for address in ["10.0.0.2:80", "[fd00::2]:80"] {
        match go(&state, address, 59) {
            Plan::Deny(denied) => assert_eq!(denied.refusal.reason, Reason::DestinationUnknown),
            other => panic!("{other:?}"),
        }
        assert!(matches!(go(&state, address, 60), Plan::Passthrough(_)));
    }
    assert!(matches!(go(&state, "10.0.0.4:80", 1), Plan::Passthrough(_)), "it went in clear before");
    state.insert_workload(workload("next", "10.0.0.2"));
    assert!(matches!(go(&state, "10.0.0.2:80", 1), Plan::Hbone(_)));
    // One that comes back elsewhere under its name has left its address too.
    let moved = workload("next", "10.0.0.9");
    state.note_moved(&moved, begun + Duration::from_secs(100));
    state.insert_workload(moved);
    assert!(matches!(go(&state, "10.0.0.2:80", 120), Plan::Deny(_)));
    assert!(matches!(go(&state, "10.0.0.9:80", 120), Plan::Hbone(_)));
}

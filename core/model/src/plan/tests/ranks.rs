//! Which endpoints are chosen, by where they are and what they can carry.

use std::collections::BTreeSet;

use super::*;
use crate::service::Scope;

/// The endpoints that some random number leads to.
fn reached(lb: LoadBalancing, endpoints: Vec<Workload>) -> BTreeSet<String> {
    let state = state(endpoints, vec![Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) }]);
    let name = |plan: Plan| match plan {
        Plan::Hbone(plan) => plan.target.workload.map(|w| w.name.to_string()),
        _ => None,
    };
    (0..64_u64).filter_map(|n| name(go(&state, &web(), "10.96.0.1:80", n << 58))).collect()
}

#[test]
fn endpoints_are_ranked_by_locality() {
    let endpoint = |name: &str, ip: &str, node: &str, zone: &str| {
        let mut workload = endpoint_of(workload(name, ip), "api");
        workload.node = node.into();
        workload.locality.zone = zone.into();
        workload
    };
    let all = || {
        vec![
            endpoint("near", "10.0.1.1", "node-1", ""),
            endpoint("zone", "10.0.1.2", "node-2", ""),
            endpoint("far", "10.0.1.3", "node-3", "z"),
        ]
    };
    let lb = |mode, preferences: &[Scope]| LoadBalancing { mode, preferences: preferences.to_vec(), allow_unhealthy: false };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(reached(lb(Mode::Any, &[]), all()), names(&["near", "zone", "far"]));
    assert_eq!(reached(lb(Mode::Failover, &[Scope::Zone, Scope::Node]), all()), names(&["near"]));
    assert_eq!(reached(lb(Mode::Failover, &[Scope::Zone]), all()), names(&["near", "zone"]));
    assert_eq!(reached(lb(Mode::Failover, &[Scope::Zone, Scope::Node]), all().split_off(1)), names(&["zone"]));
    assert_eq!(reached(lb(Mode::Failover, &[Scope::Zone]), all().split_off(2)), names(&["far"]));
    assert_eq!(reached(lb(Mode::Strict, &[Scope::Node]), all()), names(&["near"]));
    assert_eq!(reached(lb(Mode::Strict, &[Scope::Node]), all().split_off(1)), names(&[]));
    let scopes = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Cluster];
    assert_eq!(reached(lb(Mode::Strict, &scopes), all()), names(&["near", "zone"]));
}

#[test]
fn an_endpoint_that_did_not_answer_is_not_tried_again() {
    let other = endpoint_of(workload("other", "10.0.0.3"), "api");
    let state = state(vec![api(), other.clone()], vec![service("api", &["10.96.0.1"])]);
    let go = |avoid: &[Uid], random| {
        plan(
            &state,
            Request { source: &web(), destination: "10.96.0.1:80".parse().unwrap(), random, avoid, observed: &Unobserved },
        )
    };
    for random in [0, u64::MAX / 2, u64::MAX] {
        assert_eq!(hbone(go(&[api().uid], random)).target.workload.unwrap().uid, other.uid);
    }
    assert_eq!(denied(go(&[api().uid, other.uid.clone()], 0)), Reason::NoHealthyEndpoint);
}

#[test]
fn endpoints_share_by_capacity() {
    let picks = |random: u64| endpoint::weighted([3_u32, 0, 1].into_iter(), random);
    let first = (0..1000_u64).filter(|n| picks(n * (u64::MAX / 1000) + u64::MAX / 2000) == Some(0)).count();
    assert_eq!((first, picks(0), picks(u64::MAX)), (750, Some(0), Some(2)));
    assert_eq!(endpoint::weighted([0_u32].into_iter(), 0), None);
    assert!(endpoint::weighted([u32::MAX, u32::MAX].into_iter(), u64::MAX).is_some());
    let of = |name: &str, ip: &str, capacity| Workload { capacity, ..endpoint_of(workload(name, ip), "api") };
    let endpoints = vec![of("three", "10.0.1.1", 3), of("none", "10.0.1.2", 0), of("one", "10.0.1.3", 1)];
    let state = state(endpoints, vec![service("api", &["10.96.0.1"])]);
    let name =
        |n: u64| hbone(go(&state, &web(), "10.96.0.1:80", n * (u64::MAX / 1000) + u64::MAX / 2000)).target.workload.unwrap();
    let names: Vec<_> = (0..1000).map(|n| name(n).name.to_string()).collect();
    let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    assert_eq!((count("three"), count("none"), count("one")), (750, 0, 250));
}

/// A small world by numbers: endpoints in some places, some unfit, and what was tried and seen of them.
fn world(random: &mut impl FnMut(u64) -> u64) -> (Vec<Workload>, LoadBalancing, Vec<Uid>) {
    let scopes = [Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster, Scope::Network];
    let mut endpoints = Vec::new();
    let mut avoid = Vec::new();
    for number in 0..random(8) {
        let mut endpoint = endpoint_of(workload(&format!("e{number}"), &format!("10.0.1.{number}")), "api");
        let mut place = |name: &str| Arc::from(if random(3) == 0 { "" } else { name });
        endpoint.locality.region = place("r");
        endpoint.locality.zone = place("z");
        endpoint.locality.subzone = place("s");
        endpoint.node = place("node-1");
        endpoint.cluster = place("Kubernetes");
        if random(8) == 0 {
            endpoint.network = Network::from("far");
        }
        endpoint.healthy = random(4) > 0;
        endpoint.capacity = u32::try_from(random(4)).unwrap();
        if random(6) == 0 {
            avoid.push(endpoint.uid.clone());
        }
        endpoints.push(endpoint);
    }
    let mode = [Mode::Any, Mode::Strict, Mode::Failover][random(3) as usize];
    let preferences = (0..random(5)).map(|_| scopes[random(6) as usize]).collect();
    (endpoints, LoadBalancing { preferences, mode, allow_unhealthy: random(2) == 0 }, avoid)
}

#[test]
fn what_is_chosen_is_one_of_the_best_that_a_look_at_all_of_them_finds() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = further(seed);
        seed % below
    };
    let mut source = web();
    source.locality = crate::workload::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    let mut refused = 0;
    for round in 0..20_000_u64 {
        let (endpoints, lb, avoid) = world(&mut random);
        let api = Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) };
        let state = state(endpoints, vec![api.clone()]);
        let number = further(round);
        let destination = "10.96.0.1:80".parse().unwrap();
        let request = Request { source: &source, destination, random: number, avoid: &avoid, observed: &Unobserved };
        let usable: Vec<_> = candidates(&state, request, &api).filter(|candidate| candidate.verdict == Verdict::Usable).collect();
        let best = usable.iter().map(|candidate| candidate.rank).max();
        match plan(&state, request) {
            Plan::Hbone(plan) => {
                let chosen = plan.target.workload.unwrap();
                let found = usable.iter().find(|candidate| candidate.workload.uid == chosen.uid);
                assert_eq!(found.map(|candidate| candidate.rank), best, "{chosen:?} of {usable:?}");
                assert_eq!(found.and_then(|candidate| candidate.address), Some(plan.authority));
            }
            other => {
                assert_eq!((denied(other), usable.len()), (Reason::NoHealthyEndpoint, 0));
                refused += 1;
            }
        }
    }
    assert!((1000..19_000).contains(&refused), "the worlds are all alike: {refused}");
}

#[test]
fn a_choice_among_very_many_endpoints_looks_at_a_few() {
    let endpoints = (0..10_000_u32).map(|number| {
        let ip = std::net::Ipv4Addr::from(0x0a01_0000 + number);
        let mut endpoint = endpoint_of(workload(&format!("e{number}"), &ip.to_string()), "api");
        endpoint.node = format!("node-{}", number % 100).into();
        endpoint
    });
    let lb = LoadBalancing { mode: Mode::Failover, preferences: vec![Scope::Node], allow_unhealthy: false };
    let state = state(endpoints.collect(), vec![Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) }]);
    let looks = || endpoint::LOOKS.with(std::cell::Cell::get);
    let before = looks();
    for n in 0..1000_u64 {
        let plan = hbone(go(&state, &web(), "10.96.0.1:80", further(n)));
        assert_eq!(&*plan.target.workload.unwrap().node, "node-1");
    }
    assert!(looks() - before <= 4 * 1000, "{} looks for 1000 choices", looks() - before);
}

#[test]
fn a_refusal_says_what_is_wrong_with_the_endpoints() {
    let lb = LoadBalancing { mode: Mode::Strict, preferences: vec![Scope::Node], allow_unhealthy: false };
    let elsewhere = Workload { node: "node-2".into(), ..api() };
    let unready = Workload { healthy: false, ..endpoint_of(workload("other", "10.0.0.3"), "api") };
    let state = state(vec![elsewhere, unready], vec![Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) }]);
    let Plan::Deny(denied) = go(&state, &web(), "10.96.0.1:80", 0) else { panic!("it was let through") };
    assert_eq!(denied.refusal.reason, Reason::NoHealthyEndpoint);
    assert_eq!(
        denied.refusal.detail,
        "shop/api.shop.svc.cluster.local has no endpoint that may be used for port 80: 1 not ready, 1 not near enough"
    );
}

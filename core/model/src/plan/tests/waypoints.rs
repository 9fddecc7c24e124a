//! Waypoints: by which name, with which weight, and never gone around.

use super::*;

#[test]
fn a_service_with_a_waypoint_is_reached_through_it_with_the_address_that_was_dialled() {
    for waypoint in [at(GatewayDestination::Service(key("gw"))), at_ip("10.96.0.9"), at_ip("10.0.0.9")] {
        let api_service = through(service("api", &["10.96.0.1"]), &[(waypoint, 1)]);
        let state = state(vec![api(), gateway()], vec![api_service, gateway_service()]);
        let plan = hbone(go(&state, &web(), "10.96.0.1:80", 0));
        check(&plan, "10.0.0.9:15008", "10.96.0.1:80", &["gw"], Hop::Waypoint);
        // Which ports there are is the waypoint's to say.
        assert_eq!(hbone(go(&state, &web(), "10.96.0.1:81", 0)).hop, Hop::Waypoint);
    }
}

#[test]
fn the_waypoint_itself_goes_to_the_endpoints() {
    for waypoint in [at(GatewayDestination::Service(key("gw"))), at_ip("10.96.0.9"), at_ip("10.0.0.9")] {
        let api_service = through(service("api", &["10.96.0.1"]), &[(waypoint, 1)]);
        let state = state(vec![api(), gateway()], vec![api_service, gateway_service()]);
        check(&hbone(go(&state, &gateway(), "10.96.0.1:80", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
    }
}

#[test]
fn a_waypoint_that_is_missing_or_not_ready_is_never_gone_around() {
    let missing = [at(GatewayDestination::Service(key("nobody"))), at_ip("10.96.0.77")];
    for waypoint in missing {
        let api_service = through(service("api", &["10.96.0.1"]), &[(waypoint, 1)]);
        assert_eq!(denied(go(&state(vec![api()], vec![api_service]), &web(), "10.96.0.1:80", 0)), Reason::WaypointMissing);
    }
    let api_service = || through(service("api", &["10.96.0.1"]), &[(at(GatewayDestination::Service(key("gw"))), 1)]);
    let unready = Workload { healthy: false, ..gateway() };
    for gateways in [vec![], vec![unready]] {
        let workloads = [vec![api()], gateways].concat();
        let state = state(workloads, vec![api_service(), gateway_service()]);
        assert_eq!(denied(go(&state, &web(), "10.96.0.1:80", 0)), Reason::WaypointUnreachable);
    }
    let weightless = through(service("api", &["10.96.0.1"]), &[(at_ip("10.0.0.9"), 0)]);
    assert_eq!(denied(go(&state(vec![api(), gateway()], vec![weightless]), &web(), "10.96.0.1:80", 0)), Reason::WaypointMissing);
}

#[test]
fn a_pod_with_a_waypoint_is_reached_through_it_unless_the_waypoint_calls() {
    let guarded = Workload { waypoint: Some(at(GatewayDestination::Service(key("gw"))).into()), ..api() };
    let state = state(vec![guarded, gateway()], vec![gateway_service()]);
    check(&hbone(go(&state, &web(), "10.0.0.2:8080", 0)), "10.0.0.9:15008", "10.0.0.2:8080", &["gw"], Hop::Waypoint);
    check(&hbone(go(&state, &gateway(), "10.0.0.2:8080", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
    let lost = Workload { waypoint: Some(at_ip("10.96.0.77").into()), ..api() };
    assert_eq!(denied(go(&self::state(vec![lost], vec![]), &web(), "10.0.0.2:8080", 0)), Reason::WaypointMissing);
}

#[test]
fn a_waypoint_named_by_one_of_its_addresses_is_reached_at_the_other_where_the_client_lacks_the_family() {
    let guarded = Workload { waypoint: Some(at_ip("10.0.0.9").into()), ..api() };
    let api_service = || through(service("api", &["10.96.0.1", "fd96::1"]), &[(at_ip("10.0.0.9"), 1)]);
    let both = state(vec![guarded, gateway()], vec![api_service()]);
    let client = workload("web", "fd00::1");
    for to in ["[fd96::1]:80", "[fd00::2]:8080"] {
        check(&hbone(go(&both, &client, to, 0)), "[fd00::9]:15008", to, &["gw"], Hop::Waypoint);
        check(&hbone(go(&both, &web(), to, 0)), "10.0.0.9:15008", to, &["gw"], Hop::Waypoint);
    }
    let only_v4 = state(vec![api(), workload("gw", "10.0.0.9")], vec![api_service()]);
    assert_eq!(denied(go(&only_v4, &client, "[fd96::1]:80", 0)), Reason::WaypointUnreachable);
}

#[test]
fn weighted_waypoints_share_by_weight() {
    let canary = endpoint_of(workload("canary", "10.0.0.8"), "canary");
    let waypoints = [(at_ip("10.0.0.9"), 90), (at_ip("10.0.0.8"), 10)];
    let state = state(vec![api(), gateway(), canary], vec![through(service("api", &["10.96.0.1"]), &waypoints)]);
    let to_canary = (0..1000_u64).filter(|n| {
        hbone(go(&state, &web(), "10.96.0.1:80", n * (u64::MAX / 1000) + u64::MAX / 2000)).dial.ip().to_string() == "10.0.0.8"
    });
    assert_eq!(to_canary.count(), 100);
}

#[test]
fn a_waypoint_with_several_replicas_is_tried_on_another_one_and_never_gone_around() {
    let replica = |name: &str, ip: &str| endpoint_of(workload(name, ip), "gw");
    let gateways = vec![api(), replica("gw-1", "10.0.0.8"), replica("gw-2", "10.0.0.9")];
    let guarded = Workload { waypoint: Some(at_ip("10.96.0.9").into()), ..workload("db", "10.0.0.4") };
    let by_service = through(service("api", &["10.96.0.1"]), &[(at(GatewayDestination::Service(key("gw"))), 1)]);
    let state = state([gateways, vec![guarded]].concat(), vec![by_service, gateway_service()]);
    let source = web();
    for destination in ["10.96.0.1:80", "10.0.0.4:5432"] {
        let tried = |avoid: &[Uid]| {
            let destination = destination.parse().unwrap();
            plan(&state, Request { source: &source, destination, random: 0, avoid, observed: &Unobserved })
        };
        let first = hbone(tried(&[]));
        let avoid = [first.target.workload.clone().unwrap().uid.clone()];
        let second = hbone(tried(&avoid));
        assert!(first.chosen && second.chosen && first.dial != second.dial);
        assert_eq!((second.authority, second.hop), (destination.parse().unwrap(), Hop::Waypoint));
        let both = [avoid[0].clone(), second.target.workload.unwrap().uid.clone()];
        assert_eq!(denied(tried(&both)), Reason::WaypointUnreachable);
    }
}

#[test]
fn each_of_several_waypoints_goes_to_the_endpoints_whichever_comes_up() {
    let canary = endpoint_of(workload("canary", "10.0.0.8"), "canary");
    let waypoints = [(at_ip("10.0.0.9"), 50), (at_ip("10.0.0.8"), 50), (at_ip("10.0.0.7"), 0)];
    let retired = workload("retired", "10.0.0.7");
    let state =
        state(vec![api(), gateway(), canary.clone(), retired.clone()], vec![through(service("api", &["10.96.0.1"]), &waypoints)]);
    for source in [gateway(), canary, retired] {
        for random in [0, u64::MAX / 3, u64::MAX] {
            let plan = hbone(go(&state, &source, "10.96.0.1:80", random));
            check(&plan, "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
        }
    }
}

#[test]
fn the_share_of_a_waypoint_that_is_away_goes_to_another_one_that_takes_a_share() {
    let away = Workload { healthy: false, ..endpoint_of(workload("gw-1", "10.0.0.8"), "away") };
    let away_service = Service { ports: vec![port(15008, 15008)], ..service("away", &["10.96.0.8"]) };
    let waypoints = |other: u32| {
        let of = |name: &str| at(GatewayDestination::Service(key(name)));
        through(service("api", &["10.96.0.1"]), &[(of("away"), 10), (of("nobody"), 10), (of("gw"), other)])
    };
    let with =
        |other| state(vec![api(), gateway(), away.clone()], vec![waypoints(other), away_service.clone(), gateway_service()]);
    for random in [0, u64::MAX / 2, u64::MAX] {
        check(&hbone(go(&with(1), &web(), "10.96.0.1:80", random)), "10.0.0.9:15008", "10.96.0.1:80", &["gw"], Hop::Waypoint);
        let reason = denied(go(&with(0), &web(), "10.96.0.1:80", random));
        assert!(matches!(reason, Reason::WaypointUnreachable | Reason::WaypointMissing), "{reason}");
    }
}

#[test]
fn every_replica_of_every_weighted_waypoint_comes_up() {
    let replica = |name: &str, ip: &str, of: &str| endpoint_of(workload(name, ip), of);
    let ips = [("a1", "10.0.1.1", "a"), ("a2", "10.0.1.2", "a"), ("b1", "10.0.2.1", "b"), ("b2", "10.0.2.2", "b")];
    let replicas = ips.iter().map(|(name, ip, of)| replica(name, ip, of)).collect();
    let named = |name: &str| (at(GatewayDestination::Service(key(name))), 1);
    let services = vec![through(service("api", &["10.96.0.1"]), &[named("a"), named("b")]), service("a", &[]), service("b", &[])];
    let state = state(replicas, services);
    let mut count = std::collections::BTreeMap::<String, usize>::new();
    for n in 0..1000_u64 {
        let plan = hbone(go(&state, &web(), "10.96.0.1:80", n * (u64::MAX / 1000)));
        *count.entry(plan.target.workload.unwrap().name.to_string()).or_default() += 1;
    }
    assert!(count.len() == 4 && count.values().all(|times| (180..320).contains(times)), "{count:?}");
}

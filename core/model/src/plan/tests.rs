use std::collections::BTreeSet;

use super::*;
use crate::{
    address::{GatewayAddress, GatewayDestination, Network},
    service::{LoadBalancing, Scope, WeightedWaypoint},
    test_support::{endpoint_of, key, port, service, workload},
};

fn state(workloads: Vec<Workload>, services: Vec<Service>) -> MeshState {
    let mut state = MeshState::new();
    workloads.into_iter().for_each(|workload| state.insert_workload(workload));
    services.into_iter().for_each(|service| state.insert_service(service));
    state
}

fn web() -> Workload {
    workload("web", "10.0.0.1,fd00::1")
}

fn api() -> Workload {
    endpoint_of(workload("api", "10.0.0.2,fd00::2"), "api")
}

fn gateway() -> Workload {
    endpoint_of(workload("gw", "10.0.0.9,fd00::9"), "gw")
}

fn gateway_service() -> Service {
    Service { ports: vec![port(15008, 15008)], ..service("gw", &["10.96.0.9", "fd96::9"]) }
}

fn at(destination: GatewayDestination) -> GatewayAddress {
    GatewayAddress { destination, port: 15008 }
}

fn at_ip(ip: &str) -> GatewayAddress {
    at(GatewayDestination::Address(NetworkAddress::new(Network::default(), ip.parse().unwrap())))
}

fn through(mut service: Service, waypoints: &[(GatewayAddress, u32)]) -> Service {
    service.waypoints =
        waypoints.iter().map(|(waypoint, weight)| WeightedWaypoint { waypoint: waypoint.clone(), weight: *weight }).collect();
    service
}

fn go(state: &MeshState, source: &Workload, destination: &str, random: u64) -> Plan {
    plan(state, Request { source, destination: destination.parse().unwrap(), random, avoid: &[] })
}

#[track_caller]
fn hbone(plan: Plan) -> Hbone {
    match plan {
        Plan::Hbone(hbone) => *hbone,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn passthrough(plan: Plan) -> Passthrough {
    match plan {
        Plan::Passthrough(passthrough) => *passthrough,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn denied(plan: Plan) -> Reason {
    match plan {
        Plan::Deny(denied) => denied.refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(hbone: &Hbone, dial: &str, authority: &str, expected: &[&str], hop: Hop) {
    assert_eq!((hbone.dial.to_string().as_str(), hbone.authority.to_string().as_str(), hbone.hop), (dial, authority, hop));
    let ids: Vec<String> = hbone.expected.iter().map(|id| id.service_account().to_string()).collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_service_address_leads_to_an_endpoint_of_the_same_family() {
    let state = state(vec![api()], vec![service("api", &["10.96.0.1", "fd96::1"])]);
    check(&hbone(go(&state, &web(), "10.96.0.1:80", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
    check(&hbone(go(&state, &web(), "[fd96::1]:80", 0)), "[fd00::2]:15008", "[fd00::2]:8080", &["api"], Hop::Endpoint);
    check(&hbone(go(&state, &web(), "[::ffff:10.96.0.1]:80", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
    let plan = hbone(go(&state, &web(), "10.96.0.1:80", 0));
    assert_eq!(plan.target.service.unwrap().key, key("api"));
    assert_eq!(&*plan.target.workload.unwrap().name, "api");
}

#[test]
fn an_endpoint_without_an_address_of_the_family_is_reached_by_the_other() {
    let only_v4 = endpoint_of(workload("api", "10.0.0.2"), "api");
    let state = state(vec![only_v4], vec![service("api", &["fd96::1"])]);
    check(&hbone(go(&state, &web(), "[fd96::1]:80", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
}

#[test]
fn an_endpoint_outside_the_mesh_is_reached_in_plain_text() {
    let state = state(vec![Workload { tunnel: Tunnel::None, ..api() }], vec![service("api", &["10.96.0.1"])]);
    let plan = passthrough(go(&state, &web(), "10.96.0.1:80", 0));
    assert_eq!(plan.dial, "10.0.0.2:8080".parse().unwrap());
}

#[test]
fn an_endpoint_serves_the_port_it_says_before_the_port_of_the_service() {
    let mut own = api();
    own.services.insert(key("api"), vec![port(80, 9999)]);
    let named = Service { ports: vec![port(80, 0)], ..service("api", &["10.96.0.1"]) };
    let own = state(vec![own], vec![named.clone()]);
    assert_eq!(hbone(go(&own, &web(), "10.96.0.1:80", 0)).authority.port(), 9999);
    // A named port that the endpoint does not have.
    assert_eq!(denied(go(&state(vec![api()], vec![named]), &web(), "10.96.0.1:80", 0)), Reason::NoHealthyEndpoint);
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused() {
    let state = state(vec![api()], vec![service("api", &["10.96.0.1"])]);
    assert_eq!(denied(go(&state, &web(), "10.96.0.1:81", 0)), Reason::ServicePortUnknown);
}

#[test]
fn a_service_without_a_usable_endpoint_is_refused() {
    let api_service = || service("api", &["10.96.0.1"]);
    let other_network = Workload { network: Network::from("elsewhere"), ..api() };
    for endpoints in [
        vec![],
        vec![Workload { healthy: false, ..api() }],
        vec![Workload { capacity: 0, ..api() }],
        vec![other_network],
        vec![Workload { addresses: Vec::new(), ..api() }],
    ] {
        assert_eq!(denied(go(&state(endpoints, vec![api_service()]), &web(), "10.96.0.1:80", 0)), Reason::NoHealthyEndpoint);
    }
    let all = LoadBalancing { allow_unhealthy: true, ..LoadBalancing::default() };
    let lenient = Service { load_balancing: all, ..api_service() };
    hbone(go(&state(vec![Workload { healthy: false, ..api() }], vec![lenient]), &web(), "10.96.0.1:80", 0));
}

#[test]
fn the_identities_of_the_service_may_answer_too() {
    let also = vec!["spiffe://cluster.local/ns/shop/sa/vm".parse().unwrap(), api().identity];
    let state = state(vec![api()], vec![Service { subject_alt_names: also, ..service("api", &["10.96.0.1"]) }]);
    check(&hbone(go(&state, &web(), "10.96.0.1:80", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api", "vm"], Hop::Endpoint);
}

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
    let guarded = Workload { waypoint: Some(at(GatewayDestination::Service(key("gw")))), ..api() };
    let state = state(vec![guarded, gateway()], vec![gateway_service()]);
    check(&hbone(go(&state, &web(), "10.0.0.2:8080", 0)), "10.0.0.9:15008", "10.0.0.2:8080", &["gw"], Hop::Waypoint);
    check(&hbone(go(&state, &gateway(), "10.0.0.2:8080", 0)), "10.0.0.2:15008", "10.0.0.2:8080", &["api"], Hop::Endpoint);
    let lost = Workload { waypoint: Some(at_ip("10.96.0.77")), ..api() };
    assert_eq!(denied(go(&self::state(vec![lost], vec![]), &web(), "10.0.0.2:8080", 0)), Reason::WaypointMissing);
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
fn a_pod_address_is_reached_by_its_protocol_and_what_is_unknown_passes() {
    let plain = Workload { tunnel: Tunnel::None, ..workload("legacy", "10.0.0.3") };
    let state = state(vec![api(), plain], vec![]);
    check(&hbone(go(&state, &web(), "10.0.0.2:1234", 0)), "10.0.0.2:15008", "10.0.0.2:1234", &["api"], Hop::Endpoint);
    assert_eq!(passthrough(go(&state, &web(), "10.0.0.3:1234", 0)).dial, "10.0.0.3:1234".parse().unwrap());
    let unknown = passthrough(go(&state, &web(), "[2001:db8::1]:443", 0));
    assert_eq!(unknown.dial, "[2001:db8::1]:443".parse().unwrap());
    assert!(unknown.target.workload.is_none() && unknown.target.service.is_none());
}

#[test]
fn an_address_of_another_network_is_another_address() {
    let far = Workload { network: Network::from("elsewhere"), ..api() };
    passthrough(go(&state(vec![far], vec![]), &web(), "10.0.0.2:80", 0));
}

#[test]
fn the_proxys_own_ports_are_refused() {
    let state = MeshState::new();
    for port in [15001, 15006, 15008] {
        for ip in ["10.0.0.1", "127.0.0.1", "[fd00::1]", "[::1]"] {
            assert_eq!(denied(go(&state, &web(), &format!("{ip}:{port}"), 0)), Reason::LoopGuard);
        }
        passthrough(go(&state, &web(), &format!("192.0.2.1:{port}"), 0));
    }
}

#[test]
fn a_service_that_asks_to_keep_the_address_is_passed_through() {
    let lb = LoadBalancing { mode: Mode::Passthrough, ..LoadBalancing::default() };
    let state = state(vec![api()], vec![Service { load_balancing: lb, ..service("api", &["10.96.0.1"]) }]);
    assert_eq!(passthrough(go(&state, &web(), "10.96.0.1:80", 0)).dial, "10.96.0.1:80".parse().unwrap());
}

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
        plan(&state, Request { source: &web(), destination: "10.96.0.1:80".parse().unwrap(), random, avoid })
    };
    for random in [0, u64::MAX / 2, u64::MAX] {
        assert_eq!(hbone(go(&[api().uid], random)).target.workload.unwrap().uid, other.uid);
    }
    assert_eq!(denied(go(&[api().uid, other.uid.clone()], 0)), Reason::NoHealthyEndpoint);
}

#[test]
fn endpoints_share_by_capacity() {
    let items = [3_u32, 0, 1];
    let picks = |random: u64| endpoint::weighted(items.iter(), |weight| *weight, random).copied();
    let threes = (0..1000_u64).filter(|n| picks(n * (u64::MAX / 1000) + u64::MAX / 2000) == Some(3)).count();
    assert_eq!(threes, 750);
    assert_eq!((picks(0), picks(u64::MAX)), (Some(3), Some(1)));
    assert_eq!(endpoint::weighted([0_u32].iter(), |weight| *weight, 0), None);
    let heavy = [u32::MAX, u32::MAX];
    assert!(endpoint::weighted(heavy.iter(), |weight| *weight, u64::MAX).is_some());
}

#[test]
fn what_a_service_that_cannot_be_read_speaks_for_is_refused_and_never_passed_through() {
    let range = |ip: &str| (Network::default(), ip.parse().unwrap());
    let mut state = state(vec![web()], vec![]);
    state.insert_unreadable_address("shop/api.shop.svc.cluster.local", vec![range("10.96.0.1/32"), range("fd96::/112")]);
    for destination in ["10.96.0.1:80", "[::ffff:10.96.0.1]:80", "[fd96::7]:80"] {
        let Plan::Deny(denied) = go(&state, &web(), destination, 0) else { panic!("{destination} was let through") };
        assert_eq!(denied.refusal.reason, Reason::ConfigurationInvalid);
    }
    passthrough(go(&state, &web(), "10.96.0.2:80", 0));
    // It can be read after all.
    state.insert(crate::convert::Entry::Service(Box::new(service("api", &["10.96.0.3"]))));
    passthrough(go(&state, &web(), "10.96.0.1:80", 0));
    // Of what is held already, the version before stays in force.
    state.insert_unreadable_address("shop/api.shop.svc.cluster.local", vec![range("10.96.0.1/32")]);
    passthrough(go(&state, &web(), "10.96.0.1:80", 0));
}

#[test]
fn what_cannot_be_read_is_passed_through_once_it_is_gone() {
    let mut state = state(vec![web()], vec![]);
    state.insert_unreadable_address("Kubernetes//Pod/shop/api", vec![(Network::default(), "10.0.0.2/32".parse().unwrap())]);
    assert!(matches!(go(&state, &web(), "10.0.0.2:80", 0), Plan::Deny(_)));
    state.remove_address("Kubernetes//Pod/shop/api");
    passthrough(go(&state, &web(), "10.0.0.2:80", 0));
}

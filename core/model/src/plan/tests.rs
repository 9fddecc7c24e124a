mod names;
mod observed;
mod ranks;
mod waypoints;

use super::*;
use crate::{
    address::{GatewayAddress, GatewayDestination, Network},
    service::{LoadBalancing, WeightedWaypoint},
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
    let destination = destination.parse().unwrap();
    plan(state, Request { source, destination, random, avoid: &[], observed: &Unobserved })
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
fn an_endpoint_that_has_none_of_the_clients_families_takes_no_connection() {
    let only_v4 = endpoint_of(workload("old", "10.0.0.2"), "api");
    let service = service("api", &["10.96.0.1", "fd96::1"]);
    let client = workload("web", "fd00::1");
    let alone = state(vec![only_v4.clone()], vec![service.clone()]);
    assert_eq!(denied(go(&alone, &client, "[fd96::1]:80", 0)), Reason::NoHealthyEndpoint);
    let both = state(vec![only_v4, api()], vec![service]);
    for random in 0..20 {
        check(&hbone(go(&both, &client, "[fd96::1]:80", random)), "[fd00::2]:15008", "[fd00::2]:8080", &["api"], Hop::Endpoint);
    }
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
    own.services = own.services.with(key("api"), vec![port(80, 9999)]);
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

#[test]
fn a_service_that_keeps_the_address_of_a_pod_is_carried_to_it_as_the_pod_asks() {
    let lb = LoadBalancing { mode: Mode::Passthrough, ..LoadBalancing::default() };
    let state = state(vec![api()], vec![Service { load_balancing: lb, ..service("api", &["10.0.0.2"]) }]);
    let plan = hbone(go(&state, &web(), "10.0.0.2:80", 0));
    check(&plan, "10.0.0.2:15008", "10.0.0.2:80", &["api"], Hop::Endpoint);
    assert!(!plan.chosen, "there is no other that could be tried");
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
    // Of what is held already, the version before stays in force for its own addresses, and others are not taken for the world outside.
    let before = format!("{:?}", go(&state, &web(), "10.96.0.3:80", 0));
    state.insert_unreadable_address("shop/api.shop.svc.cluster.local", vec![range("10.96.0.1/32"), range("10.96.0.3/32")]);
    assert!(matches!(go(&state, &web(), "10.96.0.1:80", 0), Plan::Deny(_)));
    assert_eq!(format!("{:?}", go(&state, &web(), "10.96.0.3:80", 0)), before);
}

#[test]
fn what_cannot_be_read_is_passed_through_once_it_is_gone() {
    let mut state = state(vec![web()], vec![]);
    state.insert_unreadable_address("Kubernetes//Pod/shop/api", vec![(Network::default(), "10.0.0.2/32".parse().unwrap())]);
    assert!(matches!(go(&state, &web(), "10.0.0.2:80", 0), Plan::Deny(_)));
    state.remove_address("Kubernetes//Pod/shop/api");
    passthrough(go(&state, &web(), "10.0.0.2:80", 0));
}

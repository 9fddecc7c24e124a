//! Fields of the wire contract that say where a connection goes, one by one (docs/wire-contract.md).

use super::*;
use crate::{
    address::{GatewayAddress, GatewayDestination, Network},
    service::{AppProtocol, LoadBalancing, Port, Scope, WeightedWaypoint},
    test_support::{endpoint_of, key, service, workload},
    workload::Locality,
};

fn go(workloads: Vec<Workload>, services: Vec<Service>, destination: &str) -> Plan {
    let mut state = MeshState::new();
    workloads.into_iter().for_each(|workload| state.insert_workload(workload));
    services.into_iter().for_each(|service| state.insert_service(service));
    let source = here(workload("web", "10.0.0.1"));
    let destination = destination.parse().unwrap();
    plan(&state, Request { source: &source, destination, random: 0, avoid: &[], observed: &Unobserved })
}

fn api() -> Workload {
    here(endpoint_of(workload("api", "10.0.0.2"), "api"))
}

fn here(workload: Workload) -> Workload {
    let locality = Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    Workload { node: "node-1".into(), cluster: "Kubernetes".into(), locality, ..workload }
}

/// What is dialled and what is asked for there.
fn hbone(plan: Plan) -> (String, String) {
    match plan {
        Plan::Hbone(hbone) => (hbone.dial.to_string(), hbone.authority.to_string()),
        other => panic!("{other:?}"),
    }
}

fn denied(plan: Plan) -> Option<Reason> {
    match plan {
        Plan::Deny(denied) => Some(denied.refusal.reason),
        _ => None,
    }
}

#[test]
fn what_is_in_another_network_is_refused_with_its_gateway_or_without() {
    let address = NetworkAddress::new(Network::default(), "10.0.0.9".parse().unwrap());
    let gateway = GatewayAddress { destination: GatewayDestination::Address(address), port: 15008 };
    for network_gateway in [None, Some(gateway.into())] {
        let far = Workload { network: Network::from("far"), network_gateway, ..api() };
        let plan = go(vec![far], vec![service("api", &["10.96.0.1"])], "10.96.0.1:80");
        assert_eq!(denied(plan), Some(Reason::NoHealthyEndpoint));
    }
}

#[test]
fn a_pod_that_speaks_hbone_itself_is_reached_as_any_other() {
    for native_tunnel in [false, true] {
        let plan = go(vec![Workload { native_tunnel, ..api() }], vec![], "10.0.0.2:80");
        assert_eq!(hbone(plan), ("10.0.0.2:15008".to_owned(), "10.0.0.2:80".to_owned()));
    }
}

#[test]
fn an_application_protocol_changes_nothing_of_the_way() {
    use AppProtocol::{Grpc, Http1, Http2, Tcp, Tls, Unknown};
    for app_protocol in [Unknown, Http1, Http2, Grpc, Tcp, Tls] {
        let ports = vec![Port { service_port: 80, target_port: 8080, app_protocol }];
        let plan = go(vec![api()], vec![Service { ports, ..service("api", &["10.96.0.1"]) }], "10.96.0.1:80");
        assert_eq!(hbone(plan).1, "10.0.0.2:8080");
    }
}

#[test]
fn a_waypoint_is_dialled_at_the_port_that_it_says() {
    let gateway = || endpoint_of(workload("gw", "10.0.0.9"), "gw");
    let gateway_service = || service("gw", &["10.96.0.9"]);
    let by_ip = |ip: &str| GatewayDestination::Address(NetworkAddress::new(Network::default(), ip.parse().unwrap()));
    for destination in [by_ip("10.0.0.9"), by_ip("10.96.0.9"), GatewayDestination::Service(key("gw"))] {
        let waypoint = GatewayAddress { destination, port: 15088 };
        let waypoints = vec![WeightedWaypoint { waypoint, weight: 1 }];
        let guarded = Service { waypoints, ..service("api", &["10.96.0.1"]) };
        let plan = go(vec![api(), gateway()], vec![guarded, gateway_service()], "10.96.0.1:80");
        assert_eq!(hbone(plan), ("10.0.0.9:15088".to_owned(), "10.96.0.1:80".to_owned()));
    }
}

#[test]
fn endpoints_are_ranked_by_every_part_of_where_they_are() {
    let elsewhere = |scope: Scope| {
        let mut far = api();
        match scope {
            Scope::Region => far.locality.region = "x".into(),
            Scope::Zone => far.locality.zone = "x".into(),
            Scope::Subzone => far.locality.subzone = "x".into(),
            Scope::Node => far.node = "x".into(),
            Scope::Cluster => far.cluster = "x".into(),
            Scope::Network => far.network = Network::from("x"),
        }
        far
    };
    let all = [Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster, Scope::Network];
    for asked in all {
        for differs in all {
            let load_balancing = LoadBalancing { mode: Mode::Strict, preferences: vec![asked], allow_unhealthy: false };
            let service = Service { load_balancing, ..service("api", &["10.96.0.1"]) };
            let refused = denied(go(vec![elsewhere(differs)], vec![service], "10.96.0.1:80")).is_some();
            // Other networks are not reached at all.
            assert_eq!(refused, asked == differs || differs == Scope::Network, "{asked:?} {differs:?}");
        }
    }
}

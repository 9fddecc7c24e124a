//! The endpoints of a service by the addresses that clients connect to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ambit_api::envoy::pb::envoy::config::core::v3::Locality;
use ambit_api::envoy::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

use super::super::waypoint::endpoint::{socket_address, usable_in};
use super::super::waypoint::route::Backend;
use super::super::waypoint::wire::u32_value;
use crate::index::Index;

/// The endpoints of a service port that take connections, all of them in one place. A place without a weight is ignored by clients, and an
/// address that comes twice makes them refuse all.
pub fn assignment(index: &Index, cluster: &str, to: &Backend) -> ClusterLoadAssignment {
    let (mut seen, mut endpoints) = (BTreeSet::new(), Vec::new());
    for endpoint in usable_in(index, &to.service, to.subset.as_deref()) {
        let (Some(address), Some(target)) = (endpoint.addresses.first(), endpoint.ports.get(&to.port)) else { continue };
        let target = SocketAddr::new(*address, *target);
        if endpoint.weight != Some(0) && seen.insert(target) {
            endpoints.push(at(target, endpoint.weight));
        }
    }
    of(cluster, endpoints)
}

/// One address for all.
pub fn one(cluster: &str, address: IpAddr, port: u16) -> ClusterLoadAssignment {
    of(cluster, vec![at(SocketAddr::new(address, port), None)])
}

/// No endpoint: calls fail at once.
pub fn none(cluster: &str) -> ClusterLoadAssignment {
    of(cluster, Vec::new())
}

fn of(cluster: &str, lb_endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    let place = LocalityLbEndpoints {
        locality: Some(Locality::default()),
        load_balancing_weight: u32_value(1),
        lb_endpoints,
        ..Default::default()
    };
    let endpoints = if place.lb_endpoints.is_empty() { Vec::new() } else { vec![place] };
    ClusterLoadAssignment { cluster_name: cluster.into(), endpoints, ..Default::default() }
}

fn at(target: SocketAddr, weight: Option<u32>) -> LbEndpoint {
    let endpoint = Endpoint { address: Some(socket_address(target.ip(), target.port())), ..Default::default() };
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        load_balancing_weight: weight.and_then(u32_value),
        ..Default::default()
    }
}

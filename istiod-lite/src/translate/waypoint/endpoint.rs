//! The workloads behind each cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use ambit_api::envoy::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use ambit_api::envoy::pb::envoy::config::core::v3::{Address, EnvoyInternalAddress, SocketAddress, address};
use ambit_api::envoy::pb::envoy::config::endpoint::v3 as envoy;

use super::health;
use super::locality::{self, Near, Place};
use super::names::{
    AMBIT_METADATA, CONNECT_ORIGINATE, Layer, ORIGINAL_DST_METADATA, TRANSPORT_MATCH_METADATA, inbound_subset, inbound_vip,
    of_service,
};
use super::scope::LookedUp;
use super::wire::ordered::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, Metadata, Struct};
use super::wire::{string_kind, u32_value};
use crate::index::{Endpoint, EndpointHealth, Index, ServiceRef};
use crate::translate::origin::Origin;

/// The endpoints of a cluster, and what is sent in their stead to waypoints at some places.
#[derive(Debug)]
pub struct Made {
    pub everywhere: ClusterLoadAssignment,
    /// By what the place is called.
    pub placed: Vec<(Arc<str>, ClusterLoadAssignment)>,
    /// Whether it is asked for by place.
    pub by_place: bool,
}

/// The endpoints of a service port, or of a subset of the service; one that is not there has none. Without any that is ready the assignment
/// is empty, and Envoy answers 503.
pub fn assignment(
    index: &Index,
    cluster: &str,
    (service, port): (&ServiceRef, u16),
    subset: Option<&str>,
    places: &[Place],
) -> Made {
    let near = locality::asked(index, service, port, subset);
    let checked = health::wanted(index, service, port);
    of_endpoints(index, cluster, &usable_in(index, service, subset), (port, checked), near.as_ref(), places)
}

/// All that may be asked for of a service: the endpoints of each port, under the name of the cluster of each layer, and of each subset.
pub fn assignments(index: &Index, service: &ServiceRef, places: &[Place]) -> Vec<Made> {
    let (endpoints, name) = (usable(index, service), of_service(index.config(), service));
    let in_subset = |subset| endpoints.iter().filter(|endpoint| index.is_in_subset(endpoint, subset)).cloned().collect();
    let subsets = index.subsets_of(service).into_iter().map(|subset| (&*subset.name, in_subset(subset)));
    let subsets: Vec<(&str, Vec<Endpoint>)> = subsets.collect();
    let mut all = Vec::new();
    for port in index.service_ports(service) {
        let checked = health::wanted(index, service, port.port);
        let near = locality::asked(index, service, port.port, None);
        for layer in [Layer::Http, Layer::Tcp] {
            let cluster = inbound_vip(port.port, layer, &name);
            all.push(of_endpoints(index, &cluster, &endpoints, (port.port, checked), near.as_ref(), places));
        }
        for (subset, endpoints) in &subsets {
            let near = locality::asked(index, service, port.port, Some(*subset));
            let cluster = inbound_subset(port.port, subset, &name);
            all.push(of_endpoints(index, &cluster, endpoints, (port.port, checked), near.as_ref(), places));
        }
    }
    all
}

/// The endpoints that take connections.
pub fn usable(index: &Index, service: &ServiceRef) -> Vec<Endpoint> {
    let any_health = match service {
        ServiceRef::Kubernetes(name) => {
            index.objects().services.get(name).is_some_and(|service| Index::publishes_not_ready(service))
        }
        ServiceRef::Host(_) => false,
    };
    let mut endpoints = index.endpoints(service);
    endpoints.retain(|endpoint| any_health || endpoint.health == EndpointHealth::Healthy);
    endpoints
}

/// The same, of a subset where one is named.
pub fn usable_in(index: &Index, service: &ServiceRef, subset: Option<&str>) -> Vec<Endpoint> {
    let mut endpoints = usable(index, service);
    if let Some(name) = subset {
        let subset = index.subset(service, name).ok();
        endpoints.retain(|endpoint| subset.is_some_and(|subset| index.is_in_subset(endpoint, subset)));
    }
    endpoints
}

fn of_endpoints(
    index: &Index,
    cluster: &str,
    endpoints: &[Endpoint],
    (port, checked): (u16, bool),
    near: Option<&Near>,
    places: &[Place],
) -> Made {
    let of = |endpoints: Vec<LocalityLbEndpoints>| ClusterLoadAssignment { cluster_name: cluster.into(), endpoints };
    let lb_endpoint = |endpoint| lb_endpoint(index, endpoint, port, checked);
    let Some(near) = near else {
        let lb_endpoints: Vec<LbEndpoint> = endpoints.iter().filter_map(lb_endpoint).collect();
        let group = LocalityLbEndpoints { lb_endpoints, ..Default::default() };
        let everywhere = of(if group.lb_endpoints.is_empty() { Vec::new() } else { vec![group] });
        return Made { everywhere, placed: Vec::new(), by_place: false };
    };
    let made: Vec<(&Endpoint, LbEndpoint)> =
        endpoints.iter().filter_map(|endpoint| Some((endpoint, lb_endpoint(endpoint)?))).collect();
    let seen_from = |place: &Place| (place.key(), of(locality::grouped(near, made.clone(), Some(place))));
    let placed = places.iter().map(seen_from).collect();
    Made { everywhere: of(locality::grouped(near, made, None)), placed, by_place: true }
}

/// A workload by the first of its addresses; `None` when it has no such port.
fn lb_endpoint(index: &Index, endpoint: &Endpoint, service_port: u16, checked: bool) -> Option<LbEndpoint> {
    let target = SocketAddr::new(*endpoint.addresses.first()?, *endpoint.ports.get(&service_port)?);
    let mut own = BTreeMap::from([("workload".to_owned(), string_kind(endpoint.workload.to_string()))]);
    if let Some(Origin { name, canonical_name, .. }) = origin(index, endpoint) {
        // As the workload has them that node proxies are sent, but only what is not said before.
        if canonical_name != name {
            own.insert("canonical_name".to_owned(), string_kind(canonical_name));
        }
        if *name != *endpoint.workload.name {
            own.insert("workload_name".to_owned(), string_kind(name));
        }
    }
    let mut filter_metadata = BTreeMap::new();
    let through_tunnel = checked && endpoint.hbone;
    if through_tunnel {
        let (key, value) = health::THROUGH;
        own.insert(key.to_owned(), string_kind(value));
    }
    let address = if endpoint.hbone {
        own.insert("identity".to_owned(), string_kind(endpoint.identity.to_string()));
        filter_metadata.insert(TRANSPORT_MATCH_METADATA.to_owned(), one("tunnel", "hbone"));
        filter_metadata.insert(ORIGINAL_DST_METADATA.to_owned(), one("local", target.to_string()));
        internal_address(CONNECT_ORIGINATE, target.to_string())
    } else {
        socket_address(target.ip(), target.port())
    };
    filter_metadata.insert(AMBIT_METADATA.to_owned(), Struct { fields: own });
    Some(LbEndpoint {
        endpoint: Some(envoy::Endpoint {
            address: Some(address),
            health_check_config: through_tunnel.then(health::not_by_envoy),
            ..Default::default()
        }),
        metadata: Some(Metadata { filter_metadata }),
        load_balancing_weight: endpoint.weight.and_then(u32_value),
    })
}

/// What a pod belongs to; `None` for what is no pod, even if one has its name.
fn origin(index: &Index, endpoint: &Endpoint) -> Option<Origin> {
    let pod = index.objects().pods.get(&endpoint.workload)?;
    (endpoint.uid == index.config().pod_uid(&endpoint.workload)).then(|| Origin::of(pod))
}

fn one(key: &str, value: impl Into<String>) -> Struct {
    Struct { fields: BTreeMap::from([(key.to_owned(), string_kind(value))]) }
}

/// Endpoints that the proxy looks up itself, by host name, in the cluster's own message.
pub fn looked_up(cluster: &str, names: &[LookedUp]) -> envoy::ClusterLoadAssignment {
    let of_name = |LookedUp { host, port, weight }: &LookedUp| {
        let port_specifier = Some(PortSpecifier::PortValue((*port).into()));
        let address = SocketAddress { address: host.clone(), port_specifier, ..Default::default() };
        let address = Some(Address { address: Some(address::Address::SocketAddress(address)) });
        let endpoint = envoy::Endpoint { address, ..Default::default() };
        envoy::LbEndpoint {
            host_identifier: Some(envoy::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            load_balancing_weight: weight.and_then(u32_value),
            ..Default::default()
        }
    };
    let lb_endpoints = names.iter().map(of_name).collect();
    envoy::ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![envoy::LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    }
}

/// The address of an internal listener.
pub fn internal_address(listener: &str, endpoint_id: String) -> Address {
    let address_name_specifier = Some(AddressNameSpecifier::ServerListenerName(listener.into()));
    let address = EnvoyInternalAddress { endpoint_id, address_name_specifier };
    Address { address: Some(address::Address::EnvoyInternalAddress(address)) }
}

/// An address and port.
pub fn socket_address(ip: IpAddr, port: u16) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let address = SocketAddress { address: ip.to_string(), port_specifier, ..Default::default() };
    Address { address: Some(address::Address::SocketAddress(address)) }
}

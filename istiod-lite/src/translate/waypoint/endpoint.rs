//! The pods behind each cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ambit_api::envoy::pb::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use ambit_api::envoy::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use ambit_api::envoy::pb::envoy::config::core::v3::{Address, EnvoyInternalAddress, SocketAddress, address};
use ambit_api::envoy::pb::envoy::config::endpoint::v3 as envoy;

use super::names::{AMBIT_METADATA, CONNECT_ORIGINATE, ORIGINAL_DST_METADATA, TRANSPORT_MATCH_METADATA};
use super::wire::ordered::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, Metadata, Struct};
use super::wire::string_kind;
use crate::index::{Endpoint, EndpointHealth, Index};
use crate::source::NamespacedName;

/// The endpoints of a service port. Without any that is ready the assignment is empty, and Envoy answers 503.
pub fn assignment(index: &Index, cluster: &str, service: &NamespacedName, port: u16) -> ClusterLoadAssignment {
    let mut lb_endpoints = Vec::new();
    if let Some(object) = index.objects().services.get(service) {
        let any_health = Index::publishes_not_ready(object);
        for endpoint in index.endpoints(object) {
            if any_health || endpoint.health == EndpointHealth::Healthy {
                lb_endpoints.extend(lb_endpoint(&endpoint, port));
            }
        }
    }
    let endpoints = if lb_endpoints.is_empty() { Vec::new() } else { vec![LocalityLbEndpoints { locality: None, lb_endpoints }] };
    ClusterLoadAssignment { cluster_name: cluster.into(), endpoints }
}

/// A pod by the first of its addresses; `None` when it has no such port.
fn lb_endpoint(endpoint: &Endpoint, service_port: u16) -> Option<LbEndpoint> {
    let target = SocketAddr::new(*endpoint.addresses.first()?, *endpoint.ports.get(&service_port)?);
    let mut own = BTreeMap::from([("workload".to_owned(), string_kind(endpoint.pod.to_string()))]);
    let mut filter_metadata = BTreeMap::new();
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
        endpoint: Some(envoy::Endpoint { address: Some(address), ..Default::default() }),
        metadata: Some(Metadata { filter_metadata }),
        load_balancing_weight: None,
    })
}

fn one(key: &str, value: impl Into<String>) -> Struct {
    Struct { fields: BTreeMap::from([(key.to_owned(), string_kind(value))]) }
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

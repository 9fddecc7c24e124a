//! The listeners at the edge of the mesh, whose clients come in no tunnel and prove no identity.

use std::net::{IpAddr, Ipv6Addr};

use ambit_api::envoy::pb::envoy::config::core::v3::address::Address as AddressKind;
use ambit_api::envoy::pb::envoy::config::listener::v3::{FilterChain, Listener};

use super::super::endpoint::socket_address;
use super::super::names::ingress;
use super::super::rbac::Enforcement;
use super::super::wire::bool_value;
use super::http::{self, Routes};
use super::{access_log, network_filter};
use crate::index::container_port;

/// The listener of one port of a Gateway, on the port that it is in the pod.
pub fn edge(port: u16, enforcement: &Enforcement) -> Listener {
    let name = ingress(port);
    let mut manager = http::manager(&name, Routes::Discovered(name.clone()), enforcement, access_log::at_edge());
    // Who asks is who has made the connection; what a client says of its way is added to, and what only proxies may say is taken out.
    manager.use_remote_address = bool_value(true);
    manager.xff_num_trusted_hops = 0;
    let chain = FilterChain {
        name: name.clone(),
        filters: vec![network_filter("envoy.filters.network.http_connection_manager", &manager)],
        ..Default::default()
    };
    let mut address = socket_address(IpAddr::V6(Ipv6Addr::UNSPECIFIED), container_port(port));
    if let Some(AddressKind::SocketAddress(socket)) = &mut address.address {
        socket.ipv4_compat = true;
    }
    Listener { name, address: Some(address), filter_chains: vec![chain], ..Default::default() }
}

//! The listeners at the edge of the mesh, whose clients come in no tunnel and prove no identity.

use std::net::{IpAddr, Ipv6Addr};

use ambit_api::envoy::pb::envoy::config::core::v3::TransportSocket;
use ambit_api::envoy::pb::envoy::config::core::v3::address::Address as AddressKind;
use ambit_api::envoy::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use ambit_api::envoy::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::super::access_log::or_own;
use super::super::endpoint::socket_address;
use super::super::metrics;
use super::super::names::ingress;
use super::super::rbac::Enforcement;
use super::super::wire::{bool_value, seconds};
use super::http::{self, Routes};
use super::inner::{network_rbac, tcp_proxy};
use super::{access_log, listener_filter, network_filter};
use crate::index::container_port;

/// How long a client may take from its connection to its first request being possible, in seconds, as in our waypoint.
const HANDSHAKE: u64 = 10;
/// How long a connection that is carried may have no byte in either direction, in seconds, as Envoy has it: clients are strangers, and one that is
/// gone without a word is not to keep its connection for ever.
const IDLE: u64 = 60 * 60;

/// One listener of a Gateway that speaks TLS and looks at requests.
pub struct Secure {
    /// The name of the filter chain and of its routes.
    pub name: String,
    /// The host that it is for; `*` for any.
    pub host: String,
    /// How TLS is spoken.
    pub socket: Option<TransportSocket>,
}

/// Connections that are carried, and not looked into.
pub struct Carried {
    /// The name of the filter chain.
    pub name: String,
    /// The server names that they say, of which none is another chain's; none for all connections of a port.
    pub hosts: Vec<String>,
    /// How TLS is spoken, where it ends here.
    pub socket: Option<TransportSocket>,
    /// The clusters that they are spread over, with their weights; never empty.
    pub targets: Vec<(String, u32)>,
}

/// The listener of one port of a Gateway, on the port that it is in the pod.
pub fn edge(port: u16, enforcement: &Enforcement) -> Listener {
    at(port, vec![chain(&ingress(port), false, enforcement)])
}

/// The same where connections are carried of which nothing is looked at.
pub fn carrying(port: u16, carried: &Carried, enforcement: &Enforcement) -> Listener {
    at(port, vec![carrying_chain(carried, enforcement)])
}

/// The same where TLS is spoken: the server name of a client leads to the listener of the Gateway that says it most closely, or to the route of
/// it that does where it carries connections, and any other nowhere. Policies are those for requests, and those for connections.
pub fn secure(
    port: u16,
    listeners: &[Secure],
    carried: &[Carried],
    (enforcement, for_connections): (&Enforcement, &Enforcement),
) -> Listener {
    let requests = listeners.iter().map(|listener| FilterChain {
        filter_chain_match: (listener.host != "*")
            .then(|| FilterChainMatch { server_names: vec![listener.host.clone()], ..Default::default() }),
        transport_socket: listener.socket.clone(),
        transport_socket_connect_timeout: seconds(HANDSHAKE),
        ..chain(&listener.name, true, enforcement)
    });
    let chains = requests.chain(carried.iter().map(|carried| carrying_chain(carried, for_connections)));
    let inspector = listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default());
    let listener = at(port, chains.collect());
    Listener { listener_filters: vec![inspector], listener_filters_timeout: seconds(HANDSHAKE), ..listener }
}

fn carrying_chain(carried: &Carried, enforcement: &Enforcement) -> FilterChain {
    let Carried { name, hosts, socket, targets } = carried;
    let mut filters = network_rbac(name, enforcement);
    let logs = or_own(enforcement.logs.as_ref(), || access_log::connections_at_edge(socket.is_some()));
    filters.push(tcp_proxy(name, targets, logs, IDLE));
    FilterChain {
        name: name.clone(),
        filter_chain_match: (!hosts.is_empty()).then(|| FilterChainMatch { server_names: hosts.clone(), ..Default::default() }),
        transport_socket: socket.clone(),
        transport_socket_connect_timeout: socket.as_ref().and_then(|_| seconds(HANDSHAKE)),
        filters,
        metadata: metrics::metadata(enforcement.metrics.as_ref()),
        ..Default::default()
    }
}

fn chain(name: &str, ends_tls: bool, enforcement: &Enforcement) -> FilterChain {
    let logs = or_own(enforcement.logs.as_ref(), || access_log::at_edge(ends_tls));
    let mut manager = http::manager(name, Routes::Discovered(name.into()), enforcement, logs);
    // Who asks is who has made the connection; what a client says of its way is added to, and what only proxies may say is taken out.
    manager.use_remote_address = bool_value(true);
    manager.xff_num_trusted_hops = 0;
    FilterChain {
        name: name.into(),
        filters: vec![network_filter("envoy.filters.network.http_connection_manager", &manager)],
        metadata: metrics::metadata(enforcement.metrics.as_ref()),
        ..Default::default()
    }
}

fn at(port: u16, filter_chains: Vec<FilterChain>) -> Listener {
    let mut address = socket_address(IpAddr::V6(Ipv6Addr::UNSPECIFIED), container_port(port));
    if let Some(AddressKind::SocketAddress(socket)) = &mut address.address {
        socket.ipv4_compat = true;
    }
    Listener { name: ingress(port), address: Some(address), filter_chains, ..Default::default() }
}

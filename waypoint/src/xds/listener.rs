//! Listeners. The design has three by name, and those at the edge of the mesh; any other one is refused.

use std::{mem::take, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::{
        core::v3::{Address, Metadata, address, socket_address::PortSpecifier},
        listener::v3::{FilterChain, Listener, listener::ListenerSpecifier, listener_filter},
    },
    extensions::filters::{
        http::{rbac::v3::Rbac, router::v3::Router, set_filter_state::v3::Config as HttpState},
        network::{
            http_connection_manager::v3::{HttpConnectionManager, http_connection_manager as hcm_pb, http_filter},
            set_filter_state::v3::Config as NetworkState,
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
};

use super::{
    authority, chain, edge, hcm, matcher, metadata,
    read::{Compiled, Problem, Under, finish, port, required, type_of, unpack},
    state, text, tls,
};
use crate::compiled::{Edge, Inbound, Map, MatchNode, Terminate};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const SET_STATE: &str = "envoy.extensions.filters.http.set_filter_state.v3.Config";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const NETWORK_STATE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// A compiled listener.
#[derive(Debug, Clone)]
pub enum CompiledListener {
    /// `connect_terminate`.
    Terminate(Arc<Terminate>),
    /// `main_internal`.
    Inbound(Arc<Inbound>),
    /// One at the edge of the mesh.
    Edge(Arc<Edge>),
    /// `connect_originate`, which is how we reach endpoints anyway.
    Originate,
}

/// A listener.
pub fn listener(mut listener: Listener) -> Compiled<CompiledListener> {
    let name = take(&mut listener.name);
    listener.stat_prefix.clear();
    listener.access_log.clear();
    listener.traffic_direction = 0;
    let metadata = listener.metadata.take();
    match name.as_str() {
        super::CONNECT_TERMINATE => terminate(listener).map(|l| CompiledListener::Terminate(Arc::new(l))),
        super::MAIN_INTERNAL => inbound(listener, metadata).map(|l| CompiledListener::Inbound(Arc::new(l))),
        super::CONNECT_ORIGINATE => originate(listener).map(|()| CompiledListener::Originate),
        name if name.starts_with(super::INGRESS) => edge::listener(listener).map(|l| CompiledListener::Edge(Arc::new(l))),
        other => Err(Problem::new(format!("a listener {other:?} is not implemented"))),
    }
}

fn internal(listener: &mut Listener) -> Compiled<()> {
    match listener.listener_specifier.take() {
        Some(ListenerSpecifier::InternalListener(_)) => Ok(()),
        _ => Err(Problem::new("it must be an internal listener")),
    }
}

pub(super) fn listen_port(address: Option<Address>) -> Compiled<u16> {
    match required(address, "address")?.address {
        Some(address::Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(value)) => port(value),
            _ => Err(Problem::new("only port_value is implemented")),
        },
        _ => Err(Problem::new("only socket_address is implemented")),
    }
}

fn terminate(mut listener: Listener) -> Compiled<Terminate> {
    let port = listen_port(listener.address.take()).under("address")?;
    // How the socket is opened is ours: both families, one listener.
    listener.additional_addresses.clear();
    listener.enable_reuse_port = None;
    let mut chains = take(&mut listener.filter_chains);
    let (Some(mut only), true) = (chains.pop(), chains.is_empty()) else {
        return Err(Problem::new("exactly one filter chain is implemented"));
    };
    finish(&listener)?;
    only.name.clear();
    // Our own handshake limit holds.
    only.transport_socket_connect_timeout = None;
    let peers = tls::downstream(required(only.transport_socket.take(), "transport_socket")?).under("transport_socket")?;
    let mut filters = take(&mut only.filters);
    let (Some(filter), true) = (filters.pop(), filters.is_empty()) else {
        return Err(Problem::new("exactly one filter is implemented"));
    };
    finish(&only)?;
    let config: HttpConnectionManager = unpack(&chain::typed(filter.config_type)?, HCM)?;
    let authorities = tunnels(config).under("http_connection_manager")?;
    Ok(Terminate { port, peers, authorities })
}

/// The HTTP connection manager that takes CONNECT requests.
fn tunnels(mut config: HttpConnectionManager) -> Compiled<Result<Arc<str>, Arc<crate::compiled::TerminateTable>>> {
    let authorities = match required(config.route_specifier.take(), "a route configuration")? {
        hcm_pb::RouteSpecifier::Rds(rds) => Ok(hcm::named(rds).under("rds")?),
        hcm_pb::RouteSpecifier::RouteConfig(table) => Err(Arc::new(authority::table(table).under("route_config")?)),
        hcm_pb::RouteSpecifier::ScopedRoutes(_) => return Err(Problem::new("scoped_routes is not implemented")),
    };
    for filter in take(&mut config.http_filters) {
        let at = filter.name.clone();
        let Some(http_filter::ConfigType::TypedConfig(any)) = filter.config_type else {
            return Err(Problem::new("only typed_config is implemented").under(at));
        };
        match type_of(&any) {
            SET_STATE => kept_facts(unpack(&any, SET_STATE)?).under(at)?,
            // Empty here; the rules come with the virtual host.
            RBAC => finish(&unpack::<Rbac>(&any, RBAC)?).under(at)?,
            ROUTER => {
                let mut router: Router = unpack(&any, ROUTER)?;
                router.suppress_envoy_headers = false;
                finish(&router).under(at)?;
            }
            other => return Err(Problem::new(format!("{other} is not implemented")).under(at)),
        }
    }
    if take(&mut config.upgrade_configs).iter().any(|u| !u.upgrade_type.eq_ignore_ascii_case("CONNECT")) {
        return Err(Problem::new("an upgrade other than CONNECT is not implemented"));
    }
    // The tunnel's HTTP/2 settings are ours (wire contract, section 4).
    config.http2_protocol_options = None;
    config.codec_type = 0;
    config.stat_prefix.clear();
    config.access_log.clear();
    config.access_log_options = None;
    config.generate_request_id = None;
    config.use_remote_address = None;
    // As many hops as no header has: the client's address is its connection's.
    if config.xff_num_trusted_hops == u32::MAX {
        config.xff_num_trusted_hops = 0;
    }
    config.server_header_transformation = 0;
    config.delayed_close_timeout = None;
    config.drain_timeout = None;
    for limit in [&mut config.stream_idle_timeout, &mut config.request_timeout] {
        if limit.is_some_and(|t| t.seconds == 0 && t.nanos == 0) {
            *limit = None;
        }
    }
    finish(&config)?;
    Ok(authorities)
}

/// The facts that the terminating listener keeps must be the ones we keep.
fn kept_facts(mut config: HttpState) -> Compiled<()> {
    config.clear_route_cache = false;
    for value in take(&mut config.on_request_headers) {
        let (key, text) = state::value(value)?;
        match (key.as_str(), text.as_str()) {
            (state::LOCAL_ADDRESS, "%REQ(:AUTHORITY)%")
            | (state::REMOTE_ADDRESS, "%DOWNSTREAM_REMOTE_ADDRESS%" | "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%")
            | (text::PEER_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%")
            | (state::CLIENT_CERTIFICATE, "By=%DOWNSTREAM_LOCAL_URI_SAN%;URI=%DOWNSTREAM_PEER_URI_SAN%") => {}
            _ => return Err(Problem::new(format!("filter state {key:?} from {text:?} is not implemented"))),
        }
    }
    finish(&config)
}

fn inbound(mut listener: Listener, metadata: Option<Metadata>) -> Compiled<Inbound> {
    internal(&mut listener)?;
    let administrators = metadata::administrators(metadata).under("metadata")?;
    for filter in take(&mut listener.listener_filters) {
        // Where the first bytes must be looked at follows from the matcher, so where Envoy's inspector is off does not matter.
        known_listener_filter(filter.config_type).under(filter.name)?;
    }
    listener.listener_filters_timeout = None;
    listener.continue_on_listener_filters_timeout = false;
    let matcher = listener.filter_chain_matcher.take().map(matcher::node).transpose().under("filter_chain_matcher")?;
    let mut chains = Map::default();
    for part in take(&mut listener.filter_chains) {
        let at = format!("filter_chains[{}]", part.name);
        let compiled = chain::chain(part).under(at)?;
        chains.insert(compiled.name.clone(), Arc::new(compiled));
    }
    finish(&listener)?;
    let matcher = match (matcher, chains.len()) {
        (Some(matcher), _) => matcher,
        // Without matcher the only chain takes everything; without chain nothing is taken.
        (None, 0 | 1) => match chains.keys().next() {
            Some(only) => MatchNode::Chain(only.clone()),
            None => MatchNode::Port { ports: Map::default(), otherwise: None },
        },
        (None, _) => return Err(Problem::new("several filter chains without filter_chain_matcher are not implemented")),
    };
    Ok(Inbound { matcher, chains, administrators })
}

pub(super) fn known_listener_filter(config: Option<listener_filter::ConfigType>) -> Compiled<()> {
    const KNOWN: [&str; 3] = [
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    ];
    match config {
        Some(listener_filter::ConfigType::TypedConfig(any)) if KNOWN.contains(&type_of(&any)) => Ok(()),
        Some(listener_filter::ConfigType::TypedConfig(any)) => Err(Problem::new(format!("{} is not implemented", type_of(&any)))),
        _ => Err(Problem::new("only typed_config is implemented")),
    }
}

/// Checks that the way to endpoints is the one we take: a tunnel to the endpoint's address, with its identity verified.
fn originate(mut listener: Listener) -> Compiled<()> {
    internal(&mut listener)?;
    for filter in take(&mut listener.listener_filters) {
        known_listener_filter(filter.config_type).under(filter.name)?;
    }
    let chains = take(&mut listener.filter_chains);
    finish(&listener)?;
    for part in chains {
        originate_chain(part)?;
    }
    Ok(())
}

fn originate_chain(mut part: FilterChain) -> Compiled<()> {
    part.name.clear();
    for filter in take(&mut part.filters) {
        let any = chain::typed(filter.config_type)?;
        match type_of(&any) {
            // Which facts lead to the identity that is verified is Envoy's way of doing what we do with the endpoint's metadata.
            NETWORK_STATE => drop(unpack::<NetworkState>(&any, NETWORK_STATE)?),
            TCP_PROXY => {
                let proxy: TcpProxy = unpack(&any, TCP_PROXY)?;
                let tunnels = proxy.tunneling_config.is_some();
                let cluster = matches!(&proxy.cluster_specifier,
                    Some(tcp_proxy::ClusterSpecifier::Cluster(c)) if c == super::CONNECT_ORIGINATE);
                if !tunnels || !cluster {
                    return Err(Problem::new("it must tunnel to the cluster connect_originate"));
                }
            }
            other => return Err(Problem::new(format!("{other} is not implemented"))),
        }
    }
    finish(&part)
}

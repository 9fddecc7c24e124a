//! Listeners. The design has three by name, and those at the edge of the mesh; any other one is refused.

use std::{mem::take, net::IpAddr, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::{
        core::v3::{Address, Metadata, TrafficDirection, address, socket_address::PortSpecifier},
        listener::v3::{FilterChain, Listener, listener::ListenerSpecifier, listener_filter},
    },
    extensions::filters::{
        http::{rbac::v3::Rbac, router::v3::Router, set_filter_state::v3::Config as HttpState},
        listener::tls_inspector::v3::TlsInspector,
        network::{
            http_connection_manager::v3::{HttpConnectionManager, http_connection_manager as hcm_pb, http_filter},
            set_filter_state::v3::Config as NetworkState,
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
};

use super::{
    access_log, authority, chain, edge, hcm, matcher, metadata,
    read::{Compiled, Problem, Under, finish, port, required, type_of, unpack},
    state, text, tls, transport,
};
use crate::compiled::{Edge, Inbound, Map, MatchNode, Terminate};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const SET_STATE: &str = "envoy.extensions.filters.http.set_filter_state.v3.Config";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const NETWORK_STATE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
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
    // Spans are those of who is asked, and never of who asks.
    if listener.traffic_direction == TrafficDirection::Inbound as i32 {
        listener.traffic_direction = 0;
    }
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

/// The port that is listened on, on all addresses of both families whatever is said of one of these.
pub(super) fn listen_port(address: Option<Address>) -> Compiled<u16> {
    let Some(address::Address::SocketAddress(mut socket)) = required(address, "address")?.address else {
        return Err(Problem::new("only socket_address is implemented"));
    };
    let Some(PortSpecifier::PortValue(value)) = socket.port_specifier.take() else {
        return Err(Problem::new("only port_value is implemented"));
    };
    let text = take(&mut socket.address);
    if !text.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
        return Err(Problem::new(format!("{text:?}, which is not all addresses, is not implemented")).under("socket_address"));
    }
    socket.ipv4_compat = false;
    finish(&socket).under("socket_address")?;
    port(value)
}

fn terminate(mut listener: Listener) -> Compiled<Terminate> {
    let port = listen_port(listener.address.take()).under("address")?;
    // How the socket is opened is ours.
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
    for mut filter in take(&mut config.http_filters) {
        let at = take(&mut filter.name);
        let Some(http_filter::ConfigType::TypedConfig(any)) = filter.config_type.take() else {
            return Err(Problem::new("only typed_config is implemented").under(at));
        };
        finish(&filter).under(&at)?;
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
    for mut upgrade in take(&mut config.upgrade_configs) {
        if !take(&mut upgrade.upgrade_type).eq_ignore_ascii_case("CONNECT") {
            return Err(Problem::new("an upgrade other than CONNECT is not implemented"));
        }
        finish(&upgrade).under("upgrade_configs")?;
    }
    own_settings(&mut config)?;
    finish(&config)?;
    Ok(authorities)
}

/// Takes out what is said of how tunnels are spoken where that is how ours are (wire contract, section 4), and what nobody sees of them.
fn own_settings(config: &mut HttpConnectionManager) -> Compiled<()> {
    config.http2_protocol_options.take().map_or(Ok(()), |said| transport::http2(said, true)).under("http2_protocol_options")?;
    if config.codec_type == hcm_pb::CodecType::Http2 as i32 {
        config.codec_type = 0;
    }
    config.stat_prefix.clear();
    if access_log::logs(take(&mut config.access_log))?.is_some() {
        return Err(Problem::new("access_log: other lines of tunnels than the mesh's own are not implemented"));
    }
    config.generate_request_id = None;
    config.use_remote_address = None;
    // As many hops as no header has: the client's address is its connection's.
    if config.xff_num_trusted_hops == u32::MAX {
        config.xff_num_trusted_hops = 0;
    }
    if config.server_header_transformation == hcm_pb::ServerHeaderTransformation::PassThrough as i32 {
        config.server_header_transformation = 0;
    }
    for limit in [&mut config.stream_idle_timeout, &mut config.request_timeout] {
        if limit.is_some_and(|t| t.seconds == 0 && t.nanos == 0) {
            *limit = None;
        }
    }
    Ok(())
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
    let Some(listener_filter::ConfigType::TypedConfig(any)) = config else {
        return Err(Problem::new("only typed_config is implemented"));
    };
    match type_of(&any) {
        // There is nothing to say for these.
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
        | "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => Ok(()),
        TLS_INSPECTOR => finish(&unpack::<TlsInspector>(&any, TLS_INSPECTOR)?),
        other => Err(Problem::new(format!("{other} is not implemented"))),
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
            NETWORK_STATE => expected(unpack(&any, NETWORK_STATE)?).under(filter.name)?,
            TCP_PROXY => into_tunnels(unpack(&any, TCP_PROXY)?).under(filter.name)?,
            other => return Err(Problem::new(format!("{other} is not implemented"))),
        }
    }
    finish(&part)
}

/// Whom to expect: who the endpoint's metadata says, which is what we do, or the chain within.
fn expected(mut config: NetworkState) -> Compiled<()> {
    for value in take(&mut config.on_new_connection) {
        let (key, text) = state::value(value)?;
        match (key.as_str(), text.as_str()) {
            (state::UPSTREAM_IDENTITY | state::UPSTREAM_IDENTITY_OLD, "%DYNAMIC_METADATA(io.ambit:identity)%")
            | (
                state::UPSTREAM_NAMES,
                "%FILTER_STATE(io.ambit.upstream_identity:PLAIN)%" | "%FILTER_STATE(ambit.upstream_identity:PLAIN)%",
            ) => {}
            _ => return Err(Problem::new(format!("filter state {key:?} from {text:?} is not implemented"))),
        }
    }
    finish(&config)
}

/// A tunnel for the address of each connection, as ours are: nothing else is said in it, and it has no end of its own.
fn into_tunnels(mut proxy: TcpProxy) -> Compiled<()> {
    let to_tunnels =
        matches!(proxy.cluster_specifier.take(), Some(tcp_proxy::ClusterSpecifier::Cluster(c)) if c == super::CONNECT_ORIGINATE);
    let (Some(mut tunnels), true) = (proxy.tunneling_config.take(), to_tunnels) else {
        return Err(Problem::new("it must tunnel to the cluster connect_originate"));
    };
    let host = take(&mut tunnels.hostname);
    if host != "%DOWNSTREAM_LOCAL_ADDRESS%" {
        return Err(Problem::new(format!("hostname {host:?} is not implemented")).under("tunneling_config"));
    }
    finish(&tunnels).under("tunneling_config")?;
    proxy.stat_prefix.clear();
    if proxy.idle_timeout.is_some_and(|t| t.seconds == 0 && t.nanos == 0) {
        proxy.idle_timeout = None;
    }
    finish(&proxy)
}

//! The listener that ends HBONE.
//!
//! Only authorities of what the waypoint serves are known; a CONNECT to anything else is answered 404 and nothing is
//! opened. Policies of TCP ports are enforced here too: Envoy's network RBAC decides with the client's first bytes, so a
//! server that speaks first would be heard by clients that are refused.

use std::net::{IpAddr, Ipv6Addr};

use ambit_api::envoy::pb::envoy::config::core::v3::address::Address as AddressKind;
use ambit_api::envoy::pb::envoy::config::listener::v3::{FilterChain, Listener};
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig, upgrade_config};
use ambit_api::envoy::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use ambit_api::envoy::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
};
use ambit_api::envoy::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream;
use ambit_api::envoy::pb::envoy::extensions::filters::http::set_filter_state::v3::Config as SetFilterState;
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, UpgradeConfig as AllowedUpgrade,
};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};

use super::super::cluster::hbone_options;
use super::super::endpoint::socket_address;
use super::super::names::{
    CLIENT_CERTIFICATE, CONNECT_ALLOW, CONNECT_DENY, CONNECT_TERMINATE, HBONE_PORT, MAIN_INTERNAL, ORIGINAL_DESTINATION,
    ORIGINAL_SOURCE, PEER_PRINCIPAL,
};
use super::super::rbac::Enforcement;
use super::super::tls;
use super::super::wire::ordered::{HttpRbac, RbacPerRoute, Rules};
use super::super::wire::{Any, ads, any, any_as, bool_value, entry, seconds};
use super::http::{NO_FORWARDED_ADDRESS, http_filter, router};
use super::{access_log, filter_state, network_filter};

const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
/// The fields of `x-forwarded-client-cert` that are known of peers of the mesh, in Envoy's order.
const BOTH_IDENTITIES: &str = "By=%DOWNSTREAM_LOCAL_URI_SAN%;URI=%DOWNSTREAM_PEER_URI_SAN%";

/// Authorities that lead to one filter chain of the inner listener.
#[derive(Debug)]
pub struct KnownAuthority {
    /// A name for it, unique.
    pub name: String,
    /// `ip:port`, or `ip:*`.
    pub domains: Vec<String>,
    /// The policies to enforce before the tunnel is opened.
    pub enforcement: Enforcement,
}

/// The listener; it depends on the trust domain alone.
pub fn terminate(trust_domain: &str) -> Listener {
    let manager = HttpConnectionManager {
        codec_type: CodecType::Http2.into(),
        stat_prefix: CONNECT_TERMINATE.into(),
        http_filters: http_filters(),
        http2_protocol_options: Some(hbone_options(200)),
        access_log: access_log::refused_tunnels(),
        xff_num_trusted_hops: NO_FORWARDED_ADDRESS,
        stream_idle_timeout: seconds(0),
        generate_request_id: bool_value(false),
        upgrade_configs: vec![AllowedUpgrade { upgrade_type: "CONNECT".into(), ..Default::default() }],
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: CONNECT_TERMINATE.into() })),
        ..Default::default()
    };
    let chain = FilterChain {
        name: CONNECT_TERMINATE.into(),
        filters: vec![network_filter("envoy.filters.network.http_connection_manager", &manager)],
        transport_socket: tls::downstream(trust_domain),
        transport_socket_connect_timeout: seconds(10),
        ..Default::default()
    };
    let mut address = socket_address(IpAddr::V6(Ipv6Addr::UNSPECIFIED), HBONE_PORT);
    if let Some(AddressKind::SocketAddress(socket)) = &mut address.address {
        socket.ipv4_compat = true;
    }
    Listener { name: CONNECT_TERMINATE.into(), address: Some(address), filter_chains: vec![chain], ..Default::default() }
}

/// What the inner connection has to know of the tunnel, then authorization, then the router.
fn http_filters() -> Vec<HttpFilter> {
    let once = SharedWithUpstream::Once;
    let tunnel = SetFilterState {
        on_request_headers: vec![
            filter_state(ORIGINAL_DESTINATION, "", "%REQ(:AUTHORITY)%", once),
            filter_state(ORIGINAL_SOURCE, "", "%DOWNSTREAM_REMOTE_ADDRESS%", once),
            filter_state(PEER_PRINCIPAL, "envoy.string", "%DOWNSTREAM_PEER_URI_SAN%", once),
            // Whole and from here: the connection inside has no certificates, its client's nor the waypoint's.
            filter_state(CLIENT_CERTIFICATE, "envoy.string", BOTH_IDENTITIES, once),
        ],
        ..Default::default()
    };
    let no_rules = || any_as(RBAC, &HttpRbac::default());
    vec![
        http_filter("envoy.filters.http.set_filter_state", any(&tunnel)),
        http_filter(CONNECT_DENY, no_rules()),
        http_filter(CONNECT_ALLOW, no_rules()),
        router(),
    ]
}

/// The route configuration of the listener.
pub fn routes(known: Vec<KnownAuthority>) -> RouteConfiguration {
    let virtual_hosts = known.into_iter().map(virtual_host).collect();
    RouteConfiguration {
        name: CONNECT_TERMINATE.into(),
        virtual_hosts,
        validate_clusters: bool_value(false),
        ..Default::default()
    }
}

/// DENY is overridden on the virtual host and ALLOW on its route: each map keeps a single entry.
fn virtual_host(known: KnownAuthority) -> VirtualHost {
    let mut route = Route {
        name: CONNECT_TERMINATE.into(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
            ..Default::default()
        }),
        action: Some(Action::Route(to_inner())),
        ..Default::default()
    };
    if let Some(rules) = known.enforcement.allow {
        route.typed_per_filter_config = entry(CONNECT_ALLOW, per_route(rules));
    }
    let mut host = VirtualHost { name: known.name, domains: known.domains, routes: vec![route], ..Default::default() };
    if let Some(rules) = known.enforcement.deny {
        host.typed_per_filter_config = entry(CONNECT_DENY, per_route(rules));
    }
    host
}

fn per_route(rules: Rules) -> Any {
    let rbac = RbacPerRoute { rbac: Some(HttpRbac { rules: Some(rules), ..Default::default() }) };
    any_as("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &rbac)
}

fn to_inner() -> RouteAction {
    let connect = UpgradeConfig {
        upgrade_type: "CONNECT".into(),
        connect_config: Some(upgrade_config::ConnectConfig::default()),
        ..Default::default()
    };
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(MAIN_INTERNAL.into())),
        timeout: seconds(0),
        upgrade_configs: vec![connect],
        ..Default::default()
    }
}

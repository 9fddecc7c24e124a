//! The internal listener that opens HBONE to an endpoint and expects exactly one identity there.

use ambit_api::envoy::pb::envoy::config::listener::v3::{FilterChain, Listener};
use ambit_api::envoy::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream;
use ambit_api::envoy::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use ambit_api::envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use ambit_api::envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{ClusterSpecifier, TunnelingConfig};

use super::super::names::{AMBIT_METADATA, CONNECT_ORIGINATE, UPSTREAM_IDENTITY, UPSTREAM_SANS};
use super::super::wire::seconds;
use super::{filter_state, internal_listener, network_filter, original_destination};

/// The listener; it is the same for every waypoint.
///
/// The identity comes with the endpoint's metadata, or with filter state when a filter chain has set it. Without one
/// the name expected is `-`, which no certificate has: the connection fails.
pub fn originate() -> Listener {
    let none = SharedWithUpstream::None;
    let from_endpoint = format!("%DYNAMIC_METADATA({AMBIT_METADATA}:identity)%");
    let mut identity = filter_state(UPSTREAM_IDENTITY, "envoy.string", &from_endpoint, none);
    identity.skip_if_empty = true;
    if let Some(super::Value::FormatString(format)) = &mut identity.value {
        format.omit_empty_values = true;
    }
    let expected = filter_state(UPSTREAM_SANS, "", &format!("%FILTER_STATE({UPSTREAM_IDENTITY}:PLAIN)%"), none);
    let state = SetFilterState { on_new_connection: vec![identity, expected], ..Default::default() };
    let proxy = TcpProxy {
        stat_prefix: CONNECT_ORIGINATE.into(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(CONNECT_ORIGINATE.into())),
        idle_timeout: seconds(0),
        tunneling_config: Some(TunnelingConfig { hostname: "%DOWNSTREAM_LOCAL_ADDRESS%".into(), ..Default::default() }),
        ..Default::default()
    };
    let chain = FilterChain {
        name: CONNECT_ORIGINATE.into(),
        filters: vec![
            network_filter("envoy.filters.network.set_filter_state", &state),
            network_filter("envoy.filters.network.tcp_proxy", &proxy),
        ],
        ..Default::default()
    };
    Listener {
        listener_filters: vec![original_destination()],
        filter_chains: vec![chain],
        ..internal_listener(CONNECT_ORIGINATE)
    }
}

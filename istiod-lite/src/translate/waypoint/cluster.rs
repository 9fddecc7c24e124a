//! Clusters: one for each port of a service that traffic may go to, and the fixed ones that lead through the tunnels.

use std::collections::BTreeMap;
use std::mem::take;

use ambit_api::envoy::pb::envoy::config::cluster::v3 as cluster;
use ambit_api::envoy::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds::RetryBudget};
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy, OriginalDstLbConfig, TransportSocketMatch,
};
use ambit_api::envoy::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, KeepaliveSettings, Metadata,
    TransportSocket,
};
use ambit_api::envoy::pb::envoy::config::endpoint::v3 as endpoint;
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::internal_upstream::v3::{
    InternalUpstreamTransport, internal_upstream_transport::MetadataValueSource,
};
use ambit_api::envoy::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use ambit_api::envoy::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use ambit_api::envoy::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
};
use ambit_api::envoy::pb::envoy::r#type::metadata::v3::{MetadataKind, metadata_kind};
use ambit_api::envoy::pb::envoy::r#type::v3::Percent;
use ambit_api::envoy::pb::google::protobuf::Struct;
use ambit_api::workload::AppProtocol;

use super::endpoint::internal_address;
use super::names::{AMBIT_METADATA, CONNECT_ORIGINATE, DIRECT, HBONE_PORT, Layer, MAIN_INTERNAL, ORIGINAL_DST_METADATA};
use super::scope::LookedUp;
use super::tls;
use super::wire::{ads, any, entries, entry, seconds, string_kind, transport_socket, u32_value};

/// Stream window of HBONE peers, bytes.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Retries in a hundred requests to a service port, at once.
pub const RETRY_PERCENT: f64 = 20.0;
/// Connection window of HBONE peers, bytes.
pub const CONNECTION_WINDOW: u32 = 16 << 20;

/// The cluster of a port of a host whose endpoints the proxy looks up itself.
pub fn looked_up(name: &str, service: &str, layer: Layer, protocol: AppProtocol, names: &[LookedUp]) -> cluster::Cluster {
    let mut cluster = self::service(name, service, layer, protocol);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
    cluster.eds_cluster_config = None;
    cluster.transport_socket_matches = Vec::new();
    cluster.load_assignment = Some(super::endpoint::looked_up(name, names));
    cluster
}

/// The cluster of a service port; `service` is what the service is called in logs.
pub fn service(name: &str, service: &str, layer: Layer, protocol: AppProtocol) -> cluster::Cluster {
    let mut cluster = named(name);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: ads(), service_name: String::new() });
    cluster.transport_socket_matches = vec![
        TransportSocketMatch {
            name: "hbone".into(),
            r#match: Some(Struct { fields: entry("tunnel", string_kind("hbone")) }),
            transport_socket: internal_upstream(&[ORIGINAL_DST_METADATA, AMBIT_METADATA]),
        },
        TransportSocketMatch { name: "clear".into(), r#match: Some(Struct::default()), transport_socket: raw_buffer() },
    ];
    if layer == Layer::Http {
        protocol_options(&mut cluster, &upstream_protocol(protocol));
        cluster.circuit_breakers = limits(Some(retry_budget()));
    }
    let fields = entry("service", string_kind(service));
    let filter_metadata = entry(AMBIT_METADATA, Struct { fields });
    cluster.metadata = Some(Metadata { filter_metadata, ..Default::default() });
    cluster
}

/// The cluster of an external authorizer: the endpoints of a service port, which are spoken to in one version of HTTP whatever clients speak.
/// It has a name of its own and the endpoints under theirs, as requests may be routed to the same port.
pub fn authorizer(name: &str, service: &str, endpoints: &str, http2: bool) -> cluster::Cluster {
    let mut cluster = self::service(name, service, Layer::Http, AppProtocol::Http2);
    if let Some(discovery) = &mut cluster.eds_cluster_config {
        discovery.service_name = endpoints.into();
    }
    if !http2 {
        in_http1(&mut cluster);
    }
    cluster
}

/// Tells our own waypoint something that no field of Envoy's says; others do as without it.
pub fn tell_ours(cluster: &mut cluster::Cluster, key: &str, value: &str) {
    let own = cluster.metadata.as_mut().and_then(|metadata| metadata.filter_metadata.get_mut(AMBIT_METADATA));
    if let Some(own) = own {
        let mut fields: BTreeMap<_, _> = take(&mut own.fields).into_iter().collect();
        fields.insert(key.to_owned(), string_kind(value));
        own.fields = entries(&fields);
    }
}

/// For clients of another kind than those of the mesh: endpoints whose port does not declare HTTP/2 are spoken to in HTTP/1.1, whatever it is that
/// clients speak. Browsers speak HTTP/2 with whom they can.
pub fn not_as_clients(cluster: &mut cluster::Cluster, protocol: AppProtocol) {
    if !matches!(protocol, AppProtocol::Http2 | AppProtocol::Grpc) {
        in_http1(cluster);
    }
}

fn in_http1(cluster: &mut cluster::Cluster) {
    let protocol_config = Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()));
    let chosen = UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config });
    protocol_options(cluster, &HttpProtocolOptions { upstream_protocol_options: Some(chosen), ..Default::default() });
}

/// Requests that are under way for another time are a share of all, so that a service that fails is not asked many times as often. It is
/// said whether a route has retries or not: a cluster that changes loses its connections. How many there may be in any case is for proxies to
/// know, 3 in Envoy: ours takes what is said for what somebody asks for.
fn retry_budget() -> RetryBudget {
    RetryBudget { budget_percent: Some(Percent { value: RETRY_PERCENT }), ..Default::default() }
}

/// Connections and requests without a limit (so does Istio): those that proxies have where nothing is said are soon reached by WebSockets,
/// streams and bytes, and nobody asked for them.
fn limits(retry_budget: Option<RetryBudget>) -> Option<cluster::CircuitBreakers> {
    let thresholds = Thresholds {
        max_connections: u32_value(u32::MAX),
        max_pending_requests: u32_value(u32::MAX),
        max_requests: u32_value(u32::MAX),
        retry_budget,
        ..Default::default()
    };
    Some(cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() })
}

/// The clusters every waypoint has.
pub fn fixed(trust_domain: &str) -> Vec<cluster::Cluster> {
    vec![internal(MAIN_INTERNAL, MAIN_INTERNAL), internal(DIRECT, CONNECT_ORIGINATE), originate(trust_domain)]
}

/// HBONE to the address of the connection, port 15008; the identity to expect is the connection's filter state.
fn originate(trust_domain: &str) -> cluster::Cluster {
    let mut cluster = named(CONNECT_ORIGINATE);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
    cluster.lb_policy = LbPolicy::ClusterProvided.into();
    cluster.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
        upstream_port_override: u32_value(HBONE_PORT.into()),
        ..Default::default()
    }));
    cluster.cleanup_interval = seconds(60);
    cluster.transport_socket = tls::upstream(trust_domain);
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions { idle_timeout: seconds(300), ..Default::default() }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(hbone_options(100))),
        })),
        ..Default::default()
    };
    protocol_options(&mut cluster, &options);
    cluster
}

/// HTTP/2 as HBONE peers speak it.
pub fn hbone_options(max_streams: u32) -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_connect: true,
        max_concurrent_streams: u32_value(max_streams),
        initial_stream_window_size: u32_value(STREAM_WINDOW),
        initial_connection_window_size: u32_value(CONNECTION_WINDOW),
        connection_keepalive: Some(KeepaliveSettings { interval: seconds(10), timeout: seconds(20), ..Default::default() }),
        ..Default::default()
    }
}

fn internal(name: &str, listener: &str) -> cluster::Cluster {
    let mut cluster = named(name);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
    let address = Some(internal_address(listener, String::new()));
    let endpoint = endpoint::Endpoint { address, ..Default::default() };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() }],
        ..Default::default()
    });
    cluster.transport_socket = internal_upstream(&[]);
    cluster
}

fn named(name: &str) -> cluster::Cluster {
    cluster::Cluster { name: name.into(), connect_timeout: seconds(5), circuit_breakers: limits(None), ..Default::default() }
}

/// Services that declare HTTP/2 are spoken to in it; all others in the protocol of the client.
fn upstream_protocol(protocol: AppProtocol) -> HttpProtocolOptions {
    let chosen = match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        }),
        _ => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..Default::default()
        }),
    };
    HttpProtocolOptions { upstream_protocol_options: Some(chosen), ..Default::default() }
}

fn protocol_options(cluster: &mut cluster::Cluster, options: &HttpProtocolOptions) {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster.typed_extension_protocol_options = entry(name, any(options));
}

fn raw_buffer() -> Option<TransportSocket> {
    transport_socket("envoy.transport_sockets.raw_buffer", &RawBuffer::default())
}

/// To an internal listener, with this metadata of the endpoint passed along.
fn internal_upstream(metadata: &[&str]) -> Option<TransportSocket> {
    let source = |name: &&str| MetadataValueSource {
        kind: Some(MetadataKind { kind: Some(metadata_kind::Kind::Host(metadata_kind::Host {})) }),
        name: (*name).into(),
    };
    let transport =
        InternalUpstreamTransport { passthrough_metadata: metadata.iter().map(source).collect(), transport_socket: raw_buffer() };
    transport_socket("envoy.transport_sockets.internal_upstream", &transport)
}

//! What is not implemented of clusters, listeners and connection managers, by name, beside what istiod-lite says of them, which is taken.

use ambit_api::envoy::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log},
            cluster::v3::cluster::{
                ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, OriginalDstLbConfig, TransportSocketMatch,
            },
            core::v3::{
                Address, ApiVersion, ConfigSource, DataSource, Http1ProtocolOptions, Http2ProtocolOptions,
                HttpProtocolOptions as CommonOptions, KeepaliveSettings, SocketAddress, SubstitutionFormatString,
                TrafficDirection, TransportSocket, address, config_source::ConfigSourceSpecifier, data_source::Specifier,
                socket_address::PortSpecifier, substitution_format_string::Format, transport_socket,
            },
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
            listener::v3::AdditionalAddress,
        },
        extensions::{
            access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
            filters::{
                common::set_filter_state::v3::{FilterStateValue, filter_state_value},
                http::router::v3::Router,
                network::{
                    http_connection_manager::v3::{
                        HttpConnectionManager, HttpFilter, Rds,
                        http_connection_manager::{self as hcm_pb, CodecType, RouteSpecifier, ServerHeaderTransformation},
                        http_filter,
                    },
                    set_filter_state::v3::Config as FilterState,
                    tcp_proxy::v3::tcp_proxy::TunnelingConfig,
                },
            },
            transport_sockets::{
                internal_upstream::v3::{InternalUpstreamTransport, internal_upstream_transport::MetadataValueSource},
                tls::v3::{
                    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
                    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                    tls_parameters::TlsProtocol,
                },
            },
            upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options},
        },
        r#type::metadata::v3::{MetadataKind, metadata_kind},
    },
    google::protobuf::UInt32Value,
};

use super::*;
use crate::xds::{hcm, listener, read::Compiled};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const INTERNAL: &str = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const STATE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";

/// Changes a message that is taken as it is.
type Edit<T> = fn(&mut T);

/// A message that is taken as it is made, and rejected with these words, behind the place where it is read, after each change.
fn check<T, R>(place: &str, make: impl Fn() -> T, read: impl Fn(T) -> Compiled<R>, cases: &[(Edit<T>, &str)]) {
    read(make()).map(drop).unwrap();
    for (edit, words) in cases {
        let mut said = make();
        edit(&mut said);
        let problem = read(said).map(drop).unwrap_err().to_string();
        assert_eq!(problem, format!("{place}{words}"));
    }
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn time() -> Option<Time> {
    Some(Time { seconds: 1, nanos: 0 })
}

fn socket(name: &str, message: &impl Message) -> Option<TransportSocket> {
    let config_type = Some(transport_socket::ConfigType::TypedConfig(any(name, message)));
    Some(TransportSocket { name: "socket".into(), config_type })
}

fn common_tls() -> CommonTlsContext {
    let secret = |name: &str| SdsSecretConfig { name: name.into(), sds_config: None };
    let validation = CombinedCertificateValidationContext {
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}

fn upstream_tls(change: impl FnOnce(&mut TlsParameters)) -> Option<TransportSocket> {
    let mut common = common_tls();
    change(common.tls_params.as_mut().unwrap());
    socket(TLS, &UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() })
}

/// The cluster that opens tunnels.
fn originating() -> Cluster {
    let upstream_port_override = number(15008);
    Cluster {
        name: "connect_originate".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        lb_config: Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig { upstream_port_override, ..Default::default() })),
        transport_socket: upstream_tls(|_| ()),
        ..Default::default()
    }
}

fn plain() -> Cluster {
    Cluster { name: "c".into(), ..Default::default() }
}

/// Reads what a cluster says of HTTP.
fn speaking(mut of: Cluster, said: &HttpProtocolOptions) -> Compiled<()> {
    of.typed_extension_protocol_options = [(OPTIONS.to_owned(), any(OPTIONS, said))].into();
    cluster::cluster(of).map(drop)
}

fn explicit(protocol: options::explicit_http_config::ProtocolConfig) -> HttpProtocolOptions {
    let chosen = options::ExplicitHttpConfig { protocol_config: Some(protocol) };
    let upstream_protocol_options = Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(chosen));
    HttpProtocolOptions { upstream_protocol_options, ..Default::default() }
}

fn http1(said: Http1ProtocolOptions) -> HttpProtocolOptions {
    explicit(options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(said))
}

fn http2(said: Http2ProtocolOptions) -> HttpProtocolOptions {
    explicit(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(said))
}

fn as_clients(said: options::UseDownstreamHttpConfig) -> HttpProtocolOptions {
    let upstream_protocol_options = Some(options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(said));
    HttpProtocolOptions { upstream_protocol_options, ..Default::default() }
}

/// What tunnels are, as they are sent.
fn hbone() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_connect: true,
        max_concurrent_streams: number(100),
        initial_stream_window_size: number(1 << 20),
        initial_connection_window_size: number(1 << 20),
        connection_keepalive: Some(KeepaliveSettings { interval: time(), timeout: time(), ..Default::default() }),
        ..Default::default()
    }
}

pub fn of_clusters() {
    let place = |of: &str| format!("typed_extension_protocol_options[{OPTIONS}].{of}: ");
    let common = |of: fn() -> Cluster| {
        move |said: CommonOptions| {
            let common_http_protocol_options = Some(said);
            speaking(of(), &HttpProtocolOptions { common_http_protocol_options, ..http1(Default::default()) })
        }
    };
    let cases: [(Edit<CommonOptions>, &str); 4] = [
        (|said| said.max_stream_duration = time(), "max_stream_duration is not implemented"),
        (|said| said.max_requests_per_connection = number(1), "max_requests_per_connection is not implemented"),
        (|said| said.max_headers_count = number(1), "max_headers_count is not implemented"),
        (|said| said.max_connection_duration = time(), "max_connection_duration is not implemented"),
    ];
    let at = place("common_http_protocol_options");
    check(&at, CommonOptions::default, common(plain), &cases);
    let idle: Edit<CommonOptions> = |said| said.idle_timeout = time();
    check(&at, CommonOptions::default, common(plain), &[(idle, "idle_timeout is not implemented")]);
    check(&at, || CommonOptions { idle_timeout: time(), ..Default::default() }, common(originating), &cases);

    let cases: [(Edit<Http1ProtocolOptions>, &str); 3] = [
        (|said| said.header_key_format = Some(Default::default()), "header_key_format is not implemented"),
        (|said| said.enable_trailers = true, "enable_trailers is not implemented"),
        (|said| said.accept_http_10 = true, "accept_http_10 is not implemented"),
    ];
    let default = Http1ProtocolOptions::default;
    check(&place("explicit_http_config.http_protocol_options"), default, |said| speaking(plain(), &http1(said)), &cases);
    let downstream = |said: Http1ProtocolOptions| {
        let http_protocol_options = Some(said);
        speaking(plain(), &as_clients(options::UseDownstreamHttpConfig { http_protocol_options, ..Default::default() }))
    };
    check(&place("use_downstream_protocol_config.http_protocol_options"), default, downstream, &cases);

    let cases: [(Edit<Http2ProtocolOptions>, &str); 4] = [
        (|said| said.allow_connect = true, "allow_connect is not implemented"),
        (|said| said.max_concurrent_streams = number(1), "max_concurrent_streams is not implemented"),
        (|said| said.connection_keepalive = Some(Default::default()), "connection_keepalive is not implemented"),
        (|said| said.hpack_table_size = number(1), "hpack_table_size is not implemented"),
    ];
    let windows = || Http2ProtocolOptions { initial_stream_window_size: number(1 << 20), ..Default::default() };
    check(&place("explicit_http_config.http2_protocol_options"), windows, |said| speaking(plain(), &http2(said)), &cases);
    let downstream = |said: Http2ProtocolOptions| {
        let http2_protocol_options = Some(said);
        speaking(plain(), &as_clients(options::UseDownstreamHttpConfig { http2_protocol_options, ..Default::default() }))
    };
    check(&place("use_downstream_protocol_config.http2_protocol_options"), windows, downstream, &cases);
    let jitter: Edit<Http2ProtocolOptions> =
        |said| said.connection_keepalive.as_mut().unwrap().interval_jitter = Some(Default::default());
    let at = place("explicit_http_config.http2_protocol_options.connection_keepalive");
    check(&at, hbone, |said| speaking(originating(), &http2(said)), &[(jitter, "interval_jitter is not implemented")]);
    let other: Edit<Cluster> =
        |said| drop(said.typed_extension_protocol_options.insert("other".into(), any(OPTIONS, &http1(Default::default()))));
    let words = "typed_extension_protocol_options[other]: options under this name are not implemented";
    check("", plain, cluster::cluster, &[(other, words)]);
}

/// To a listener within, around this socket.
fn around(transport_socket: Option<TransportSocket>) -> InternalUpstreamTransport {
    let kind = MetadataKind { kind: Some(metadata_kind::Kind::Host(metadata_kind::Host {})) };
    let source = |name: &str| MetadataValueSource { kind: Some(kind), name: name.into() };
    let passthrough_metadata = ["envoy.filters.listener.original_dst", "io.ambit"].map(source).into();
    InternalUpstreamTransport { passthrough_metadata, transport_socket }
}

/// What a socket wraps that leads to a listener within is looked at, too: TLS in it would be left out, and what it is for sent in clear.
pub fn of_sockets() {
    let encrypted = format!("{TLS} is not implemented");
    let missing = "transport_socket is missing";
    let wrapped = format!("transport_socket: {encrypted}");
    let cases: [(Edit<InternalUpstreamTransport>, &str); 4] = [
        (|said| said.transport_socket = upstream_tls(|_| ()), wrapped.as_str()),
        (|said| said.transport_socket = None, missing),
        (|said| said.passthrough_metadata[0].name = "istio".into(), "passthrough_metadata: \"istio\" is not implemented"),
        (|said| said.passthrough_metadata[1].kind = None, "passthrough_metadata: \"io.ambit\" is not implemented"),
    ];
    let raw = || around(socket(RAW, &()));
    // A place within joins this one by a dot, and what is wrong here itself stands behind a colon.
    for (edit, words) in cases {
        let at = if words == missing { "transport_socket: " } else { "transport_socket." };
        let own =
            |said: InternalUpstreamTransport| cluster::cluster(Cluster { transport_socket: socket(INTERNAL, &said), ..plain() });
        check(at, raw, own, &[(edit, words)]);
        let matched = |said: InternalUpstreamTransport| {
            let transport_socket = socket(INTERNAL, &said);
            let matched = TransportSocketMatch { name: "hbone".into(), transport_socket, ..Default::default() };
            cluster::cluster(Cluster { transport_socket_matches: vec![matched], ..plain() })
        };
        check(&format!("transport_socket_matches[hbone].{at}"), raw, matched, &[(edit, words)]);
    }

    let expected = format!("transport_socket: {RAW} where {TLS} is expected");
    let cases: [(Edit<Cluster>, &str); 4] = [
        (|said| said.transport_socket = None, "transport_socket is missing"),
        (|said| said.transport_socket = socket(RAW, &()), expected.as_str()),
        (
            |said| said.transport_socket_matches = vec![TransportSocketMatch::default()],
            "transport_socket_matches is not implemented where tunnels are opened",
        ),
        (
            |said| said.transport_socket = upstream_tls(|params| params.ecdh_curves = vec!["P-256".into()]),
            "transport_socket.common_tls_context.tls_params: ecdh_curves is not implemented",
        ),
    ];
    check("", originating, cluster::cluster, &cases);
    let endpoint = |said: SocketAddress| {
        let address = Some(Address { address: Some(address::Address::SocketAddress(said)) });
        let host_identifier = Some(HostIdentifier::Endpoint(Endpoint { address, ..Default::default() }));
        let lb_endpoints = vec![LbEndpoint { host_identifier, ..Default::default() }];
        let endpoints = vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }];
        cluster::endpoints(ClusterLoadAssignment { endpoints, ..Default::default() })
    };
    let cases: [(Edit<SocketAddress>, &str); 2] = [
        (|said| said.protocol = 1, "protocol is not implemented"),
        (|said| said.resolver_name = "r".into(), "resolver_name is not implemented"),
    ];
    check("endpoints[0].socket_address: ", || at("10.0.0.1"), endpoint, &cases);
}

fn at(address: &str) -> SocketAddress {
    let port_specifier = Some(PortSpecifier::PortValue(15008));
    SocketAddress { address: address.into(), port_specifier, ..Default::default() }
}

fn manager(route_specifier: RouteSpecifier) -> HttpConnectionManager {
    let router = any("envoy.extensions.filters.http.router.v3.Router", &Router::default());
    let config_type = Some(http_filter::ConfigType::TypedConfig(router));
    HttpConnectionManager {
        http_filters: vec![HttpFilter { name: "router".into(), config_type, ..Default::default() }],
        route_specifier: Some(route_specifier),
        ..Default::default()
    }
}

fn discovered(api: i32) -> RouteSpecifier {
    let config_source = Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        resource_api_version: api,
        ..Default::default()
    });
    RouteSpecifier::Rds(Rds { config_source, route_config_name: "r".into() })
}

/// A line of this beginning to a file.
fn line(text: &str) -> AccessLog {
    let specifier = Some(Specifier::InlineString(text.into()));
    let format = Some(Format::TextFormatSource(DataSource { specifier, ..Default::default() }));
    let log_format = AccessLogFormat::LogFormat(SubstitutionFormatString { format, ..Default::default() });
    let file = FileAccessLog { path: "/dev/stdout".into(), access_log_format: Some(log_format) };
    let file = any("envoy.extensions.access_loggers.file.v3.FileAccessLog", &file);
    AccessLog { config_type: Some(access_log::ConfigType::TypedConfig(file)), ..Default::default() }
}

pub fn of_managers() {
    let said = || HttpConnectionManager {
        // Where the header of a service is left as it is, the name of the proxy is nowhere.
        server_name: "s".into(),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        ..manager(discovered(ApiVersion::V3.into()))
    };
    let cases: [(Edit<HttpConnectionManager>, &str); 8] = [
        (|said| said.delayed_close_timeout = time(), "delayed_close_timeout is not implemented"),
        (|said| said.drain_timeout = time(), "drain_timeout is not implemented"),
        (|said| said.server_header_transformation = 0, "server_name is not implemented"),
        (|said| said.codec_type = CodecType::Http1.into(), "codec_type is not implemented"),
        (|said| said.access_log_options = Some(Default::default()), "access_log_options is not implemented"),
        (|said| said.http2_protocol_options = Some(hbone()), "http2_protocol_options is not implemented"),
        (
            |said| said.common_http_protocol_options = Some(CommonOptions::default()),
            "common_http_protocol_options is not implemented",
        ),
        (|said| said.route_specifier = Some(discovered(1)), "rds.config_source: resource_api_version is not implemented"),
    ];
    check("", said, hcm::chain, &cases);
}

/// A listener that ends tunnels.
fn terminating(manager: &HttpConnectionManager) -> Listener {
    let context = DownstreamTlsContext {
        common_tls_context: Some(common_tls()),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let tls = socket("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", &context);
    let chain = FilterChain { filters: vec![filter(MANAGER, manager)], transport_socket: tls, ..Default::default() };
    Listener {
        name: "connect_terminate".into(),
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress { ipv4_compat: true, ..at("::") })),
        }),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

fn tunnels() -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Http2.into(),
        http2_protocol_options: Some(hbone()),
        access_log: vec![line("%START_TIME% access direction=inbound %RESPONSE_CODE%")],
        upgrade_configs: vec![hcm_pb::UpgradeConfig { upgrade_type: "CONNECT".into(), ..Default::default() }],
        ..manager(discovered(ApiVersion::V3.into()))
    }
}

pub fn of_tunnels() {
    let cases: [(Edit<HttpConnectionManager>, &str); 9] = [
        (|said| said.delayed_close_timeout = time(), ": delayed_close_timeout is not implemented"),
        (|said| said.drain_timeout = time(), ": drain_timeout is not implemented"),
        (|said| said.server_name = "s".into(), ": server_name is not implemented"),
        (|said| said.codec_type = CodecType::Http1.into(), ": codec_type is not implemented"),
        (
            |said| said.http2_protocol_options.as_mut().unwrap().max_outbound_frames = number(1),
            ".http2_protocol_options: max_outbound_frames is not implemented",
        ),
        (
            |said| said.access_log = vec![line("%RESPONSE_CODE%")],
            ": access_log: other lines of tunnels than the mesh's own are not implemented",
        ),
        (|said| said.access_log_options = Some(Default::default()), ": access_log_options is not implemented"),
        (
            |said| said.upgrade_configs[0].enabled = Some(BoolValue { value: false }),
            ".upgrade_configs: enabled is not implemented",
        ),
        (|said| said.http_filters[0].disabled = true, ".router: disabled is not implemented"),
    ];
    check("http_connection_manager", tunnels, |said| listener::listener(terminating(&said)), &cases);
}

pub fn of_listeners() {
    let cases: [(Edit<Listener>, &str); 5] = [
        (|said| said.access_log = vec![line("%START_TIME%")], "access_log is not implemented"),
        (|said| said.traffic_direction = TrafficDirection::Outbound.into(), "traffic_direction is not implemented"),
        (|said| said.additional_addresses = vec![AdditionalAddress::default()], "additional_addresses is not implemented"),
        (
            |said| said.address = Some(Address { address: Some(address::Address::SocketAddress(at("10.0.0.1"))) }),
            "address.socket_address: \"10.0.0.1\", which is not all addresses, is not implemented",
        ),
        (|said| said.listener_filters_timeout = time(), "listener_filters_timeout is not implemented"),
    ];
    let make = || Listener { traffic_direction: TrafficDirection::Inbound.into(), ..terminating(&tunnels()) };
    check("", make, listener::listener, &cases);
}

fn fact(key: &str, text: &str) -> FilterStateValue {
    let specifier = Some(Specifier::InlineString(text.into()));
    let format = Some(Format::TextFormatSource(DataSource { specifier, ..Default::default() }));
    let value = SubstitutionFormatString { format, ..Default::default() };
    FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.into())),
        value: Some(filter_state_value::Value::FormatString(value)),
        ..Default::default()
    }
}

pub fn of_the_way_to_endpoints() {
    let proxy = || TcpProxy {
        stat_prefix: "connect_originate".into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("connect_originate".into())),
        idle_timeout: Some(Time::default()),
        tunneling_config: Some(TunnelingConfig { hostname: "%DOWNSTREAM_LOCAL_ADDRESS%".into(), ..Default::default() }),
        ..Default::default()
    };
    let read = |said: TcpProxy| listener::listener(internal("connect_originate", vec![filter(TCP, &said)]));
    let tunnelling = |proxy: &mut TcpProxy, edit: fn(&mut TunnelingConfig)| edit(proxy.tunneling_config.as_mut().unwrap());
    assert!(read(proxy()).is_ok());
    let of = |edit: fn(&mut TunnelingConfig)| {
        let mut said = proxy();
        tunnelling(&mut said, edit);
        read(said).map(drop).unwrap_err().to_string()
    };
    assert_eq!(of(|said| said.hostname = "a:1".into()), "f.tunneling_config: hostname \"a:1\" is not implemented");
    assert_eq!(of(|said| said.use_post = true), "f.tunneling_config: use_post is not implemented");
    assert_eq!(
        of(|said| said.headers_to_add = vec![HeaderValueOption::default()]),
        "f.tunneling_config: headers_to_add is not implemented"
    );
    let cases: [(Edit<TcpProxy>, &str); 3] = [
        (|said| said.access_log = vec![line("%START_TIME%")], "f: access_log is not implemented"),
        (|said| said.idle_timeout = time(), "f: idle_timeout is not implemented"),
        (|said| said.tunneling_config = None, "f: it must tunnel to the cluster connect_originate"),
    ];
    check("", proxy, read, &cases);

    let state = || FilterState {
        on_new_connection: vec![
            fact("io.ambit.upstream_identity", "%DYNAMIC_METADATA(io.ambit:identity)%"),
            fact("envoy.network.upstream_subject_alt_names", "%FILTER_STATE(io.ambit.upstream_identity:PLAIN)%"),
        ],
        ..Default::default()
    };
    let read = |said: FilterState| listener::listener(internal("connect_originate", vec![filter(STATE, &said)]));
    let other = "f: filter state \"envoy.network.upstream_subject_alt_names\" from \"spiffe://other\" is not implemented";
    let cases: [(Edit<FilterState>, &str); 2] = [
        (|said| said.on_new_connection[1] = fact("envoy.network.upstream_subject_alt_names", "spiffe://other"), other),
        (|said| said.on_new_connection.push(fact("a", "b")), "f: filter state \"a\" from \"b\" is not implemented"),
    ];
    check("", state, read, &cases);
}

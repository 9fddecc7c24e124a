//! Envoy resources of a waypoint, as the control plane makes them.

use std::net::SocketAddr;

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
                },
                common::mutation_rules::v3::{HeaderMutation, header_mutation::Action as HeaderAction},
                core::v3::{
                    Address, AggregatedConfigSource, ConfigSource, DataSource, EnvoyInternalAddress, GrpcService, HeaderValue,
                    HeaderValueOption, Metadata, SocketAddress, SubstitutionFormatString, TransportSocket,
                    TypedExtensionConfig as Extension, address,
                    config_source::ConfigSourceSpecifier,
                    data_source,
                    envoy_internal_address::AddressNameSpecifier,
                    grpc_service::{EnvoyGrpc, TargetSpecifier},
                    header_value_option::HeaderAppendAction,
                    socket_address::PortSpecifier,
                    substitution_format_string, transport_socket,
                },
                endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
                listener::v3::{
                    Filter, FilterChain, Listener, filter, listener::InternalListenerConfig, listener::ListenerSpecifier,
                },
                ratelimit::v3::RateLimitServiceConfig,
                rbac::v3::{self as rbac, Rbac},
                route::v3::{
                    self as route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
                    route_action::ClusterSpecifier, route_match::PathSpecifier, weighted_cluster::ClusterWeight,
                },
            },
            extensions::{
                filters::{
                    common::set_filter_state::v3::{FilterStateValue, filter_state_value},
                    http::{
                        adaptive_concurrency::v3::{
                            AdaptiveConcurrency, GradientControllerConfig,
                            adaptive_concurrency::ConcurrencyControllerConfig,
                            gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams},
                        },
                        buffer::v3::Buffer,
                        cors::v3::Cors,
                        ext_proc::v3::{ExternalProcessor, external_processor::RouteCacheAction},
                        local_ratelimit::v3::LocalRateLimit,
                        ratelimit::v3::RateLimit,
                        rbac::v3::Rbac as HttpRbac,
                        router::v3::Router,
                        stateful_session::v3::StatefulSession,
                    },
                    network::{
                        http_connection_manager::v3::{
                            HttpConnectionManager, HttpFilter, Rds, http_connection_manager as hcm, http_filter,
                        },
                        rbac::v3::Rbac as NetworkRbac,
                        set_filter_state::v3::Config as SetFilterState,
                        tcp_proxy::v3::{TcpProxy, tcp_proxy},
                    },
                },
                http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyChanges,
                transport_sockets::tls::v3::{
                    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
                    TlsParameters,
                    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                    subject_alt_name_matcher::SanType,
                },
                upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options},
            },
            r#type::matcher::v3::{FilterStateMatcher, StringMatcher, filter_state_matcher, string_matcher::MatchPattern},
        },
        google::protobuf::{Any, BoolValue, Duration, StringValue, Struct, UInt32Value, Value, value::Kind},
        xds::{
            core::v3::{CidrRange, TypedExtensionConfig},
            r#type::matcher::v3::{
                Matcher,
                matcher::{
                    MatcherTree, MatcherType, OnMatch,
                    matcher_tree::{MatchMap, TreeType},
                    on_match,
                },
            },
        },
    },
    matcher::{IpMatcher, IpRangeMatcher},
};
use prost::Message;

pub use route::Route;

/// The listeners of a waypoint in front of the pod at `pod`, with the pod's identity, and its table of tunnels.
pub fn direct(pod: SocketAddr, identity: &str) -> (Vec<(String, Listener)>, RouteConfiguration, Cluster) {
    let name = format!("direct-http|{identity}");
    let value = |key: &str, text: &str| FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.into())),
        value: Some(filter_state_value::Value::FormatString(SubstitutionFormatString {
            format: Some(substitution_format_string::Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text.into())),
                ..Default::default()
            })),
            ..Default::default()
        })),
        ..Default::default()
    };
    let state = SetFilterState {
        on_new_connection: vec![
            value("envoy.filters.listener.original_dst.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%"),
            value("io.ambit.upstream_identity", identity),
        ],
        ..Default::default()
    };
    let config = HttpConnectionManager {
        route_specifier: Some(hcm::RouteSpecifier::RouteConfig(routes(&name, vec![to("direct")]).1)),
        http_filters: vec![router()],
        ..Default::default()
    };
    let chain = FilterChain {
        name: name.clone(),
        filters: vec![network("envoy.extensions.filters.network.set_filter_state.v3.Config", &state), hcm_filter(config)],
        ..Default::default()
    };
    let inner = Listener {
        name: "main_internal".into(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        filter_chain_matcher: Some(tree("DestinationIPInput", map(vec![(pod.ip().to_string(), action(&name))]), None)),
        filter_chains: vec![chain],
        ..Default::default()
    };
    let (_, mut table) = authorities(&[Service::http("direct", pod)]);
    table.virtual_hosts[0].domains = vec![format!("{}:*", pod.ip())];
    let internal = address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName("connect_originate".into())),
        ..Default::default()
    });
    let host = Endpoint { address: Some(Address { address: Some(internal) }), ..Default::default() };
    let endpoint = LbEndpoint { host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(host)), ..Default::default() };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() };
    let assignment = ClusterLoadAssignment { cluster_name: "direct".into(), endpoints: vec![locality], ..Default::default() };
    let cluster = Cluster { name: "direct".into(), load_assignment: Some(assignment), ..Default::default() };
    let listeners = vec![("connect_terminate".into(), connect_terminate()), ("main_internal".into(), inner)];
    (listeners, table, cluster)
}

/// Changes how a processor is asked.
pub type ChangeProcessor = fn(&mut ExternalProcessor);

/// A service port behind the waypoint.
#[derive(Clone)]
pub struct Service {
    pub name: &'static str,
    pub vip: SocketAddr,
    /// `http`, `http1`, `http2` (always so to the endpoints), `tcp`, or `auto` to look at the first bytes.
    pub protocol: &'static str,
    pub rbac: Vec<Rbac>,
    /// Rule sets that are not enforced.
    pub dry_run: Vec<Rbac>,
    /// The cluster of a processor, and what is changed of how it is asked.
    pub processor: Option<(&'static str, ChangeProcessor)>,
    /// So many requests are let in at once.
    pub at_once: Option<u32>,
    /// What is told of them to a collector of spans.
    pub tracing: Option<fn() -> hcm::Tracing>,
}

impl Service {
    pub fn http(name: &'static str, vip: SocketAddr) -> Self {
        Self { name, vip, protocol: "http", rbac: vec![], dry_run: vec![], processor: None, at_once: None, tracing: None }
    }

    pub fn cluster(&self) -> String {
        self.chain()
    }

    pub fn chain(&self) -> String {
        let kind = if self.protocol == "tcp" { "tcp" } else { "http" };
        format!("inbound-vip|{}|{kind}|{}.shop.svc.cluster.local", self.vip.port(), self.name)
    }

    pub fn tcp_chain(&self) -> String {
        format!("inbound-vip|{}|tcp|{}.shop.svc.cluster.local", self.vip.port(), self.name)
    }
}

pub fn any<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

pub fn ads() -> Option<ConfigSource> {
    let specifier = ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
    Some(ConfigSource { config_source_specifier: Some(specifier), resource_api_version: 2, ..Default::default() })
}

fn hcm_filter(config: HttpConnectionManager) -> Filter {
    network("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", &config)
}

fn network<M: Message>(type_name: &str, config: &M) -> Filter {
    Filter { name: type_name.into(), config_type: Some(filter::ConfigType::TypedConfig(any(type_name, config))) }
}

fn http_filter<M: Message>(type_name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: type_name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(type_name, config))),
        ..Default::default()
    }
}

fn router() -> HttpFilter {
    http_filter("envoy.extensions.filters.http.router.v3.Router", &Router { suppress_envoy_headers: true, ..Default::default() })
}

fn rds(name: &str) -> Option<hcm::RouteSpecifier> {
    Some(hcm::RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: name.into() }))
}

pub fn listeners(services: &[Service]) -> Vec<(String, Listener)> {
    vec![("connect_terminate".into(), connect_terminate()), ("main_internal".into(), main_internal(services))]
}

fn connect_terminate() -> Listener {
    let secret = |name: &str| SdsSecretConfig { name: name.into(), ..Default::default() };
    let san = SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix("spiffe://cluster.local/".into())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: 4,
                tls_maximum_protocol_version: 4,
                ..Default::default()
            }),
            alpn_protocols: vec!["h2".into()],
            tls_certificate_sds_secret_configs: vec![secret("default")],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(CertificateValidationContext {
                        match_typed_subject_alt_names: vec![san],
                        ..Default::default()
                    }),
                    validation_context_sds_secret_config: Some(secret("ROOTCA")),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let tls = any("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", &context);
    let config = HttpConnectionManager {
        stat_prefix: "connect_terminate".into(),
        route_specifier: rds("connect_terminate"),
        http_filters: vec![router()],
        upgrade_configs: vec![hcm::UpgradeConfig { upgrade_type: "CONNECT".into(), ..Default::default() }],
        ..Default::default()
    };
    let socket =
        SocketAddress { address: "::".into(), port_specifier: Some(PortSpecifier::PortValue(15008)), ..Default::default() };
    Listener {
        name: "connect_terminate".into(),
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        filter_chains: vec![FilterChain {
            transport_socket: Some(TransportSocket {
                name: "tls".into(),
                config_type: Some(transport_socket::ConfigType::TypedConfig(tls)),
            }),
            filters: vec![hcm_filter(config)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub type Manager = HttpConnectionManager;

/// A listener at the edge of the mesh; `name` is its own and that of its routes.
pub fn edge(port: u16, name: &str) -> Listener {
    edge_with(port, name, |_| {})
}

/// The same, with something changed in how it takes requests.
pub fn edge_with(port: u16, name: &str, change: impl Fn(&mut Manager)) -> Listener {
    let mut config = HttpConnectionManager {
        stat_prefix: name.into(),
        route_specifier: rds(name),
        http_filters: vec![router()],
        use_remote_address: Some(BoolValue { value: true }),
        ..Default::default()
    };
    change(&mut config);
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let socket = SocketAddress { address: "::".into(), port_specifier, ipv4_compat: true, ..Default::default() };
    Listener {
        name: name.into(),
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        filter_chains: vec![FilterChain { name: name.into(), filters: vec![hcm_filter(config)], ..Default::default() }],
        ..Default::default()
    }
}

/// The same listeners, where each request says who its client is.
pub fn telling_clients(mut listeners: Vec<(String, Listener)>) -> Vec<(String, Listener)> {
    let inner = listeners.iter_mut().filter(|(name, _)| name == "main_internal");
    for filter in inner.flat_map(|(_, inner)| &mut inner.filter_chains).flat_map(|chain| &mut chain.filters) {
        if let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type
            && config.type_url.ends_with(".HttpConnectionManager")
        {
            let mut config = Manager::decode(config.value.as_slice()).expect("a connection manager");
            tell_clients(&mut config);
            *filter = hcm_filter(config);
        }
    }
    listeners
}

/// Has each request say who its client is.
pub fn tell_clients(config: &mut Manager) {
    const HEADER: &str = "x-forwarded-client-cert";
    let value = "%FILTER_STATE(io.ambit.forwarded_client_cert:PLAIN)%".into();
    let set = HeaderValueOption {
        header: Some(HeaderValue { key: HEADER.into(), value, ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let actions = [HeaderAction::Remove(HEADER.into()), HeaderAction::Append(set)];
    let changes = EarlyChanges { mutations: actions.map(|action| HeaderMutation { action: Some(action) }).into() };
    let early = any("envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", &changes);
    config.early_header_mutation_extensions = vec![Extension { name: "early".into(), typed_config: Some(early) }];
    config.forward_client_cert_details = hcm::ForwardClientCertDetails::AlwaysForwardOnly as i32;
}

fn action(chain: &str) -> OnMatch {
    let name = StringValue { value: chain.into() };
    let config = TypedExtensionConfig { name: chain.into(), typed_config: Some(any("google.protobuf.StringValue", &name)) };
    OnMatch { on_match: Some(on_match::OnMatch::Action(config)), ..Default::default() }
}

fn nested(matcher: Matcher) -> OnMatch {
    OnMatch { on_match: Some(on_match::OnMatch::Matcher(Box::new(matcher))), ..Default::default() }
}

fn tree(input: &str, tree_type: TreeType, otherwise: Option<OnMatch>) -> Matcher {
    let type_name = format!("envoy.extensions.matching.common_inputs.network.v3.{input}");
    let input = TypedExtensionConfig { name: input.into(), typed_config: Some(any(&type_name, &())) };
    Matcher {
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree { input: Some(input), tree_type: Some(tree_type) })),
        on_no_match: otherwise.map(Box::new),
    }
}

fn map(entries: Vec<(String, OnMatch)>) -> TreeType {
    TreeType::ExactMatchMap(MatchMap { map: entries.into_iter().collect() })
}

fn main_internal(services: &[Service]) -> Listener {
    let range_matchers = services
        .iter()
        .map(|service| {
            let leaf = match service.protocol {
                "auto" => nested(tree(
                    "ApplicationProtocolInput",
                    map(vec![("'http/1.1'".into(), action(&service.chain())), ("'h2c'".into(), action(&service.chain()))]),
                    Some(action(&service.tcp_chain())),
                )),
                _ => action(&service.chain()),
            };
            let ports = tree("DestinationPortInput", map(vec![(service.vip.port().to_string(), leaf)]), None);
            IpRangeMatcher {
                ranges: vec![CidrRange {
                    address_prefix: service.vip.ip().to_string(),
                    prefix_len: Some(UInt32Value { value: if service.vip.is_ipv4() { 32 } else { 128 } }),
                }],
                on_match: Some(nested(ports)),
                exclusive: false,
            }
        })
        .collect();
    let matcher = any("xds.type.matcher.v3.IPMatcher", &IpMatcher { range_matchers });
    let custom = TypedExtensionConfig { name: "ip".into(), typed_config: Some(matcher) };
    let mut chains: Vec<FilterChain> = services.iter().filter(|s| s.protocol != "tcp").map(http_chain).collect();
    chains.extend(services.iter().filter(|s| matches!(s.protocol, "tcp" | "auto")).map(tcp_chain));
    chains.push(FilterChain {
        name: "blocked".into(),
        filters: vec![network_rbac(&Rbac::default()), tcp_proxy("blocked")],
        ..Default::default()
    });
    Listener {
        name: "main_internal".into(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        filter_chain_matcher: Some(tree("DestinationIPInput", TreeType::CustomMatch(custom), Some(action("blocked")))),
        filter_chains: chains,
        ..Default::default()
    }
}

/// A server of limits that is not there.
fn limiter(name: &str, failure_mode_deny: bool) -> HttpFilter {
    let envoy = EnvoyGrpc { cluster_name: "limiter".into(), ..Default::default() };
    let grpc_service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    let service = RateLimitServiceConfig { grpc_service: Some(grpc_service), transport_api_version: 2 };
    let config = RateLimit { domain: "mesh".into(), failure_mode_deny, rate_limit_service: Some(service), ..Default::default() };
    let filter = http_filter("envoy.extensions.filters.http.ratelimit.v3.RateLimit", &config);
    HttpFilter { name: format!("envoy.filters.http.ratelimit.{name}"), ..filter }
}

fn http_chain(service: &Service) -> FilterChain {
    let rbac = |rules: &Rbac| HttpRbac { rules: Some(rules.clone()), ..Default::default() };
    let mut http_filters: Vec<_> =
        service.rbac.iter().map(|r| http_filter("envoy.extensions.filters.http.rbac.v3.RBAC", &rbac(r))).collect();
    let dry_run = |rules: &Rbac| HttpRbac {
        shadow_rules: Some(rules.clone()),
        shadow_rules_stat_prefix: "istio_dry_run_".into(),
        ..Default::default()
    };
    http_filters.extend(service.dry_run.iter().map(|r| http_filter("envoy.extensions.filters.http.rbac.v3.RBAC", &dry_run(r))));
    let mut cors = http_filter("envoy.extensions.filters.http.cors.v3.Cors", &Cors::default());
    cors.name = "envoy.filters.http.cors".into();
    let sessions = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
    let mut sessions = http_filter(sessions, &StatefulSession::default());
    sessions.name = "envoy.filters.http.stateful_session".into();
    let mut faults = http_filter("envoy.extensions.filters.http.fault.v3.HTTPFault", &());
    faults.name = "envoy.filters.http.fault".into();
    let limits = LocalRateLimit { stat_prefix: "limits".into(), ..Default::default() };
    let mut limits = http_filter("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", &limits);
    limits.name = "envoy.filters.http.local_ratelimit".into();
    http_filters.extend([cors, faults, limits, limiter("strict", true), limiter("open", false)]);
    let mut bodies = http_filter(
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        &Buffer { max_request_bytes: Some(UInt32Value { value: 1 }) },
    );
    // Routes turn it on.
    (bodies.name, bodies.disabled) = ("envoy.filters.http.buffer".into(), true);
    http_filters.push(bodies);
    http_filters.extend(service.processor.map(|(cluster, change)| processor(cluster, change)));
    http_filters.extend(service.at_once.map(admission));
    // What a proxy before says of its time holds, as the control plane asks for.
    let router = Router { suppress_envoy_headers: true, respect_expected_rq_timeout: true, ..Default::default() };
    http_filters.extend([sessions, http_filter("envoy.extensions.filters.http.router.v3.Router", &router)]);
    let config = HttpConnectionManager {
        stat_prefix: service.chain(),
        route_specifier: rds(&service.chain()),
        http_filters,
        upgrade_configs: vec![hcm::UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        normalize_path: Some(BoolValue { value: true }),
        generate_request_id: Some(BoolValue { value: service.tracing.is_some() }),
        tracing: service.tracing.map(|tracing| tracing()),
        server_header_transformation: hcm::ServerHeaderTransformation::PassThrough as i32,
        stream_idle_timeout: Some(Duration::default()),
        ..Default::default()
    };
    FilterChain { name: service.chain(), filters: vec![hcm_filter(config)], ..Default::default() }
}

/// Lets in so many requests at once, neither more nor fewer.
fn admission(at_once: u32) -> HttpFilter {
    let (at_once, seconds) = (Some(UInt32Value { value: at_once }), |seconds| Some(Duration { seconds, nanos: 0 }));
    let controller = GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            max_concurrency_limit: at_once,
            concurrency_update_interval: seconds(1),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            fixed_value: seconds(10),
            min_concurrency: at_once,
            ..Default::default()
        }),
        ..Default::default()
    };
    let config = AdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(controller)),
        ..Default::default()
    };
    http_filter("envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency", &config)
}

/// A processor that is told of headers.
fn processor(cluster: &str, change: fn(&mut ExternalProcessor)) -> HttpFilter {
    let envoy = EnvoyGrpc { cluster_name: cluster.into(), authority: "processor.shop".into(), ..Default::default() };
    let mut config = ExternalProcessor {
        grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }),
        route_cache_action: RouteCacheAction::Retain.into(),
        message_timeout: Some(Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    };
    change(&mut config);
    let mut filter = http_filter("envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", &config);
    filter.name = "envoy.filters.http.ext_proc".into();
    filter
}

fn network_rbac(rules: &Rbac) -> Filter {
    let config = NetworkRbac { rules: Some(rules.clone()), stat_prefix: "tcp.".into(), ..Default::default() };
    network("envoy.extensions.filters.network.rbac.v3.RBAC", &config)
}

fn dry_run_of_connections(rules: &Rbac) -> Filter {
    let config = NetworkRbac {
        shadow_rules: Some(rules.clone()),
        shadow_rules_stat_prefix: "istio_dry_run_".into(),
        stat_prefix: "tcp.".into(),
        ..Default::default()
    };
    network("envoy.extensions.filters.network.rbac.v3.RBAC", &config)
}

fn tcp_proxy(cluster: &str) -> Filter {
    let config = TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    network("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &config)
}

pub fn tcp_chain(service: &Service) -> FilterChain {
    let mut filters: Vec<_> = service.rbac.iter().map(network_rbac).collect();
    filters.extend(service.dry_run.iter().map(dry_run_of_connections));
    filters.push(tcp_proxy(&service.tcp_chain()));
    FilterChain { name: service.tcp_chain(), filters, ..Default::default() }
}

/// The table of tunnels: every service port, by address.
pub fn authorities(services: &[Service]) -> (String, RouteConfiguration) {
    let connect = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::ConnectMatcher(route::route_match::ConnectMatcher {})),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster("main_internal".into())),
            timeout: Some(Duration::default()),
            ..Default::default()
        })),
        ..Default::default()
    };
    let virtual_hosts = services
        .iter()
        .map(|s| VirtualHost {
            name: s.chain(),
            domains: vec![s.vip.to_string()],
            routes: vec![connect.clone()],
            ..Default::default()
        })
        .collect();
    let name = "connect_terminate".to_owned();
    (name.clone(), RouteConfiguration { name, virtual_hosts, ..Default::default() })
}

pub fn routes(name: &str, routes: Vec<Route>) -> (String, RouteConfiguration) {
    let host = VirtualHost { name: "all".into(), domains: vec!["*".into()], routes, ..Default::default() };
    let config = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        most_specific_header_mutations_wins: true,
        validate_clusters: Some(BoolValue { value: false }),
        ..Default::default()
    };
    (name.into(), config)
}

fn forward(cluster_specifier: ClusterSpecifier) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(cluster_specifier),
        timeout: Some(Duration::default()),
        cluster_not_found_response_code: route::route_action::ClusterNotFoundResponseCode::InternalServerError as i32,
        ..Default::default()
    }
}

/// Everything to one cluster.
pub fn to(cluster: &str) -> Route {
    on("/", forward(ClusterSpecifier::Cluster(cluster.into())))
}

/// A path prefix to a cluster.
pub fn prefix_to(prefix: &str, cluster: &str) -> Route {
    on(prefix, forward(ClusterSpecifier::Cluster(cluster.into())))
}

/// Everything to clusters by weight.
pub fn split(clusters: &[(&str, u32)]) -> Route {
    let clusters = clusters
        .iter()
        .map(|(name, weight)| ClusterWeight {
            name: (*name).into(),
            weight: Some(UInt32Value { value: *weight }),
            ..Default::default()
        })
        .collect();
    on("/", forward(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..Default::default() })))
}

pub fn on(prefix: &str, action: RouteAction) -> Route {
    Route {
        name: format!("shop/billing/{prefix}"),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix(prefix.into())), ..Default::default() }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// A cluster of each service, and for `auto` one of each kind.
pub fn clusters(services: &[Service]) -> Vec<(String, Cluster)> {
    let mut all = Vec::new();
    for service in services {
        all.push((service.cluster(), cluster(&service.cluster(), service)));
        if service.protocol == "auto" {
            all.push((service.tcp_chain(), cluster(&service.tcp_chain(), service)));
        }
    }
    all
}

pub fn cluster(name: &str, service: &Service) -> Cluster {
    let protocol = match service.protocol {
        "http2" => options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
            protocol_config: Some(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Default::default())),
        }),
        "http1" => options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
            protocol_config: Some(options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default())),
        }),
        _ => options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(options::UseDownstreamHttpConfig::default()),
    };
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: name.into() }),
        connect_timeout: Some(Duration { seconds: 2, nanos: 0 }),
        typed_extension_protocol_options: [(key.to_owned(), any(key, &options))].into(),
        metadata: Some(metadata(&[("service", &format!("shop/{}", service.name))])),
        ..Default::default()
    }
}

fn metadata(fields: &[(&str, &str)]) -> Metadata {
    let text = |v: &str| Value { kind: Some(Kind::StringValue(v.into())) };
    let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect();
    Metadata { filter_metadata: [("io.ambit".to_owned(), Struct { fields })].into(), ..Default::default() }
}

/// An endpoint.
#[derive(Clone, Copy)]
pub enum Ep {
    Hbone(SocketAddr, &'static str),
    Clear(SocketAddr),
}

pub fn assignment(cluster: &str, endpoints: Vec<Ep>) -> (String, ClusterLoadAssignment) {
    let lb_endpoints = endpoints
        .into_iter()
        .map(|endpoint| {
            let (address, metadata) = match endpoint {
                Ep::Hbone(address, identity) => (
                    address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
                        endpoint_id: address.to_string(),
                        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName("connect_originate".into())),
                    }),
                    metadata(&[
                        ("identity", identity),
                        ("workload", "shop/billing"),
                        ("workload_name", "billing-v1"),
                        ("canonical_name", "payments"),
                    ]),
                ),
                Ep::Clear(address) => (
                    address::Address::SocketAddress(SocketAddress {
                        address: address.ip().to_string(),
                        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
                        ..Default::default()
                    }),
                    metadata(&[("workload", "shop/legacy")]),
                ),
            };
            let host = Endpoint { address: Some(Address { address: Some(address) }), ..Default::default() };
            LbEndpoint {
                metadata: Some(metadata),
                host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(host)),
                ..Default::default()
            }
        })
        .collect();
    let locality = LocalityLbEndpoints { lb_endpoints, ..Default::default() };
    let name = cluster.to_owned();
    (name.clone(), ClusterLoadAssignment { cluster_name: name, endpoints: vec![locality], ..Default::default() })
}

/// A rule set with one rule: `principal` may (or may not) do `permission`.
pub fn rules(action: rbac::rbac::Action, name: &str, permission: rbac::permission::Rule, principal: &str) -> Rbac {
    let peer = FilterStateMatcher {
        key: "io.istio.peer_principal".into(),
        matcher: Some(filter_state_matcher::Matcher::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(principal.into())),
            ..Default::default()
        })),
    };
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(permission) }],
        principals: vec![rbac::Principal { identifier: Some(rbac::principal::Identifier::FilterState(peer)) }],
        ..Default::default()
    };
    Rbac { action: action as i32, policies: [(name.to_owned(), policy)].into(), ..Default::default() }
}

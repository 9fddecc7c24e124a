//! Small constructors of Envoy messages, and wire-identical forms of the few that hold maps.
//!
//! The generated types keep map fields in a `HashMap`, whose order differs from one instance to the next, so the same
//! resource would have other bytes, another version, and be pushed again. Where a map has more than one entry the
//! messages of [`ordered`] take its place, or it is made by [`entries`]; everywhere else maps have at most one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3 as core;
use ambit_api::envoy::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use ambit_api::envoy::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteConfiguration, VirtualHost, header_matcher::HeaderMatchSpecifier,
};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{FilterStateMatcher, RegexMatcher, StringMatcher, filter_state_matcher};
use ambit_api::envoy::pb::google::protobuf as wkt;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{Message, Name};

pub use wkt::Any;

/// `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

pub fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: T::type_url(), value: message.encode_to_vec() }
}

/// An `Any` of a message whose type is given by its name, for [`ordered`] messages.
pub fn any_as(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

pub fn bool_value(value: bool) -> Option<wkt::BoolValue> {
    Some(wkt::BoolValue { value })
}

pub fn u32_value(value: u32) -> Option<wkt::UInt32Value> {
    Some(wkt::UInt32Value { value })
}

pub fn duration(value: Duration) -> Option<wkt::Duration> {
    let nanos = i32::try_from(value.subsec_nanos()).unwrap_or(0);
    Some(wkt::Duration { seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX), nanos })
}

pub fn seconds(value: u64) -> Option<wkt::Duration> {
    duration(Duration::from_secs(value))
}

/// A map with the one entry that may be written without losing determinism.
pub fn entry<V>(key: &str, value: V) -> HashMap<String, V> {
    HashMap::from([(key.to_owned(), value)])
}

/// A map of these few entries, in the order of their keys. The order of a map is drawn when it is made, and its copies have it too; so maps are
/// made until one has this.
pub fn entries<V: Clone>(entries: &BTreeMap<String, V>) -> HashMap<String, V> {
    loop {
        let map: HashMap<_, _> = entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if map.keys().is_sorted() {
            return map;
        }
    }
}

pub fn string_kind(value: impl Into<String>) -> wkt::Value {
    wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.into())) }
}

pub fn transport_socket<T: Message + Name>(name: &str, message: &T) -> Option<core::TransportSocket> {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(any(message)));
    Some(core::TransportSocket { name: name.into(), config_type })
}

/// Delivered over the same ADS stream.
pub fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..Default::default()
    })
}

/// Delivered by the local secret server: the cluster `sds-grpc` of the bootstrap.
pub fn local_sds() -> Option<core::ConfigSource> {
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![grpc_service("sds-grpc", "")],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    Some(core::ConfigSource {
        initial_fetch_timeout: seconds(0),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        ..Default::default()
    })
}

/// A server that is called by the cluster that leads to it. Without an authority the host would be the cluster's name, which no server knows.
pub fn grpc_service(cluster: &str, authority: &str) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let envoy = EnvoyGrpc { cluster_name: cluster.into(), authority: authority.into(), ..Default::default() };
    core::GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }
}

pub fn text_format(format: &str) -> core::SubstitutionFormatString {
    use core::substitution_format_string::Format;
    let specifier = Some(core::data_source::Specifier::InlineString(format.into()));
    core::SubstitutionFormatString {
        format: Some(Format::TextFormatSource(core::DataSource { specifier, ..Default::default() })),
        ..Default::default()
    }
}

pub fn regex(regex: impl Into<String>) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..Default::default() }
}

pub fn matches(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

pub fn exactly(value: impl Into<String>) -> StringMatcher {
    matches(MatchPattern::Exact(value.into()))
}

pub fn header_is(name: impl Into<String>, value: StringMatcher) -> HeaderMatcher {
    let header_match_specifier = Some(HeaderMatchSpecifier::StringMatch(value));
    HeaderMatcher { name: name.into(), header_match_specifier, ..Default::default() }
}

/// The client of the tunnel is one that matches.
pub fn peer_is(value: StringMatcher) -> FilterStateMatcher {
    let matcher = Some(filter_state_matcher::Matcher::StringMatch(value));
    FilterStateMatcher { key: super::names::PEER_PRINCIPAL.into(), matcher }
}

/// A route configuration, the maps of its routes in the order of their keys. What is put behind a message becomes part of it.
pub fn in_order(mut configuration: RouteConfiguration) -> Any {
    let hosts = std::mem::take(&mut configuration.virtual_hosts).into_iter().map(|mut host| {
        let routes = std::mem::take(&mut host.routes).into_iter().map(route_in_order);
        let routes = ordered::Routes { routes: routes.collect() };
        encoded(&host, &routes)
    });
    let hosts = ordered::VirtualHosts { virtual_hosts: hosts.collect() };
    Any { type_url: RouteConfiguration::type_url(), value: encoded(&configuration, &hosts) }
}

fn route_in_order(mut route: Route) -> Vec<u8> {
    let said = |said: wkt::Struct| ordered::Struct { fields: said.fields.into_iter().collect() };
    let metadata = route.metadata.take().map(|metadata| ordered::Metadata {
        filter_metadata: metadata.filter_metadata.into_iter().map(|(filter, of)| (filter, said(of))).collect(),
    });
    let typed_per_filter_config = std::mem::take(&mut route.typed_per_filter_config).into_iter().collect();
    encoded(&route, &ordered::RouteMaps { metadata, typed_per_filter_config })
}

/// A route as a field of its virtual host, its maps in the order of their keys. Those of several may stand one behind the other.
pub fn route_field(route: Route) -> Vec<u8> {
    ordered::Routes { routes: vec![route_in_order(route)] }.encode_to_vec()
}

/// A route configuration with one virtual host, both without what they are to have besides: these routes, as [`route_field`] gives each. The
/// same bytes as [`in_order`] makes of the whole.
pub fn with_routes(configuration: &RouteConfiguration, host: &VirtualHost, routes: &[u8]) -> Any {
    let (mut value, host) = (configuration.encode_to_vec(), host.encode_to_vec());
    let length = host.len() + routes.len();
    value.reserve_exact(key_len(VIRTUAL_HOSTS) + encoded_len_varint(length as u64) + length);
    encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut value);
    encode_varint(length as u64, &mut value);
    value.extend_from_slice(&host);
    value.extend_from_slice(routes);
    Any { type_url: RouteConfiguration::type_url(), value }
}

fn encoded(message: &impl Message, more: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.extend(more.encode_to_vec());
    bytes
}

/// Messages with the same bytes as Envoy's, maps in the order of their keys.
pub mod ordered {
    use std::collections::BTreeMap;

    use ambit_api::envoy::pb::envoy::config::core::v3::Locality;
    use ambit_api::envoy::pb::envoy::config::endpoint::v3::Endpoint;
    use ambit_api::envoy::pb::envoy::config::rbac::v3::Policy;
    use ambit_api::envoy::pb::envoy::extensions::filters::http::jwt_authn::v3::{JwtProvider, RequirementRule};
    use ambit_api::envoy::pb::google::protobuf::{Any, UInt32Value, Value};
    use prost::Message;

    /// The maps of an `envoy.config.route.v3.Route`.
    #[derive(Clone, PartialEq, Message)]
    pub struct RouteMaps {
        #[prost(message, optional, tag = "4")]
        pub metadata: Option<Metadata>,
        #[prost(btree_map = "string, message", tag = "13")]
        pub typed_per_filter_config: BTreeMap<String, Any>,
    }

    /// The routes of an `envoy.config.route.v3.VirtualHost`, encoded.
    #[derive(Clone, PartialEq, Message)]
    pub struct Routes {
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub routes: Vec<Vec<u8>>,
    }

    /// The virtual hosts of an `envoy.config.route.v3.RouteConfiguration`, encoded.
    #[derive(Clone, PartialEq, Message)]
    pub struct VirtualHosts {
        #[prost(bytes = "vec", repeated, tag = "2")]
        pub virtual_hosts: Vec<Vec<u8>>,
    }

    /// `envoy.config.rbac.v3.RBAC`
    #[derive(Clone, PartialEq, Message)]
    pub struct Rules {
        /// 0 ALLOW, 1 DENY.
        #[prost(int32, tag = "1")]
        pub action: i32,
        #[prost(btree_map = "string, message", tag = "2")]
        pub policies: BTreeMap<String, Policy>,
    }

    /// `envoy.extensions.filters.http.rbac.v3.RBAC`
    #[derive(Clone, PartialEq, Message)]
    pub struct HttpRbac {
        #[prost(message, optional, tag = "1")]
        pub rules: Option<Rules>,
        /// What is not enforced.
        #[prost(message, optional, tag = "2")]
        pub shadow_rules: Option<Rules>,
        /// The beginning of what its result is called.
        #[prost(string, tag = "3")]
        pub shadow_rules_stat_prefix: String,
    }

    /// `envoy.extensions.filters.http.rbac.v3.RBACPerRoute`
    #[derive(Clone, PartialEq, Message)]
    pub struct RbacPerRoute {
        #[prost(message, optional, tag = "2")]
        pub rbac: Option<HttpRbac>,
    }

    /// `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`
    #[derive(Clone, PartialEq, Message)]
    pub struct JwtAuthentication {
        #[prost(btree_map = "string, message", tag = "1")]
        pub providers: BTreeMap<String, JwtProvider>,
        #[prost(message, repeated, tag = "2")]
        pub rules: Vec<RequirementRule>,
        #[prost(bool, tag = "4")]
        pub bypass_cors_preflight: bool,
    }

    /// `envoy.extensions.filters.network.rbac.v3.RBAC`
    #[derive(Clone, PartialEq, Message)]
    pub struct NetworkRbac {
        #[prost(message, optional, tag = "1")]
        pub rules: Option<Rules>,
        /// What is not enforced.
        #[prost(message, optional, tag = "2")]
        pub shadow_rules: Option<Rules>,
        #[prost(string, tag = "3")]
        pub stat_prefix: String,
        /// The beginning of what its result is called.
        #[prost(string, tag = "5")]
        pub shadow_rules_stat_prefix: String,
    }

    /// `google.protobuf.Struct`
    #[derive(Clone, PartialEq, Message)]
    pub struct Struct {
        #[prost(btree_map = "string, message", tag = "1")]
        pub fields: BTreeMap<String, Value>,
    }

    /// `envoy.config.core.v3.Metadata`
    #[derive(Clone, PartialEq, Message)]
    pub struct Metadata {
        #[prost(btree_map = "string, message", tag = "1")]
        pub filter_metadata: BTreeMap<String, Struct>,
    }

    /// `envoy.config.endpoint.v3.LbEndpoint`
    #[derive(Clone, PartialEq, Message)]
    pub struct LbEndpoint {
        #[prost(message, optional, tag = "1")]
        pub endpoint: Option<Endpoint>,
        #[prost(message, optional, tag = "3")]
        pub metadata: Option<Metadata>,
        #[prost(message, optional, tag = "4")]
        pub load_balancing_weight: Option<UInt32Value>,
    }

    /// `envoy.config.endpoint.v3.LocalityLbEndpoints`
    #[derive(Clone, PartialEq, Message)]
    pub struct LocalityLbEndpoints {
        #[prost(message, optional, tag = "1")]
        pub locality: Option<Locality>,
        #[prost(message, repeated, tag = "2")]
        pub lb_endpoints: Vec<LbEndpoint>,
        #[prost(message, optional, tag = "3")]
        pub load_balancing_weight: Option<UInt32Value>,
        #[prost(uint32, tag = "5")]
        pub priority: u32,
    }

    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    #[derive(Clone, PartialEq, Message)]
    pub struct ClusterLoadAssignment {
        #[prost(string, tag = "1")]
        pub cluster_name: String,
        #[prost(message, repeated, tag = "2")]
        pub endpoints: Vec<LocalityLbEndpoints>,
    }
}

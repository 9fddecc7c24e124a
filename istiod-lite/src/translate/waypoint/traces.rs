//! Spans of requests, as Telemetries ask for them: one for each request that is traced, sent to the collector of an extension provider. Where
//! nobody collects them requests are as without: that nobody is told of them is in the way of none.

use ambit_api::envoy::pb::envoy::config::core::v3::{GrpcService, HttpService, HttpUri, http_uri::HttpUpstreamType};
use ambit_api::envoy::pb::envoy::config::trace::v3::{
    OpenTelemetryConfig, ZipkinConfig,
    tracing::{Http as Provider, http::ConfigType},
    zipkin_config::{CollectorEndpointVersion, TraceContextOption},
};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use ambit_api::envoy::pb::envoy::r#type::tracing::v3::{
    CustomTag,
    custom_tag::{Header, Literal, Type},
};
use ambit_api::envoy::pb::envoy::r#type::v3::Percent;

use super::reached::Reached;
use super::scope::ServedPort;
use super::wire::{any, bool_value, duration, grpc_service, u32_value};
use crate::index::{Index, ServiceRef, Traced, Waypoint};
use crate::source::crd::mesh::Speaks;
use crate::source::crd::telemetry;

/// The spans of the requests of a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// What the connection manager is told.
    pub manager: Tracing,
    /// How the collector is reached.
    pub reached: Reached,
}

/// What is asked of requests to a port, or to pods by their addresses.
pub fn asked(index: &Index, waypoint: &Waypoint, port: Option<&ServedPort<'_>>) -> Option<Traces> {
    let service = port.and_then(|port| match &port.service {
        ServiceRef::Kubernetes(name) => Some(name),
        ServiceRef::Host(_) => None,
    });
    let Traced { tracer, service, port: to, sampling, tags } = index.traced(&waypoint.name, service)?;
    let by_grpc = Reached::by_grpc(index, &service, to.port, |name| format!("tracing|{}|{name}", to.port));
    let reached = Reached { http2: matches!(tracer.speaks, Speaks::OtlpGrpc { .. }), ..by_grpc };
    let host = service.hostname(index.config());
    let percent = |value| Some(Percent { value });
    let manager = Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(sampling),
        overall_sampling: percent(100.0),
        max_path_tag_length: tracer.max_tag_length.and_then(u32_value),
        custom_tags: tags.into_iter().map(tag).collect(),
        provider: Some(provider(&tracer.speaks, &reached.cluster, (host.as_str(), to.port), waypoint)),
        // Client and server of what a span is of are others.
        spawn_upstream_span: bool_value(false),
        // As Istio calls it.
        operation: port.map(|port| format!("{}:{}/*", port.host, port.port.port)).unwrap_or_default(),
        ..Default::default()
    };
    Some(Traces { manager, reached })
}

fn tag((tag, said): (String, telemetry::CustomTag)) -> CustomTag {
    let said = match said {
        telemetry::CustomTag::Literal(value) => Type::Literal(Literal { value }),
        telemetry::CustomTag::Header { name, default } => Type::RequestHeader(Header { name, default_value: default }),
    };
    CustomTag { tag, r#type: Some(said) }
}

fn provider(speaks: &Speaks, cluster: &str, (host, port): (&str, u16), waypoint: &Waypoint) -> Provider {
    let service_name = format!("{}.{}", waypoint.name.name, waypoint.name.namespace);
    let (name, config) = match speaks {
        Speaks::OtlpGrpc { timeout } => {
            let service = GrpcService { timeout: duration(*timeout), ..grpc_service(cluster, host) };
            let config = OpenTelemetryConfig { grpc_service: Some(service), service_name, ..Default::default() };
            ("opentelemetry", any(&config))
        }
        Speaks::OtlpHttp { path, timeout } => {
            let http_uri = HttpUri {
                uri: format!("http://{host}:{port}{path}"),
                timeout: duration(*timeout),
                http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
            };
            let service = HttpService { http_uri: Some(http_uri), ..Default::default() };
            let config = OpenTelemetryConfig { http_service: Some(service), service_name, ..Default::default() };
            ("opentelemetry", any(&config))
        }
        Speaks::Zipkin { path, w3c } => {
            let option = if *w3c { TraceContextOption::UseB3WithW3cPropagation } else { TraceContextOption::UseB3 };
            let config = ZipkinConfig {
                collector_cluster: cluster.into(),
                collector_endpoint: path.clone(),
                collector_hostname: host.into(),
                collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
                trace_id_128bit: true,
                shared_span_context: bool_value(false),
                trace_context_option: option.into(),
                ..Default::default()
            };
            ("zipkin", any(&config))
        }
    };
    Provider { name: format!("envoy.tracers.{name}"), config_type: Some(ConfigType::TypedConfig(config)) }
}

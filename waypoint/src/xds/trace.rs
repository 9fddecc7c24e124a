//! Spans of requests: `tracing` of an HTTP connection manager, with the collectors that Envoy's tracers `opentelemetry` and `zipkin` have.

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::{
    config::{
        core::v3::{GrpcService, HttpService, HttpUri, http_uri::HttpUpstreamType},
        trace::v3::{
            OpenTelemetryConfig, ZipkinConfig,
            tracing::{Http as Provider, http::ConfigType},
            zipkin_config::{CollectorEndpointVersion, TraceContextOption},
        },
    },
    extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager as pb},
    r#type::{
        tracing::v3::{CustomTag, custom_tag},
        v3::Percent,
    },
};
use http::HeaderName;

use super::{
    grpc::{self, Called},
    read::{Compiled, Problem, Under, boolean, duration, finish, number, required, type_of, unpack},
};
use crate::compiled::{Collector, Speaks, Tag, Tracing};

const OPEN_TELEMETRY: &str = "envoy.config.trace.v3.OpenTelemetryConfig";
const ZIPKIN: &str = "envoy.config.trace.v3.ZipkinConfig";
/// Envoy's default.
const LONGEST_PATH: u32 = 256;
/// How long a collector is waited for where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What Envoy calls a service that has no name.
const UNNAMED: &str = "unknown_service:envoy";
/// What is called of a collector that speaks gRPC.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What a connection manager says of spans; takes what it says of ids of requests, too, as these decide who is traced.
pub fn of(config: &mut HttpConnectionManager) -> Compiled<Option<Arc<Tracing>>> {
    let Some(tracing) = config.tracing.take() else { return Ok(None) };
    let request_ids = boolean(config.generate_request_id.take(), true);
    if config.preserve_external_request_id {
        return Err(Problem::new("preserve_external_request_id is not implemented beside it"));
    }
    read(tracing, request_ids).map(|tracing| Some(Arc::new(tracing)))
}

fn read(mut config: pb::Tracing, request_ids: bool) -> Compiled<Tracing> {
    // One span for each request: what it is sent on as has none of its own.
    if boolean(config.spawn_upstream_span.take(), false) {
        return Err(Problem::new("spawn_upstream_span is not implemented"));
    }
    let operation = take(&mut config.operation);
    if operation.contains('%') {
        return Err(Problem::new(format!("operation: the placeholder in {operation:?} is not implemented")));
    }
    let read = Tracing {
        collector: Arc::new(provider(required(config.provider.take(), "provider")?).under("provider")?),
        client: share(config.client_sampling.take(), 100).under("client_sampling")?,
        random: share(config.random_sampling.take(), 10_000).under("random_sampling")?,
        overall: share(config.overall_sampling.take(), 10_000).under("overall_sampling")?,
        request_ids,
        operation: if operation.is_empty() { "ingress".into() } else { operation.into() },
        longest_path: number(config.max_path_tag_length.take()).unwrap_or(LONGEST_PATH) as usize,
        tags: take(&mut config.custom_tags).into_iter().map(tag).collect::<Compiled<_>>().under("custom_tags")?,
    };
    finish(&config)?;
    Ok(read)
}

/// A percentage as a share of `whole`, rounded as Envoy does; all of it where nothing is said.
fn share(percent: Option<Percent>, whole: u32) -> Compiled<u32> {
    let Some(percent) = percent else { return Ok(whole) };
    match (0.0..=100.0).contains(&percent.value) {
        true => Ok((percent.value / 100.0 * f64::from(whole)).round() as u32),
        false => Err(Problem::new(format!("{} is no percentage", percent.value))),
    }
}

fn tag(mut config: CustomTag) -> Compiled<Tag> {
    let name = take(&mut config.tag);
    let tag = match required(config.r#type.take(), "a value").under(&name)? {
        custom_tag::Type::Literal(literal) => Tag { name, header: None, value: literal.value },
        custom_tag::Type::RequestHeader(header) => {
            let of = header.name.parse::<HeaderName>();
            let of = of.map_err(|_| Problem::new(format!("{:?} is no name of a header", header.name)).under(&name))?;
            Tag { name, header: Some(of.as_str().to_owned()), value: header.default_value }
        }
        custom_tag::Type::Environment(_) => return Err(Problem::new("environment is not implemented").under(name)),
        custom_tag::Type::Metadata(_) => return Err(Problem::new("metadata is not implemented").under(name)),
        custom_tag::Type::Value(_) => return Err(Problem::new("value is not implemented").under(name)),
    };
    finish(&config)?;
    Ok(tag)
}

fn provider(config: Provider) -> Compiled<Collector> {
    let ConfigType::TypedConfig(any) = required(config.config_type, "typed_config")?;
    match type_of(&any) {
        OPEN_TELEMETRY => open_telemetry(unpack(&any, OPEN_TELEMETRY)?),
        ZIPKIN => zipkin(unpack(&any, ZIPKIN)?),
        other => Err(Problem::new(format!("{other} is not implemented"))),
    }
}

fn open_telemetry(mut config: OpenTelemetryConfig) -> Compiled<Collector> {
    let service = match take(&mut config.service_name) {
        name if name.is_empty() => UNNAMED.to_owned(),
        name => name,
    };
    let (by_grpc, by_http) = (config.grpc_service.take(), config.http_service.take());
    finish(&config)?;
    let mut collector = match (by_grpc, by_http) {
        (Some(service), None) => grpc(service).under("grpc_service")?,
        (None, Some(service)) => http(service).under("http_service")?,
        _ => return Err(Problem::new("other than one of grpc_service and http_service is not implemented")),
    };
    collector.service = Some(service);
    Ok(collector)
}

fn grpc(service: GrpcService) -> Compiled<Collector> {
    let Called { cluster, authority, timeout } = grpc::called(service)?;
    let timeout = timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT);
    let authority = authority.to_string();
    Ok(Collector { cluster, authority, path: EXPORT.to_owned(), timeout, service: None, speaks: Speaks::OtlpGrpc })
}

fn http(mut service: HttpService) -> Compiled<Collector> {
    let HttpUri { uri, timeout, http_upstream_type } = required(service.http_uri.take(), "http_uri")?;
    finish(&service)?;
    let timeout = required(timeout, "timeout").and_then(duration).under("http_uri.timeout")?;
    let HttpUpstreamType::Cluster(cluster) = required(http_upstream_type, "cluster").under("http_uri")?;
    let place = uri.split_once("://").map_or(uri.as_str(), |(_, place)| place);
    let (host, path) = place.find('/').map_or((place, "/"), |at| place.split_at(at));
    let (authority, path) = place_of(host, path).under("http_uri.uri")?;
    let timeout = if timeout.is_zero() { TIMEOUT } else { timeout };
    Ok(Collector { cluster: cluster.into(), authority, path, timeout, service: None, speaks: Speaks::OtlpHttp })
}

fn zipkin(mut config: ZipkinConfig) -> Compiled<Collector> {
    if !take(&mut config.trace_id_128bit) {
        return Err(Problem::new("trace_id_128bit: false is not implemented"));
    }
    // Our span is one of its own, beside that of the client.
    if boolean(config.shared_span_context.take(), true) {
        return Err(Problem::new("shared_span_context: true is not implemented"));
    }
    if take(&mut config.collector_endpoint_version) != CollectorEndpointVersion::HttpJson as i32 {
        return Err(Problem::new("collector_endpoint_version other than HTTP_JSON is not implemented"));
    }
    let w3c = match TraceContextOption::try_from(take(&mut config.trace_context_option)) {
        Ok(TraceContextOption::UseB3) => false,
        Ok(TraceContextOption::UseB3WithW3cPropagation) => true,
        Err(_) => return Err(Problem::new("this trace_context_option is not implemented")),
    };
    let (cluster, host) = (take(&mut config.collector_cluster), take(&mut config.collector_hostname));
    let path = take(&mut config.collector_endpoint);
    finish(&config)?;
    if cluster.is_empty() {
        return Err(Problem::new("collector_cluster is missing"));
    }
    let host = if host.is_empty() { &cluster } else { &host };
    let (authority, path) = place_of(host, &path).under("collector_endpoint")?;
    let speaks = Speaks::Zipkin { w3c };
    Ok(Collector { cluster: cluster.as_str().into(), authority, path, timeout: TIMEOUT, service: None, speaks })
}

/// A host and a path that can be asked for.
fn place_of(host: &str, path: &str) -> Compiled<(String, String)> {
    let is_host = host.parse::<http::uri::Authority>().is_ok();
    match is_host && path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() {
        true => Ok((host.to_owned(), path.to_owned())),
        false => Err(Problem::new(format!("{host:?} and {path:?} are no host and path that can be asked for"))),
    }
}

#[cfg(test)]
mod tests;

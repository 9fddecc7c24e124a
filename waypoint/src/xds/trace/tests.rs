use ambit_api::envoy::pb::{
    envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier},
    google::protobuf::{Any, BoolValue, Duration as ProtoDuration},
};
use prost::Message;

use super::*;

fn provided(type_name: &str, config: &impl Message) -> Option<Provider> {
    let any = Any { type_url: format!("type.googleapis.com/{type_name}"), value: config.encode_to_vec() };
    Some(Provider { name: String::new(), config_type: Some(ConfigType::TypedConfig(any)) })
}

fn by_grpc() -> OpenTelemetryConfig {
    let envoy = EnvoyGrpc { cluster_name: "spans".into(), authority: "collector.obs".into(), ..Default::default() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    OpenTelemetryConfig { grpc_service: Some(service), service_name: "gate.shop".into(), ..Default::default() }
}

fn by_http(uri: &str) -> OpenTelemetryConfig {
    let http_uri = HttpUri {
        uri: uri.into(),
        timeout: Some(ProtoDuration { seconds: 2, nanos: 0 }),
        http_upstream_type: Some(HttpUpstreamType::Cluster("spans".into())),
    };
    OpenTelemetryConfig {
        http_service: Some(HttpService { http_uri: Some(http_uri), ..Default::default() }),
        ..Default::default()
    }
}

fn b3() -> ZipkinConfig {
    ZipkinConfig {
        collector_cluster: "spans".into(),
        collector_endpoint: "/api/v2/spans".into(),
        collector_hostname: "zipkin.obs".into(),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        trace_id_128bit: true,
        shared_span_context: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

fn said(config: pb::Tracing) -> Result<Tracing, String> {
    let mut manager = HttpConnectionManager { tracing: Some(config), ..Default::default() };
    of(&mut manager).map(|read| Arc::unwrap_or_clone(read.unwrap())).map_err(|problem| problem.to_string())
}

fn collected(provider: Option<Provider>) -> Result<Collector, String> {
    said(pb::Tracing { provider, ..Default::default() }).map(|tracing| Arc::unwrap_or_clone(tracing.collector))
}

#[test]
fn what_is_told_of_whom_to_which_collector_is_compiled() {
    let percent = |value| Some(Percent { value });
    let tag = |name: &str, kind| CustomTag { tag: name.into(), r#type: Some(kind) };
    let header = custom_tag::Header { name: "X-Tenant".into(), default_value: "none".into() };
    let read = said(pb::Tracing {
        provider: provided(OPEN_TELEMETRY, &by_grpc()),
        random_sampling: percent(12.34),
        client_sampling: percent(50.0),
        custom_tags: vec![
            tag("mesh", custom_tag::Type::Literal(custom_tag::Literal { value: "ambit".into() })),
            tag("tenant", custom_tag::Type::RequestHeader(header)),
        ],
        operation: "a.shop:80/*".into(),
        ..Default::default()
    });
    let read = read.unwrap();
    assert_eq!((read.client, read.random, read.overall, read.longest_path, read.request_ids), (50, 1234, 10_000, 256, true));
    assert_eq!((&*read.operation, read.tags[0].value.as_str()), ("a.shop:80/*", "ambit"));
    assert_eq!((read.tags[1].header.as_deref(), read.tags[1].value.as_str()), (Some("x-tenant"), "none"));
    let collector = &read.collector;
    assert_eq!((&*collector.cluster, collector.authority.as_str(), collector.path.as_str()), ("spans", "collector.obs", EXPORT));
    assert_eq!((collector.timeout, collector.service.as_deref()), (TIMEOUT, Some("gate.shop")));
    for uri in ["http://collector.obs:4318/v1/traces", "collector.obs:4318/v1/traces"] {
        let read = collected(provided(OPEN_TELEMETRY, &by_http(uri))).unwrap();
        assert_eq!((read.authority.as_str(), read.path.as_str()), ("collector.obs:4318", "/v1/traces"));
        assert_eq!(
            (read.timeout, read.service.as_deref(), read.speaks),
            (Duration::from_secs(2), Some(UNNAMED), Speaks::OtlpHttp)
        );
    }
    let with_w3c = ZipkinConfig { trace_context_option: TraceContextOption::UseB3WithW3cPropagation.into(), ..b3() };
    for (config, w3c) in [(b3(), false), (with_w3c, true)] {
        let read = collected(provided(ZIPKIN, &config)).unwrap();
        assert_eq!((read.authority.as_str(), read.speaks), ("zipkin.obs", Speaks::Zipkin { w3c }));
    }
}

#[test]
fn what_is_not_implemented_of_tracing_is_rejected_by_name() {
    let plain = || pb::Tracing { provider: provided(OPEN_TELEMETRY, &by_grpc()), ..Default::default() };
    let yes = || Some(BoolValue { value: true });
    for (config, problem) in [
        (pb::Tracing::default(), "provider is missing"),
        (pb::Tracing { spawn_upstream_span: yes(), ..plain() }, "spawn_upstream_span is not implemented"),
        (pb::Tracing { verbose: true, ..plain() }, "verbose is not implemented"),
        (pb::Tracing { no_context_propagation: true, ..plain() }, "no_context_propagation is not implemented"),
        (pb::Tracing { operation: "%REQ(:PATH)%".into(), ..plain() }, "operation: the placeholder in \"%REQ(:PATH)%\" is not"),
        (pb::Tracing { random_sampling: Some(Percent { value: 101.0 }), ..plain() }, "random_sampling: 101 is no percentage"),
        (
            pb::Tracing {
                custom_tags: vec![CustomTag {
                    tag: "home".into(),
                    r#type: Some(custom_tag::Type::Environment(custom_tag::Environment::default())),
                }],
                ..plain()
            },
            "custom_tags.home: environment is not implemented",
        ),
        (
            pb::Tracing { provider: provided("envoy.config.trace.v3.DatadogConfig", &ZipkinConfig::default()), ..plain() },
            "provider: envoy.config.trace.v3.DatadogConfig is not implemented",
        ),
    ] {
        let found = said(config).unwrap_err();
        assert!(found.starts_with(problem), "{problem}: {found}");
    }
    for (config, problem) in [
        (OpenTelemetryConfig::default(), "provider: other than one of grpc_service and http_service"),
        (OpenTelemetryConfig { max_cache_size: Some(Default::default()), ..by_grpc() }, "provider: max_cache_size is not"),
        (by_http("/v1/traces"), "provider.http_service.http_uri.uri: \"\" and \"/v1/traces\" are no host"),
    ] {
        let found = collected(provided(OPEN_TELEMETRY, &config)).unwrap_err();
        assert!(found.starts_with(problem), "{problem}: {found}");
    }
    for (config, problem) in [
        (ZipkinConfig { trace_id_128bit: false, ..b3() }, "trace_id_128bit: false is not"),
        (ZipkinConfig { shared_span_context: None, ..b3() }, "shared_span_context: true is not"),
        (ZipkinConfig { collector_endpoint_version: 3, ..b3() }, "collector_endpoint_version other than HTTP_JSON"),
        (ZipkinConfig { timestamp_trace_ids: true, ..b3() }, "timestamp_trace_ids is not implemented"),
        (ZipkinConfig { collector_endpoint: "spans".into(), ..b3() }, "collector_endpoint: \"zipkin.obs\" and \"spans\""),
    ] {
        let found = collected(provided(ZIPKIN, &config)).unwrap_err();
        assert!(
            found.starts_with(&format!("provider: {problem}")) || found.starts_with(&format!("provider.{problem}")),
            "{found}"
        );
    }
}

#[test]
fn requests_have_ids_unless_a_tracing_manager_says_otherwise() {
    let mut none = HttpConnectionManager { generate_request_id: Some(BoolValue { value: true }), ..Default::default() };
    assert!(of(&mut none).unwrap().is_none() && none.generate_request_id.is_some(), "it is for others to reject");
    let tracing = || Some(pb::Tracing { provider: provided(ZIPKIN, &b3()), ..Default::default() });
    let no = Some(BoolValue { value: false });
    let mut without = HttpConnectionManager { generate_request_id: no, tracing: tracing(), ..Default::default() };
    assert!(!of(&mut without).unwrap().unwrap().request_ids);
    let mut kept = HttpConnectionManager { preserve_external_request_id: true, tracing: tracing(), ..Default::default() };
    assert!(of(&mut kept).unwrap_err().to_string().starts_with("preserve_external_request_id"));
}

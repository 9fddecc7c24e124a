//! Spans of requests: what they belong to, what collectors are told, what backends are, and that nobody waits for a collector.

use std::time::{Duration, Instant};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                core::v3::{
                    GrpcService, HttpService, HttpUri,
                    grpc_service::{EnvoyGrpc, TargetSpecifier},
                    http_uri::HttpUpstreamType,
                },
                trace::v3::{
                    OpenTelemetryConfig, ZipkinConfig,
                    tracing::{Http as Provider, http::ConfigType},
                },
            },
            extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
            r#type::{
                tracing::v3::{CustomTag, custom_tag},
                v3::Percent,
            },
        },
        google::protobuf::{BoolValue, Duration as ProtoDuration},
    },
    type_url,
};
use ambit_runtime::telemetry::metrics_handle;
use http::Request;
use prost::Message;
use serde_json::Value;

use super::support::{
    BILLING, Mesh, WEB,
    client::{Body, get, once},
    collector::{self, Taken},
    endpoint::{self, HTTP},
    resources::{self, Ep, Service},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

// As much of OpenTelemetry's messages as is looked at (opentelemetry.proto.collector.trace.v1).
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    of_resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    of_scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span: Vec<u8>,
    #[prost(string, tag = "3")]
    state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    begun: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

impl Span {
    fn told(&self, key: &str) -> Option<&str> {
        text(&self.attributes, key)
    }
}

fn text<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    Some(&attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tracing(type_name: &str, config: &impl Message) -> Tracing {
    let config = resources::any(&format!("envoy.config.trace.v3.{type_name}"), config);
    let header = custom_tag::Header { name: "x-tenant".into(), default_value: String::new() };
    Tracing {
        provider: Some(Provider { name: "spans".into(), config_type: Some(ConfigType::TypedConfig(config)) }),
        custom_tags: vec![CustomTag { tag: "tenant".into(), r#type: Some(custom_tag::Type::RequestHeader(header)) }],
        operation: "billing.shop:80/*".into(),
        ..Default::default()
    }
}

fn by_grpc() -> Tracing {
    let envoy = EnvoyGrpc { cluster_name: "grpc".into(), authority: "collector.obs".into(), ..Default::default() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
    let config = OpenTelemetryConfig { grpc_service: Some(service), service_name: "gate.shop".into(), ..Default::default() };
    tracing("OpenTelemetryConfig", &config)
}

/// Over HTTP, of requests alone that ask for it.
fn by_http() -> Tracing {
    let http_uri = HttpUri {
        uri: "http://collector.obs:4318/v1/traces".into(),
        timeout: Some(ProtoDuration { seconds: 5, nanos: 0 }),
        http_upstream_type: Some(HttpUpstreamType::Cluster("http".into())),
    };
    let service = HttpService { http_uri: Some(http_uri), ..Default::default() };
    let config = OpenTelemetryConfig { http_service: Some(service), ..Default::default() };
    Tracing { random_sampling: Some(Percent { value: 0.0 }), ..tracing("OpenTelemetryConfig", &config) }
}

fn zipkin(cluster: &str) -> Tracing {
    let config = ZipkinConfig {
        collector_cluster: cluster.into(),
        collector_endpoint: "/api/v2/spans".into(),
        collector_hostname: "zipkin.obs".into(),
        collector_endpoint_version: 1,
        trace_id_128bit: true,
        shared_span_context: Some(BoolValue { value: false }),
        ..Default::default()
    };
    tracing("ZipkinConfig", &config)
}

/// The name of a service, and how its requests are traced.
type Traced = (&'static str, fn() -> Tracing);

/// A mesh with a service for each of these, of one endpoint, and a collector.
async fn world<const N: usize>(number: u8, traced: [Traced; N]) -> (Mesh, [Service; N], Taken) {
    let mesh = Mesh::start(number).await;
    let mut host = 100;
    let services = traced.map(|(name, tracing)| {
        host += 1;
        Service { tracing: Some(tracing), ..Service::http(name, mesh.socket(host, 80)) }
    });
    mesh.serve(&services);
    let of_protocol = |name: &'static str| {
        let protocol = if name == "grpc" { "http2" } else { "http1" };
        let service = Service { protocol, ..Service::http("collector", mesh.socket(90, 80)) };
        (name.to_owned(), resources::cluster(name, &service))
    };
    let mut clusters = resources::clusters(&services);
    clusters.extend(["grpc", "http", "nowhere"].map(of_protocol));
    mesh.deliver(type_url::CLUSTER, clusters);
    for cluster in ["grpc", "http"] {
        mesh.endpoints(cluster, vec![Ep::Clear(mesh.socket(9, 4317))]);
    }
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    for service in services.iter().filter(|service| service.name != "gone") {
        mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    }
    let taken = collector::start(mesh.socket(9, 4317)).await;
    (mesh, services, taken)
}

/// What was taken, once there is so much of it.
async fn wait<T>(mesh: &Mesh, taken: &Taken, count: usize, read: impl Fn(&[(String, String, bytes::Bytes)]) -> Vec<T>) -> Vec<T> {
    let start = Instant::now();
    loop {
        mesh.proxy.spans.flush(Duration::from_secs(5)).await;
        let found = read(&taken.lock().unwrap());
        if found.len() >= count {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{} spans where {count} are to come", found.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The spans of OpenTelemetry's messages, each with the service that it is of.
fn spans(taken: &[(String, String, bytes::Bytes)]) -> Vec<(String, Span)> {
    let message = |(path, content, body): &(String, String, bytes::Bytes)| match content.as_str() {
        "application/grpc" => {
            assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
            Export::decode(&body[5..]).unwrap()
        }
        other => {
            assert_eq!((path.as_str(), other), ("/v1/traces", "application/x-protobuf"));
            Export::decode(&body[..]).unwrap()
        }
    };
    let mut all = Vec::new();
    for of in taken.iter().map(message).flat_map(|message| message.of_resources) {
        let service = text(&of.resource.unwrap().attributes, "service.name").unwrap().to_owned();
        all.extend(of.of_scopes.into_iter().flat_map(|scope| scope.spans).map(|span| (service.clone(), span)));
    }
    all
}

/// The value of a header that the endpoint was sent.
fn sent<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn asking(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = get("/a?b=c");
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_span_belongs_to_what_a_request_names_and_its_backend_is_told_the_span() {
    let (mesh, [billing, gone], taken) = world(231, [("billing", by_grpc), ("gone", by_grpc)]).await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "a=1"), ("x-tenant", "me"), ("user-agent", "test")];
    let (status, _, first) = once(&mesh, WEB, billing.vip, asking(&headers)).await;
    assert_eq!((status, sent(&first, "tracestate")), (200, Some("a=1")), "{first}");
    let (_, _, second) = once(&mesh, WEB, billing.vip, asking(&[("traceparent", "00-nonsense"), ("tracestate", "a=1")])).await;
    assert_eq!(sent(&second, "tracestate"), None, "{second}");
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let (_, _, third) = once(&mesh, WEB, billing.vip, asking(&[("traceparent", &unsampled)])).await;
    let on = sent(&third, "traceparent").unwrap();
    assert!(on.starts_with(&format!("00-{TRACE}-")) && on.ends_with("-00") && !on.contains(SPAN), "{on}");
    assert_eq!(once(&mesh, WEB, gone.vip, asking(&[])).await.0, 503);
    let all = wait(&mesh, &taken, 3, spans).await;
    assert_eq!(all.len(), 3, "{all:#?}");
    assert!(all.iter().all(|(service, span)| service == "gate.shop" && span.name == "billing.shop:80/*" && span.kind == 2));
    let named = |text: &str| all.iter().find(|(_, span)| sent(text, "traceparent").unwrap().contains(&hex(&span.span))).unwrap();
    let (_, span) = named(&first);
    assert_eq!(sent(&first, "traceparent").unwrap(), format!("00-{TRACE}-{}-01", hex(&span.span)));
    assert_eq!((hex(&span.trace).as_str(), hex(&span.parent).as_str(), span.state.as_str()), (TRACE, SPAN, "a=1"));
    assert!(span.ended > span.begun && span.ended - span.begun < 20_000_000_000, "{span:?}");
    let id = sent(&first, "x-request-id").unwrap();
    let (upstream, cluster, length) = (mesh.socket(1, HTTP).to_string(), billing.cluster(), first.len().to_string());
    for (key, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.url", "http://billing.shop/a?b=c"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("response_flags", "-"),
        ("upstream_cluster", cluster.as_str()),
        ("upstream_cluster.name", cluster.as_str()),
        ("upstream_address", upstream.as_str()),
        ("user_agent", "test"),
        ("downstream_cluster", "-"),
        ("request_size", "0"),
        ("response_size", length.as_str()),
        ("peer.address", "127.0.0.1"),
        ("guid:x-request-id", id),
        ("tenant", "me"),
    ] {
        assert_eq!(span.told(key), Some(value), "{key}");
    }
    assert_eq!((span.status.clone(), span.told("error")), (None, None));
    let (_, begun) = named(&second);
    assert!(begun.parent.is_empty() && hex(&begun.trace) != TRACE && begun.told("tenant").is_none(), "{begun:?}");
    let (_, refused) = all.iter().find(|(_, span)| span.told("http.status_code") == Some("503")).unwrap();
    assert_eq!((refused.status.as_ref().map(|status| status.code), refused.told("error")), (Some(2), Some("true")));
    assert_eq!(refused.told("response_flags"), Some("UH"));
}

#[tokio::test]
async fn requests_are_traced_that_ask_for_it_and_b3_is_read_and_written_with_zipkin() {
    let (mesh, [billing, old], taken) = world(232, [("billing", by_http), ("old", || zipkin("http"))]).await;
    let (_, _, without) = once(&mesh, WEB, billing.vip, asking(&[])).await;
    assert!(sent(&without, "traceparent").unwrap().ends_with("-00"), "{without}");
    assert_eq!(sent(&without, "x-request-id").unwrap().as_bytes()[14], b'4');
    let (_, _, with) = once(&mesh, WEB, billing.vip, asking(&[("x-client-trace-id", "mine")])).await;
    assert!(sent(&with, "traceparent").unwrap().ends_with("-01"), "{with}");
    let id = sent(&with, "x-request-id").unwrap();
    assert_eq!(id.as_bytes()[14], b'b');
    let all = wait(&mesh, &taken, 1, spans).await;
    assert_eq!((all.len(), all[0].1.told("guid:x-client-trace-id")), (1, Some("mine")));
    assert_eq!((all[0].0.as_str(), all[0].1.told("guid:x-request-id")), ("unknown_service:envoy", Some(id)));
    taken.lock().unwrap().clear();
    let b3 = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    let (_, _, text) = once(&mesh, WEB, old.vip, asking(&b3)).await;
    assert_eq!((sent(&text, "x-b3-traceid"), sent(&text, "x-b3-parentspanid")), (Some(TRACE), Some(SPAN)), "{text}");
    let single = format!("{TRACE}-{SPAN}-0");
    let (_, _, unsampled) = once(&mesh, WEB, old.vip, asking(&[("b3", &single)])).await;
    assert_eq!((sent(&unsampled, "x-b3-sampled"), sent(&unsampled, "traceparent")), (Some("0"), None), "{unsampled}");
    let read = |taken: &[(String, String, bytes::Bytes)]| {
        let parsed = taken.iter().flat_map(|(path, content, body)| {
            assert_eq!((path.as_str(), content.as_str()), ("/api/v2/spans", "application/json"));
            serde_json::from_slice::<Vec<Value>>(body).unwrap()
        });
        parsed.collect::<Vec<Value>>()
    };
    let all = wait(&mesh, &taken, 1, read).await;
    let [span] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&span["traceId"], &span["parentId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!((span["id"].as_str(), &span["kind"]), (sent(&text, "x-b3-spanid"), &"SERVER".into()));
    assert_eq!(
        (&span["localEndpoint"]["serviceName"], &span["tags"]["http.status_code"]),
        (&"waypoint.shop".into(), &"200".into())
    );
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_away_and_what_is_lost_is_counted() {
    let (mesh, [billing], taken) = world(233, [("billing", || zipkin("nowhere"))]).await;
    let dropped = || {
        let text = metrics_handle().unwrap().render();
        let count = text.lines().find_map(|line| line.strip_prefix("ambit_spans_dropped_total "));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let before = dropped();
    for _ in 0..3 {
        assert_eq!(once(&mesh, WEB, billing.vip, asking(&[])).await.0, 200);
    }
    let start = Instant::now();
    while dropped() < before + 3 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} were lost", dropped() - before);
        mesh.proxy.spans.flush(Duration::from_secs(5)).await;
    }
    assert!(taken.lock().unwrap().is_empty());
}

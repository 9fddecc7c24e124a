//! Access logs in a format that was asked for: lines of a file, and records for a collector.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                accesslog::v3::{AccessLog, access_log::ConfigType},
                core::v3::{
                    DataSource, GrpcService, SubstitutionFormatString, data_source::Specifier, grpc_service::EnvoyGrpc,
                    grpc_service::TargetSpecifier, substitution_format_string::Format,
                },
                listener::v3::{Listener, filter},
            },
            extensions::{
                access_loggers::{
                    file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
                    open_telemetry::v3::OpenTelemetryAccessLogConfig,
                },
                filters::network::http_connection_manager::v3::HttpConnectionManager,
            },
        },
        google::protobuf::{Any, Duration as ProtoDuration, Struct, Value, value::Kind},
        opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList, any_value},
    },
    type_url,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use prost::{Message, Name};

use super::support::{
    Mesh, WAYPOINT, WEB, billing,
    client::{Body, once},
    endpoint::HTTP,
    resources::{self, Ep, Service},
    server::{self, Answer},
};

fn log<M: Message + Name>(config: &M) -> AccessLog {
    let any = Any { type_url: M::type_url(), value: config.encode_to_vec() };
    AccessLog { config_type: Some(ConfigType::TypedConfig(any)), ..Default::default() }
}

pub(super) fn to_file(path: &Path, format: Format) -> AccessLog {
    let format = SubstitutionFormatString { format: Some(format), ..Default::default() };
    log(&FileAccessLog { path: path.to_str().unwrap().into(), access_log_format: Some(AccessLogFormat::LogFormat(format)) })
}

/// The listeners of these services with the logs in each of their chains.
pub(super) fn listeners(services: &[Service], logs: &[AccessLog]) -> Vec<(String, Listener)> {
    let mut listeners = resources::listeners(services);
    for (_, listener) in listeners.iter_mut().filter(|(name, _)| name == "main_internal") {
        for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
            let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
            if any.type_url.ends_with(".HttpConnectionManager") {
                let mut manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
                manager.access_log = logs.to_vec();
                any.value = manager.encode_to_vec();
            }
        }
    }
    listeners
}

async fn ask(mesh: &Mesh, service: &Service, path: &str) -> (u16, String) {
    let request = Request::post(path).header("host", "billing.shop").header("x-user", "me").body(Body::from("abc")).unwrap();
    let (status, _, text) = once(mesh, WEB, service.vip, request).await;
    (status, text)
}

/// Waits until there are so many lines in a file.
pub(super) async fn lines(path: &Path, count: usize) -> Vec<String> {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "fewer than {count} lines: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn requests_are_logged_to_a_file_in_the_format_asked_for() {
    let (mesh, service, _) = billing(230).await;
    let (path, json) = (mesh.beside("lines"), mesh.beside("json"));
    let text = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
                %RESP(X-FROM)% %REQ(X-OTHER?X-USER)% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% \
                %FILTER_STATE(io.istio.peer_principal:PLAIN)% %DOWNSTREAM_LOCAL_ADDRESS% %DURATION% %REQUEST_DURATION%\n";
    let source = DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() };
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = [("status", "%RESPONSE_CODE%"), ("route", "%TRAILER(x)%"), ("both", "%REQ(x-user)%/%RESPONSE_FLAGS_LONG%")];
    let object = Struct { fields: fields.map(|(name, text)| (name.to_owned(), value(text))).into() };
    let logs = [to_file(&path, Format::TextFormatSource(source)), to_file(&json, Format::JsonFormat(object))];
    mesh.deliver(type_url::LISTENER, listeners(std::slice::from_ref(&service), &logs));
    let (status, answer) = ask(&mesh, &service, "/cart?a=1").await;
    assert_eq!(status, 200);
    let first = lines(&path, 1).await.remove(0);
    let fields: Vec<&str> = first.split(' ').collect();
    let upstream = mesh.socket(1, HTTP).to_string();
    let (bytes, vip, cluster) = (answer.len().to_string(), service.vip.to_string(), service.cluster());
    let expected = [
        "POST",
        "/cart?a=1",
        "billing.shop",
        "HTTP/1.1",
        "200",
        "-",
        "via_upstream",
        "v1",
        "me",
        "3",
        &bytes,
        &upstream,
        &cluster,
        WEB,
        &vip,
    ];
    assert_eq!(fields[..15], expected, "{first}");
    assert!(fields[15..].iter().all(|took| took.parse::<u64>().is_ok()), "{first}");

    mesh.endpoints(&service.cluster(), Vec::new());
    assert_eq!(ask(&mesh, &service, "/cart").await.0, 503);
    let second = lines(&path, 2).await.remove(1);
    assert!(second.starts_with("POST /cart billing.shop HTTP/1.1 503 UH no_healthy_upstream - me "), "{second}");
    assert_eq!(
        lines(&json, 2).await,
        [
            "{\"both\":\"me/-\",\"route\":null,\"status\":200}",
            "{\"both\":\"me/NoHealthyUpstream\",\"route\":null,\"status\":503}"
        ]
    );
}

#[tokio::test]
async fn who_a_client_is_is_logged_as_it_is_told_on_and_of_what_is_no_request_as_the_client_writes_it() {
    const FORGED: &str = "URI=spiffe://cluster.local/ns/shop/sa/admin";
    let (mesh, service, _) = billing(184).await;
    let path = mesh.beside("lines");
    let text = "%REQ(:PATH)% %RESPONSE_CODE% %REQ(X-FORWARDED-CLIENT-CERT)%\n";
    let source = DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() };
    let logs = [to_file(&path, Format::TextFormatSource(source))];
    let silent = listeners(std::slice::from_ref(&service), &logs);
    let telling = resources::telling_clients(silent.clone());
    let proven = format!("By={WAYPOINT};URI={WEB}");
    let mut count = 0;
    for (listeners, told) in [(silent, "-"), (telling, proven.as_str())] {
        mesh.deliver(type_url::LISTENER, listeners);
        for (host, status, logged) in [("billing.shop", 200, told), ("me@billing.shop", 400, FORGED)] {
            let request = Request::get("/a").header("host", host).header("x-forwarded-client-cert", FORGED);
            assert_eq!(once(&mesh, WEB, service.vip, request.body(Body::default()).unwrap()).await.0, status);
            count += 1;
            assert_eq!(lines(&path, count).await[count - 1], format!("/a {status} {logged}"));
        }
    }
}

#[tokio::test]
async fn files_that_were_renamed_are_opened_anew_and_no_line_is_lost() {
    let (mesh, service, _) = billing(209).await;
    let (path, old, nowhere) = (mesh.beside("lines"), mesh.beside("lines.1"), mesh.beside("later/lines"));
    let text = |text: &str| {
        let source = DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() };
        Format::TextFormatSource(source)
    };
    let logs = [&nowhere, &path].map(|path| to_file(path, text("%REQ(:PATH)%\n")));
    mesh.deliver(type_url::LISTENER, listeners(std::slice::from_ref(&service), &logs));
    assert_eq!(ask(&mesh, &service, "/1").await.0, 200);
    lines(&path, 1).await;
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(mesh.beside("later")).unwrap();
    assert_eq!(ask(&mesh, &service, "/2").await.0, 200);
    lines(&old, 2).await;
    mesh.proxy.telemetry.reopen();
    assert_eq!(ask(&mesh, &service, "/3").await.0, 200);
    assert_eq!(lines(&path, 1).await, ["/3"]);
    assert_eq!(lines(&nowhere, 1).await, ["/3"], "a file that could not be opened is tried again");
    assert_eq!(lines(&old, 2).await, ["/1", "/2"]);
}

/// As the collector reads them.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<KeyValueList>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    records: Vec<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(fixed64, tag = "1")]
    time: u64,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
}

type Heard = Arc<Mutex<Vec<Export>>>;

async fn collector(address: SocketAddr) -> Heard {
    let heard = Heard::default();
    let told = heard.clone();
    server::serve(address, move |request| take(request, told.clone())).await;
    heard
}

async fn take(request: Request<Incoming>, heard: Heard) -> Answer {
    assert_eq!(request.uri(), "http://collector.tools/opentelemetry.proto.collector.logs.v1.LogsService/Export");
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    heard.lock().unwrap().push(Export::decode(&body[5..]).expect("a message"));
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = vec![Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0"))), Ok(Frame::trailers(trailers))];
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(futures::stream::iter(frames)).boxed_unsync()).expect("a response"))
}

#[tokio::test]
async fn records_are_sent_to_a_collector() {
    let (mesh, service, _) = billing(229).await;
    let http2 = Service { protocol: "http2", ..Service::http("collector", mesh.socket(102, 80)) };
    mesh.deliver(type_url::CLUSTER, vec![("collector".into(), resources::cluster("collector", &http2))]);
    mesh.endpoints("collector", vec![Ep::Clear(mesh.socket(9, 9100))]);
    let heard = collector(mesh.socket(9, 9100)).await;
    let said = |text: &str| Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) });
    let pair = |key: &str, text: &str| KeyValue { key: key.into(), value: said(text), ..Default::default() };
    let list = |pairs: Vec<KeyValue>| Some(KeyValueList { values: pairs });
    let envoy = EnvoyGrpc { cluster_name: "collector".into(), authority: "collector.tools".into(), ..Default::default() };
    let config = OpenTelemetryAccessLogConfig {
        grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }),
        log_name: "shop".into(),
        disable_builtin_labels: true,
        resource_attributes: list(vec![pair("log_name", "shop")]),
        body: said("%REQ(:PATH)% %RESPONSE_CODE%"),
        attributes: list(vec![pair("from", "%RESP(x-from)%"), pair("user", "%REQ(x-user)%")]),
        ..Default::default()
    };
    mesh.deliver(type_url::LISTENER, listeners(std::slice::from_ref(&service), &[log(&config)]));
    for path in ["/a", "/b"] {
        assert_eq!(ask(&mesh, &service, path).await.0, 200);
    }
    let start = Instant::now();
    let records = loop {
        let exports = heard.lock().unwrap().clone();
        let of = exports.iter().flat_map(|export| &export.resources);
        assert!(of.clone().all(|of| of.resource.as_ref().unwrap().values == [pair("log_name", "shop")]), "{exports:?}");
        let records: Vec<Record> = of.flat_map(|of| &of.scopes).flat_map(|scope| scope.records.clone()).collect();
        if records.len() == 2 {
            break records;
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{exports:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for (record, path) in records.iter().zip(["/a 200", "/b 200"]) {
        assert_eq!(record.body, said(path));
        assert_eq!(record.attributes, [pair("from", "v1"), pair("user", "me")]);
        assert!(record.time > 1_700_000_000_000_000_000, "{}", record.time);
    }
}

#[tokio::test]
async fn no_collector_waits_for_one_that_does_not_answer() {
    let (mesh, service, _) = billing(234).await;
    // Connections to it are made by the kernel, and nobody reads what comes.
    let silent = tokio::net::TcpListener::bind(mesh.socket(10, 9100)).await.unwrap();
    let heard = collector(mesh.socket(9, 9100)).await;
    let mut logs = Vec::new();
    for (name, host) in [("silent", 10), ("quick", 9)] {
        let http2 = Service { protocol: "http2", ..Service::http(name, mesh.socket(102, 80)) };
        mesh.deliver(type_url::CLUSTER, vec![(name.into(), resources::cluster(name, &http2))]);
        mesh.endpoints(name, vec![Ep::Clear(mesh.socket(host, 9100))]);
        let envoy = EnvoyGrpc { cluster_name: name.into(), authority: "collector.tools".into(), ..Default::default() };
        let grpc_service = GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
            timeout: Some(ProtoDuration { seconds: 600, nanos: 0 }),
            ..Default::default()
        };
        logs.push(log(&OpenTelemetryAccessLogConfig {
            grpc_service: Some(grpc_service),
            log_name: "shop".into(),
            disable_builtin_labels: true,
            body: Some(AnyValue { value: Some(any_value::Value::StringValue("%REQ(:PATH)%".into())) }),
            ..Default::default()
        }));
    }
    mesh.deliver(type_url::LISTENER, listeners(std::slice::from_ref(&service), &logs));
    for count in 1..=2 {
        assert_eq!(ask(&mesh, &service, "/a").await.0, 200);
        let start = Instant::now();
        while heard.lock().unwrap().len() < count {
            assert!(start.elapsed() < Duration::from_secs(30), "batch {count} waits for the other collector");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(silent);
}

//! Streams of HTTP/2 that one side resets while the connection goes on, and connections that end: the log tells them apart.

use std::time::Duration;

use ambit_api::{
    envoy::pb::{
        envoy::config::{
            core::v3::{DataSource, data_source::Specifier, substitution_format_string::Format},
            route::v3::{RetryPolicy, route::Action},
        },
        google::protobuf::UInt32Value,
    },
    type_url,
};
use ambit_runtime::telemetry::metrics_handle;
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    logged::{lines, listeners, to_file},
    support::{
        Mesh, WEB,
        client::{get, http1, once, tunnel},
        raw::{self, Stream, Way},
        resources::{self, Service},
    },
};

/// Until what was sent has arrived.
const SENT: Duration = Duration::from_millis(300);

/// Does with each request as its path says.
async fn serve(stream: Stream) {
    let mut connection = h2::server::handshake(stream).await.expect("a connection");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        match request.uri().path() {
            "/before" => respond.send_reset(Reason::INTERNAL_ERROR),
            "/refused" => respond.send_reset(Reason::REFUSED_STREAM),
            "/cut" => return,
            "/held" => drop(tokio::spawn(async move {
                let _held = respond;
                std::future::pending::<()>().await;
            })),
            path => {
                let breaks = path == "/amid";
                let mut body = respond.send_response(Response::new(()), false).expect("the head of an answer");
                body.send_data(Bytes::from_static(b"half"), false).expect("the half of an answer");
                drop(tokio::spawn(async move {
                    tokio::time::sleep(SENT).await;
                    if breaks {
                        body.send_reset(Reason::INTERNAL_ERROR);
                    }
                    std::future::pending::<()>().await;
                }));
            }
        }
    }
}

/// A service whose endpoint resets streams.
async fn resetting(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start(number).await;
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let endpoint = raw::start(&mesh, 1, Way::Clear, serve).await;
    mesh.endpoints(&service.cluster(), vec![endpoint]);
    (mesh, service)
}

/// Has requests logged with their flags and details from now on.
fn tell(mesh: &Mesh, service: &Service) -> std::path::PathBuf {
    let path = mesh.beside("lines");
    let text = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n";
    let source = DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() };
    let logs = [to_file(&path, Format::TextFormatSource(source))];
    mesh.deliver(type_url::LISTENER, listeners(std::slice::from_ref(service), &logs));
    path
}

/// Waits for the line of the request that was the `count`th one.
async fn said(path: &std::path::Path, count: usize) -> String {
    lines(path, count).await.remove(count - 1)
}

#[tokio::test]
async fn an_endpoint_that_resets_a_stream_is_told_from_one_that_ends_the_connection() {
    let (mesh, service) = resetting(53).await;
    assert_eq!(once(&mesh, WEB, service.vip, get("/before")).await.0, 503);
    mesh.logged(&["path=/before", "status=503", "reason=upstream_stream_reset", "flags=UR"]).await;
    assert_eq!(once(&mesh, WEB, service.vip, get("/refused")).await.0, 503);
    mesh.logged(&["path=/refused", "status=503", "reason=upstream_stream_refused", "flags=UR"]).await;
    assert_eq!(once(&mesh, WEB, service.vip, get("/cut")).await.0, 503);
    mesh.logged(&["path=/cut", "status=503", "reason=upstream_reset", "flags=UC"]).await;

    let path = tell(&mesh, &service);
    for (count, asked, flags) in [
        (1, "/before", "UR upstream_reset_before_response_started{remote_reset}"),
        (2, "/refused", "UR upstream_reset_before_response_started{remote_refused_stream_reset}"),
        (3, "/cut", "UC upstream_reset_before_response_started{connection_termination}"),
    ] {
        assert_eq!(once(&mesh, WEB, service.vip, get(asked)).await.0, 503);
        assert_eq!(said(&path, count).await, format!("{asked} 503 {flags}"));
    }
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let response = sender.send_request(get("/amid")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err(), "an answer that broke off looks complete");
    assert_eq!(said(&path, 4).await, "/amid 200 UR upstream_reset_after_response_started{remote_reset}");
    let metrics = metrics_handle().unwrap().render();
    for (flags, reason) in [("UR", "upstream_stream_reset"), ("UR", "upstream_stream_refused"), ("UC", "upstream_reset")] {
        let labels = [format!("response_flags=\"{flags}\""), format!("reason=\"{reason}\"")];
        let counted = |line: &str| line.starts_with("istio_requests_total{") && labels.iter().all(|label| line.contains(label));
        assert!(metrics.lines().any(counted), "{labels:?}");
    }
}

#[tokio::test]
async fn what_is_told_of_a_stream_is_what_retries_go_by() {
    let (mesh, service) = resetting(54).await;
    let path = tell(&mesh, &service);
    for (count, retry_on, asked, flags) in [
        (1, "refused-stream", "/refused", "URX,UR upstream_reset_before_response_started{remote_refused_stream_reset}"),
        (2, "refused-stream", "/before", "UR upstream_reset_before_response_started{remote_reset}"),
        (3, "reset", "/before", "URX,UR upstream_reset_before_response_started{remote_reset}"),
        (
            4,
            "connect-failure,reset-before-request",
            "/refused",
            "UR upstream_reset_before_response_started{remote_refused_stream_reset}",
        ),
    ] {
        let mut route = resources::to(&service.cluster());
        let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
        let num_retries = Some(UInt32Value { value: 1 });
        action.retry_policy = Some(RetryPolicy { retry_on: retry_on.into(), num_retries, ..Default::default() });
        mesh.route(&service, vec![route]);
        assert_eq!(once(&mesh, WEB, service.vip, get(asked)).await.0, 503);
        assert_eq!(said(&path, count).await, format!("{asked} 503 {flags}"), "{retry_on}");
    }
}

#[tokio::test]
async fn a_client_that_takes_its_request_back_is_told_from_one_that_leaves() {
    let (mesh, service) = resetting(55).await;
    let path = tell(&mesh, &service);
    let request = |path: &str| Request::get(format!("http://billing.shop{path}")).body(()).unwrap();
    let stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);

    let (_answer, mut asked) = sender.send_request(request("/held"), true).unwrap();
    tokio::time::sleep(SENT).await;
    asked.send_reset(Reason::CANCEL);
    assert_eq!(said(&path, 1).await, "/held 0 DR http2.remote_reset");

    let (answer, mut asked) = sender.send_request(request("/begun"), true).unwrap();
    let _answer = answer.await.unwrap();
    asked.send_reset(Reason::CANCEL);
    assert_eq!(said(&path, 2).await, "/begun 200 DR http2.remote_reset");

    let (_answer, _asked) = sender.send_request(request("/held"), true).unwrap();
    tokio::time::sleep(SENT).await;
    connection.abort();
    assert_eq!(said(&path, 3).await, "/held 0 DC downstream_remote_disconnect");
}

#[tokio::test]
async fn what_cannot_be_read_as_a_request_is_told() {
    let (mesh, service) = resetting(56).await;
    let ask = async || {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nno header\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 400");
    };
    ask().await;
    mesh.logged(&["status=400", "reason=request_unreadable", "flags=DPE"]).await;
    let path = tell(&mesh, &service);
    ask().await;
    assert_eq!(said(&path, 1).await, "- 400 DPE http1.codec_error");
}

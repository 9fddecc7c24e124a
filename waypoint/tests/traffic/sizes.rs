//! Requests that are larger than their routes let pass.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::core::v3::{HeaderValue, HeaderValueOption, Metadata},
            extensions::filters::http::{
                buffer::v3::{Buffer, BufferPerRoute, buffer_per_route::Override},
                ext_proc::v3::{ProcessingMode, processing_mode::BodySendMode},
            },
            service::ext_proc::v3::{CommonResponse, processing_request::Request as Told},
        },
        google::protobuf::{Struct, UInt32Value, Value, value::Kind},
    },
    type_url,
};
use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use waypoint::explain::{Question, explain, request};

use super::{
    billing, processed,
    resilience::until,
    support::{
        BILLING, Mesh, WEB,
        client::{Body, http2, once, read, tunnel},
        endpoint::{self, HTTP},
        id, processor,
        resources::{self, ChangeProcessor, Ep, Route, Service, any},
    },
};

/// A body of which nobody says how long it is going to be.
type Parts = StreamBody<UnboundedReceiver<Result<Frame<Bytes>, Infallible>>>;

fn parts() -> (UnboundedSender<Result<Frame<Bytes>, Infallible>>, Parts) {
    let (say, said) = unbounded();
    (say, StreamBody::new(said))
}

fn part(length: usize) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from("x".repeat(length))))
}

/// Bodies of 8 bytes at most.
fn short(mut route: Route) -> Route {
    let buffer = Buffer { max_request_bytes: Some(UInt32Value { value: 8 }) };
    let said = BufferPerRoute { r#override: Some(Override::Buffer(buffer)) };
    let said = any("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", &said);
    route.typed_per_filter_config.insert("envoy.filters.http.buffer".into(), said);
    route
}

/// Answers say which route they are of.
fn marked(mut route: Route) -> Route {
    let header = HeaderValue { key: "x-route".into(), value: "short".into(), ..Default::default() };
    route.response_headers_to_add = vec![HeaderValueOption { header: Some(header), ..Default::default() }];
    route
}

/// Heads of so many bytes at most, and by whom that is said.
fn light(mut route: Route, most: f64) -> Route {
    let said = |name: &str, kind: Kind| Struct { fields: HashMap::from([(name.to_owned(), Value { kind: Some(kind) })]) };
    let own = ("io.ambit".to_owned(), said("max_header_bytes", Kind::NumberValue(most)));
    let by = ("ambit.dev".to_owned(), said("size", Kind::StringValue("shop/small".into())));
    route.metadata = Some(Metadata { filter_metadata: HashMap::from([own, by]), ..Default::default() });
    route
}

fn reason(headers: &HeaderMap) -> &str {
    headers.get("x-ambit-reason").map_or("", |reason| reason.to_str().unwrap())
}

async fn send(mesh: &Mesh, service: &Service, is_http2: bool, body: Parts) -> (u16, HeaderMap, String) {
    let stream = TokioIo::new(tunnel(mesh, WEB, service.vip).await.unwrap());
    if is_http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://billing.shop/whole").body(body).unwrap();
        return read(sender.send_request(request).await.unwrap()).await;
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/whole").header("host", "billing.shop").body(body).unwrap();
    read(sender.send_request(request).await.unwrap()).await
}

#[tokio::test]
async fn a_body_that_is_said_to_be_too_long_is_not_sent_on_and_one_that_is_just_so_long_is() {
    let (mesh, service, seen) = billing(218).await;
    let (small, to) = (resources::prefix_to("/whole", &service.cluster()), resources::to(&service.cluster()));
    mesh.route(&service, vec![short(small), to]);
    let post = |path: &str, length: usize| {
        let request = Request::post(path).header("host", "billing.shop");
        request.body(Body::from("x".repeat(length))).unwrap()
    };
    let (status, headers, _) = once(&mesh, WEB, service.vip, post("/whole", 9)).await;
    assert_eq!((status, reason(&headers)), (413, "request_too_large"));
    let mut client = http2(&mesh, WEB, service.vip).await;
    let (status, headers, _) = read(client.send_request(post("http://billing.shop/whole", 9)).await.unwrap()).await;
    assert_eq!((status, reason(&headers), seen.requests()), (413, "request_too_large", 0));
    mesh.logged(&["path=/whole ", "status=413", "reason=request_too_large"]).await;
    let (status, _, text) = once(&mesh, WEB, service.vip, post("/whole", 8)).await;
    assert_eq!((status, text.as_str()), (200, "8"));
    let (status, _, text) = read(client.send_request(post("http://billing.shop/whole", 8)).await.unwrap()).await;
    assert_eq!((status, text.as_str()), (200, "8"));
    assert_eq!(once(&mesh, WEB, service.vip, post("/echo", 9)).await.0, 200, "of another route");
    let said = |length: &str| {
        let headers = [("content-length".to_owned(), length.to_owned())];
        let request = request("POST", "billing.shop", "/whole", &headers, false).unwrap();
        let question = Question { identity: id(WEB), address: [127, 0, 0, 1].into(), destination: service.vip, request };
        explain(&mesh.store.snapshot(), &question)
    };
    let (well, refused) = (said("8"), said("9"));
    assert_eq!((well.status, refused.status), (None, Some(413)), "{refused:?}");
    let text = serde_json::to_string(&well).unwrap();
    assert!(text.contains("a limit holds of how large requests may be") && text.contains("bodies may have 8 bytes"), "{text}");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_where_it_is_too_long_and_never_seems_whole() {
    let (mesh, service, seen) = billing(238).await;
    mesh.route(&service, vec![marked(short(resources::to(&service.cluster())))]);
    for is_http2 in [false, true] {
        let (say, body) = parts();
        say.unbounded_send(part(4)).unwrap();
        say.unbounded_send(part(4)).unwrap();
        drop(say);
        let (status, _, text) = send(&mesh, &service, is_http2, body).await;
        assert_eq!((status, text.as_str()), (200, "8"), "HTTP/2: {is_http2}");
        seen.log.lock().unwrap().clear();
        let before = seen.requests();
        let (say, body) = parts();
        say.unbounded_send(part(4)).unwrap();
        let rest = async {
            until("the request does not come", || seen.requests() > before).await;
            say.unbounded_send(part(5)).unwrap();
        };
        let ((status, headers, _), ()) = tokio::join!(send(&mesh, &service, is_http2, body), rest);
        assert_eq!((status, reason(&headers)), (413, "request_too_large"), "HTTP/2: {is_http2}");
        assert_eq!(headers["x-route"], "short", "HTTP/2: {is_http2}");
        let is = |what: &str| seen.log.lock().unwrap().iter().any(|line| line == what);
        until("the body does not break off", || is("broken") || is("whole")).await;
        assert!(!is("whole"), "HTTP/2: {is_http2}");
        drop(say);
    }
    mesh.logged(&["path=/whole ", "status=413", "reason=request_too_large"]).await;
}

#[tokio::test]
async fn a_response_that_ends_since_its_request_is_too_long_is_logged_as_that() {
    let (mesh, service, _) = billing(227).await;
    mesh.route(&service, vec![short(resources::to(&service.cluster()))]);
    let (say, body) = parts();
    say.unbounded_send(part(4)).unwrap();
    let stream = TokioIo::new(tunnel(&mesh, WEB, service.vip).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(Request::post("http://billing.shop/drip").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    say.unbounded_send(part(5)).unwrap();
    assert!(response.into_body().collect().await.is_err());
    mesh.logged(&["path=/drip ", "status=200", "reason=request_too_large"]).await;
}

#[tokio::test]
async fn a_head_that_takes_more_than_its_route_lets_pass_is_refused_with_the_policy_that_says_so() {
    let (mesh, service, seen) = billing(239).await;
    let (small, to) = (resources::prefix_to("/small", &service.cluster()), resources::to(&service.cluster()));
    mesh.route(&service, vec![light(small, 600.0), to]);
    let get = |path: &str, length: usize| {
        let request = Request::get(path).header("host", "billing.shop").header("x-long", "x".repeat(length));
        request.body(Body::default()).unwrap()
    };
    assert_eq!(once(&mesh, WEB, service.vip, get("/small", 10)).await.0, 200);
    let (status, headers, _) = once(&mesh, WEB, service.vip, get("/small", 600)).await;
    assert_eq!((status, reason(&headers)), (431, "request_too_large"));
    assert_eq!(headers["x-ambit-policy"], "shop/small");
    let mut client = http2(&mesh, WEB, service.vip).await;
    let long = Request::get("http://billing.shop/small").header("x-long", "x".repeat(600)).body(Body::default()).unwrap();
    assert_eq!(read(client.send_request(long).await.unwrap()).await.0, 431);
    assert_eq!(seen.requests(), 1, "what is refused was sent on");
    assert_eq!(once(&mesh, WEB, service.vip, get("/", 600)).await.0, 200, "of another route");
}

#[tokio::test]
async fn a_body_of_which_a_processor_is_told_whole_is_looked_at_before_it_is_told() {
    let mesh = Mesh::start(219).await;
    let whole: ChangeProcessor = |config| {
        let request_body_mode = BodySendMode::Buffered.into();
        config.processing_mode = Some(ProcessingMode { request_body_mode, ..Default::default() });
    };
    let service = Service { processor: Some(("processor", whole)), ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let http2 = Service { protocol: "http2", ..Service::http("processor", mesh.socket(102, 80)) };
    mesh.deliver(type_url::CLUSTER, vec![("processor".into(), resources::cluster("processor", &http2))]);
    mesh.endpoints("processor", vec![Ep::Clear(mesh.socket(9, 9100))]);
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    let script: processor::Script = |path, told| {
        let puts = path == "/put" && matches!(told, Told::RequestBody(_));
        let body_mutation = if puts { processed::body("put") } else { None };
        processed::fitting(told, CommonResponse { body_mutation, ..Default::default() })
    };
    processor::start(mesh.socket(9, 9100), script).await;
    mesh.route(&service, vec![marked(short(resources::to(&service.cluster())))]);
    for is_http2 in [false, true] {
        for (last, expected) in [(4, 200), (5, 413)] {
            let before = seen.requests();
            let (say, body) = parts();
            say.unbounded_send(part(4)).unwrap();
            say.unbounded_send(part(last)).unwrap();
            drop(say);
            let (status, headers, text) = send(&mesh, &service, is_http2, body).await;
            assert_eq!(status, expected, "{last}, HTTP/2: {is_http2}: {text}");
            assert_eq!(headers["x-route"], "short", "{last}, HTTP/2: {is_http2}");
            assert_eq!(seen.requests() - before, usize::from(expected == 200), "{last}, HTTP/2: {is_http2}");
        }
        // What is too long is not waited for to its end.
        let (say, body) = parts();
        say.unbounded_send(part(9)).unwrap();
        let (status, headers, _) = timeout(Duration::from_secs(20), send(&mesh, &service, is_http2, body)).await.unwrap();
        assert_eq!((status, reason(&headers)), (413, "request_too_large"), "HTTP/2: {is_http2}");
        drop(say);
    }
    // Of a body that is put in the place of another one it is said how long it is, where a method lets expect none as well.
    let (say, body) = parts();
    say.unbounded_send(part(4)).unwrap();
    drop(say);
    let stream = TokioIo::new(tunnel(&mesh, WEB, service.vip).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/put").header("host", "billing.shop").header("transfer-encoding", "chunked");
    let (status, _, text) = read(sender.send_request(request.body(body).unwrap()).await.unwrap()).await;
    assert!(status == 200 && text.contains("content-length: 3\n") && !text.contains("transfer-encoding"), "{status}: {text}");
}

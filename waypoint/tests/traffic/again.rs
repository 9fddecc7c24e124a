//! Requests that are sent once more, bodies that are kept for that, and times that begin when a request has come whole.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::config::{
            cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
            route::v3::{RetryPolicy, route::Action},
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value},
    },
    type_url,
};
use ambit_hbone::TunnelStream;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    billing,
    support::{
        Limits, Mesh, WEB,
        client::{Body, once, tunnel},
        resources::{self, Ep, Service},
        scripted::{
            self,
            Act::{self, Answer, Cut, Leave, Refuse, Reset},
        },
    },
};

fn asking(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/").header("host", "billing.shop").body(Body::default()).unwrap()
}

/// A case: method, what the endpoint does with each request that comes, the status of the client's last one, and how many came.
type Case = (&'static str, &'static [Act], u16, usize);

/// For each case a client asks once, and before that another one where the first act is an answer, so that a connection is at hand.
async fn check(number: u8, retries: Option<u32>, cases: &[Case]) {
    let mesh = Mesh::start(number).await;
    for (index, (method, acts, status, came)) in cases.iter().enumerate() {
        let port = 8100 + u16::try_from(index).unwrap();
        let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
        mesh.serve(std::slice::from_ref(&service));
        if let Some(retries) = retries {
            let most = Thresholds { max_retries: Some(UInt32Value { value: retries }), ..Default::default() };
            let mut cluster = resources::cluster(&service.cluster(), &service);
            cluster.circuit_breakers = Some(CircuitBreakers { thresholds: vec![most], ..Default::default() });
            mesh.deliver(type_url::CLUSTER, vec![(service.cluster(), cluster)]);
        }
        let seen = scripted::start(mesh.socket(1, port), acts).await;
        mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, port))]);
        if acts[0] == Answer {
            assert_eq!(once(&mesh, WEB, service.vip, asking("GET")).await.0, 200, "{method} {acts:?}");
        }
        let (got, ..) = once(&mesh, WEB, service.vip, asking(method)).await;
        assert_eq!((got, seen.requests()), (*status, *came), "{method} {acts:?}");
    }
}

#[tokio::test]
async fn without_a_policy_a_request_is_sent_once_more_where_the_connection_at_hand_was_over_and_no_more() {
    let cases: [Case; 10] = [
        ("GET", &[Answer, Refuse, Answer], 200, 3),
        ("POST", &[Answer, Refuse, Answer], 200, 3),
        ("POST", &[Answer, Leave, Answer], 200, 3),
        ("GET", &[Answer, Refuse], 503, 3),
        ("POST", &[Answer, Leave, Cut], 503, 3),
        // A new connection was not over before.
        ("GET", &[Refuse], 503, 1),
        ("GET", &[Cut], 503, 1),
        // It may have arrived.
        ("GET", &[Answer, Cut, Answer], 200, 3),
        ("POST", &[Answer, Cut], 503, 2),
        // The connection was not over: the endpoint has failed.
        ("GET", &[Answer, Reset, Answer], 503, 2),
    ];
    check(30, None, &cases).await;
}

#[tokio::test]
async fn what_is_sent_once_more_where_the_connection_at_hand_was_over_needs_no_place_in_the_budget_of_the_cluster() {
    let cases: [Case; 4] = [
        ("GET", &[Answer, Cut, Answer], 200, 3),
        ("POST", &[Answer, Cut], 503, 2),
        ("GET", &[Answer, Refuse, Answer], 200, 3),
        ("GET", &[Answer, Leave, Answer], 200, 3),
    ];
    check(31, Some(0), &cases).await;
}

const SECOND: ProtoDuration = ProtoDuration { seconds: 1, nanos: 0 };

/// A route whose answers have a second, and whose tries have as long.
fn hurried(cluster: &str) -> resources::Route {
    let mut route = resources::to(cluster);
    let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
    action.timeout = Some(SECOND);
    action.retry_policy = Some(RetryPolicy { retry_on: "reset".into(), per_try_timeout: Some(SECOND), ..Default::default() });
    route
}

/// The head of an answer.
pub(super) async fn answered(stream: &mut TunnelStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn the_times_of_a_route_begin_when_the_request_has_come_whole() {
    let (mesh, service, seen) = billing(32).await;
    mesh.route(&service, vec![hurried(&service.cluster())]);
    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    stream.write_all(b"PUT /flaky HTTP/1.1\r\nhost: b\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(b"half").await.unwrap();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 200 "), "the time ran while the client was sending");
    assert_eq!(seen.flaky.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_is_kept_no_longer_than_until_the_answer_begins() {
    let (mesh, service, seen) = billing(33).await;
    mesh.route(&service, vec![hurried(&service.cluster())]);
    let room = async |wanted: fn(usize) -> bool, what: &str| {
        let began = Instant::now();
        while !wanted(mesh.proxy.kept_bodies.available_permits()) {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    // The endpoint waits for no body before it answers.
    stream.write_all(b"PUT /held HTTP/1.1\r\nhost: b\r\ncontent-length: 900000\r\n\r\n").await.unwrap();
    stream.write_all(&[b'x'; 10_000]).await.unwrap();
    room(|left| left <= Limits::default().kept_bodies - 10_000, "nothing of the body is kept").await;
    seen.answer.notify_one();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 200 "));
    room(|left| left == Limits::default().kept_bodies, "the body is kept while it goes on").await;
    drop(stream);
}

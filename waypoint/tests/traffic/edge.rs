//! Clients outside of the mesh, at a port of the proxy's own.

use std::time::{Duration, Instant};

use ambit_api::type_url;
use ambit_runtime::drain::{self, Outcome};
use http::{HeaderMap, Request};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waypoint::edge;

pub(super) use super::support::free_port;
use super::support::{
    BILLING, Limits, Mesh, WAYPOINT, billing,
    client::{Body, read},
    endpoint::{self, HTTP},
    resources::{self, Ep, Service},
};

pub(super) const NAME: &str = "ingress|80";
/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, as soon as the port is open.
pub(super) async fn connected(port: u16) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client that keeps its connection.
pub(super) async fn client(port: u16) -> http1::SendRequest<Body> {
    let (sender, connection) = http1::handshake(TokioIo::new(connected(port).await)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) async fn once(port: u16, request: Request<Body>) -> (u16, HeaderMap, String) {
    read(client(port).await.send_request(request).await.unwrap()).await
}

pub(super) fn get(host: &str, path: &str) -> Request<Body> {
    let request =
        Request::get(path).header("host", host).header("x-forwarded-for", "192.0.2.1").header("x-envoy-retry-on", "5xx");
    let request = request.header("x-ambit-explain", "answer");
    request.header("x-forwarded-client-cert", format!("URI={WAYPOINT}")).body(Body::default()).unwrap()
}

#[tokio::test]
async fn requests_from_outside_of_the_mesh_reach_endpoints_in_it_by_the_proxys_own_identity() {
    let (mesh, service, seen) = billing(91).await;
    let port = free_port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    let (name, mut table) = resources::routes(NAME, vec![resources::to(&service.cluster())]);
    table.virtual_hosts[0].domains = vec!["*.shop.example".into()];
    table.ignore_port_in_host_matching = true;
    mesh.deliver(type_url::ROUTE, vec![(name, table)]);
    let (trigger, watch) = drain::channel();
    let running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));

    let (status, _, text) = once(port, get(&format!("www.shop.example:{port}"), "/a")).await;
    assert_eq!(status, 200, "{text}");
    let expected: [&str; 6] = [
        "v1 GET /a HTTP/1.1\n",
        &format!("host: www.shop.example:{port}\n"),
        &format!("peer {WAYPOINT}\n"),
        "x-forwarded-for: 192.0.2.1,127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-envoy-external-address: 127.0.0.1\n",
    ];
    for part in expected {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(
        !text.contains("x-ambit-explain") && !text.contains("x-envoy-retry-on") && !text.contains("x-forwarded-client-cert"),
        "{text}"
    );
    mesh.logged(&[
        "src.addr=127.0.0.1:",
        "path=/a ",
        "status=200",
        "security=none",
        "dst.service=billing.shop.svc.cluster.local",
    ])
    .await;

    let (status, headers, _) = once(port, get("shop.example", "/a")).await;
    assert_eq!((status, headers["x-ambit-reason"].to_str().unwrap()), (404, "route_not_found"));

    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connected(port).await)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://a.shop.example/b").body(Body::default()).unwrap();
    let (status, _, text) = read(sender.send_request(request).await.unwrap()).await;
    assert!(status == 200 && text.contains("GET http://a.shop.example/b HTTP/2.0\n"), "{text}");
    assert_eq!(seen.requests(), 2);

    assert_eq!(trigger.drain(PATIENCE).await, Outcome::Finished);
    connection.await.unwrap().ok();
    running.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "the port is open after the drain");
}

#[tokio::test]
async fn a_port_follows_the_configuration_and_who_asks_there_must_be_taken_for_a_stranger() {
    let (mesh, service, _) = billing(92).await;
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let deliver = |port| {
        mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    };
    let (first, second) = (free_port(), free_port());
    deliver(first);
    mesh.deliver(type_url::ROUTE, vec![resources::routes(NAME, vec![resources::to(&service.cluster())])]);
    assert_eq!(once(first, get("a", "/")).await.0, 200);
    deliver(second);
    assert_eq!(once(second, get("a", "/")).await.0, 200);
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", first)).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "port {first} is open still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let refused = |change: fn(&mut resources::Manager)| {
        let listener = resources::edge_with(second, NAME, change);
        let mut rejected = mesh.offer(type_url::LISTENER, vec![(NAME.into(), listener)]);
        rejected.pop().unwrap().reason
    };
    assert!(refused(|manager| manager.use_remote_address = None).contains("use_remote_address must be true"));
    assert!(refused(|manager| manager.xff_num_trusted_hops = 1).contains("xff_num_trusted_hops is not implemented"));
    assert!(refused(|manager| manager.skip_xff_append = true).contains("skip_xff_append is not implemented"));
}

#[tokio::test]
async fn a_client_that_does_not_go_on_with_the_body_of_its_request_is_not_waited_for() {
    let limits = Limits { body: Duration::from_millis(300), ..Limits::default() };
    let mesh = Mesh::start_with(98, limits).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    let port = free_port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes(NAME, vec![resources::to(&service.cluster())])]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let mut stream = connected(port).await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    let mut answer = vec![0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    mesh.logged(&["path=/echo", "reason=request_timeout", "status=408"]).await;
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_from_outside_of_the_mesh_too() {
    let (mesh, service, seen) = billing(196).await;
    let port = free_port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes(NAME, vec![resources::to(&service.cluster())])]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let good = "GET /good HTTP/1.1\r\nhost: a\r\n\r\n";
    for bad in ["content-length: 5\r\ntransfer-encoding: chunked", "content-length: 5\r\ncontent-length: 5", "x-a: b\nx-c: d"] {
        let mut stream = connected(port).await;
        stream.write_all(format!("{good}POST /bad HTTP/1.1\r\nhost: a\r\n{bad}\r\n\r\n{good}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
        let answer = String::from_utf8_lossy(&answer);
        let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect();
        assert_eq!(statuses, ["200", "400"], "{bad:?}: {answer:?}");
    }
    // One before each of those.
    assert_eq!(seen.requests(), 3);
}

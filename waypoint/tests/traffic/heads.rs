//! Clients that take their time, and peers that ask for something else than tunnels.

use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    Limits, Mesh, WAYPOINT, WEB, certificates,
    client::{get, http1, read, tunnel},
    endpoint::{self, HTTP},
    id,
    resources::{Ep, Service},
};

const HEAD: Duration = Duration::from_millis(300);

async fn impatient(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start_with(number, Limits { head: HEAD, ..Limits::default() }).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    endpoint::start(&mesh, 1, "v1", super::BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), super::BILLING)]);
    (mesh, service)
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_its_connection_and_a_pause_between_requests_does_not() {
    let (mesh, service) = impatient(217).await;
    for (before, first) in
        [("", "GET / HT"), ("", "G"), ("", "PRI * HT"), ("GET /a HTTP/1.1\r\nhost: billing.shop\r\n\r\n", "GET /b HTT")]
    {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        stream.write_all(before.as_bytes()).await.unwrap();
        let mut answer = vec![0; if before.is_empty() { 0 } else { 12 }];
        stream.read_exact(&mut answer).await.unwrap();
        // The pause is longer than a head may take.
        tokio::time::sleep(2 * HEAD).await;
        let began = Instant::now();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
        ended.unwrap_or_else(|_| panic!("{first:?} may go on for ever")).ok();
        assert!(began.elapsed() >= HEAD - Duration::from_millis(20), "{first:?} ended after {:?}", began.elapsed());
    }
    mesh.logged(&["reason=request_timeout", "dst.service=billing.shop"]).await;

    let mut sender = http1(&mesh, WEB, service.vip).await;
    for path in ["/a", "/b"] {
        sender.ready().await.unwrap();
        assert_eq!(read(sender.send_request(get(path)).await.unwrap()).await.0, 200, "{path}");
        tokio::time::sleep(2 * HEAD).await;
    }
}

#[tokio::test]
async fn a_websocket_is_not_taken_for_a_head_that_takes_too_long() {
    let (mesh, service) = impatient(50).await;
    let mut request = get("/ws");
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let response = http1(&mesh, WEB, service.vip).await.send_request(request).await.unwrap();
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for text in ["one", "two", "three"] {
        io.write_all(text.as_bytes()).await.unwrap();
        let mut buffer = vec![0; text.len()];
        io.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, text.as_bytes());
        tokio::time::sleep(2 * HEAD).await;
    }
}

#[tokio::test]
async fn a_peer_that_asks_for_no_tunnel_is_in_the_log() {
    let (mesh, _) = impatient(51).await;
    let svid = certificates(&mesh.authority).get(&id(WEB)).await.unwrap();
    let config = ambit_tls::client_config(&svid, &[id(WAYPOINT)]).unwrap();
    let tcp = tokio::net::TcpStream::connect(mesh.address).await.unwrap();
    let stream = ambit_tls::handshake::connect(tcp, config, Duration::from_secs(5)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://billing.shop/").body(super::support::client::Body::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert!(answer.status().is_client_error(), "{answer:?}");
    mesh.logged(&["reason=not_connect", "src.identity=spiffe://cluster.local/ns/shop/sa/web"]).await;
}

//! Peers that do not keep to the protocol, and the server's drain.

#![allow(missing_docs)]

mod common;

use std::time::Duration;

use ambit_hbone::{ConnectError, PoolConfig, ServeError, ServerConfig, Settings};
use common::{Client, Server, echo, noise, server, tcp};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn end_of(server: &mut Server) -> Result<u64, ServeError> {
    timeout(Duration::from_secs(10), server.ended.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_not_http2_end_the_connection_with_that_reason() {
    let mut server = server(ServerConfig::default(), echo).await;
    for garbage in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), noise(5, 4096), vec![0; 100]] {
        let mut client = tcp(server.address).await.unwrap();
        client.write_all(&garbage).await.unwrap();
        assert!(matches!(end_of(&mut server).await, Err(ServeError::NotHttp2(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_frames_after_a_good_preface_end_the_connection_and_nothing_else() {
    let mut server = server(ServerConfig::default(), echo).await;
    for seed in 0..200 {
        let mut client = tcp(server.address).await.unwrap();
        let mut bytes = PREFACE.to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            // A plausible frame: short, of a known type, with any flags and a small stream number.
            let length = random.u8(..40);
            bytes.extend([0, 0, length, random.u8(..10), random.u8(..), 0, 0, 0, random.u8(..4)]);
            bytes.extend(noise(random.u64(..), length.into()));
        }
        // The server may close before it has taken all.
        let _ = client.write_all(&bytes).await;
        let _ = client.shutdown().await;
        let _ = timeout(Duration::from_secs(5), client.read_to_end(&mut Vec::new())).await.unwrap();
        // An error or an orderly end: what matters is that it ends, and the server with it does not.
        let _ = end_of(&mut server).await;
    }
    let client = Client::new(server.address, PoolConfig::default());
    client.open("10.0.0.1:80").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_never_begins_is_given_up() {
    let mut server = server(ServerConfig { preface_timeout: Duration::from_millis(100), ..ServerConfig::default() }, echo).await;
    let mut client = tcp(server.address).await.unwrap();
    client.write_all(&PREFACE[..10]).await.unwrap();
    assert!(matches!(end_of(&mut server).await, Err(ServeError::Silent(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_begins_and_falls_silent_is_given_up() {
    let settings =
        Settings { ping_interval: Duration::from_millis(50), ping_timeout: Duration::from_millis(100), ..Settings::default() };
    let mut server = server(ServerConfig { settings, ..ServerConfig::default() }, echo).await;
    let mut client = tcp(server.address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    assert!(matches!(end_of(&mut server).await, Err(ServeError::Silent(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_without_requests_is_released() {
    let mut server = server(ServerConfig { idle_timeout: Duration::from_millis(100), ..ServerConfig::default() }, echo).await;
    let (_send, connection) = h2::client::handshake(tcp(server.address).await.unwrap()).await.unwrap();
    let closed = tokio::spawn(connection);
    assert_eq!(end_of(&mut server).await.unwrap(), 0);
    timeout(Duration::from_secs(5), closed).await.unwrap().unwrap().unwrap();
}

async fn status_of(address: std::net::SocketAddr, request: Request<()>) -> StatusCode {
    let (mut send, connection) = h2::client::handshake(tcp(address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let (response, _body) = send.send_request(request, true).unwrap();
    timeout(Duration::from_secs(5), response).await.unwrap().unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_method_other_than_connect_is_a_bad_request() {
    let server = server(ServerConfig::default(), echo).await;
    for method in [Method::GET, Method::POST] {
        let request = Request::builder().method(method).uri("http://10.0.0.1:80/").body(()).unwrap();
        assert_eq!(status_of(server.address, request).await, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_authority_that_is_no_target_reaches_the_handler_as_an_error() {
    let server = server(ServerConfig::default(), echo).await;
    for target in ["10.0.0.1", "300.1.1.1:80", "a_host", "user@host:80", "10.0.0.1:0"] {
        let request = Request::builder().method(Method::CONNECT).uri(target).body(()).unwrap();
        assert_eq!(status_of(server.address, request).await, StatusCode::BAD_REQUEST, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn headers_beyond_the_limit_are_refused() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let headers: HeaderMap = [("x-long".parse().unwrap(), "a".repeat(17 << 10).parse().unwrap())].into_iter().collect();
    let error = client.open_with("10.0.0.1:80", headers).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Refused { status, .. } if *status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            || matches!(error, ConnectError::Reset(_)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_opens_and_resets_without_end_does_not_pile_up_handlers() {
    let running = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = std::sync::Arc::clone(&running);
    let server = server(ServerConfig { max_streams: 10, ..ServerConfig::default() }, move |incoming| {
        let running = std::sync::Arc::clone(&running);
        async move {
            let _incoming = incoming;
            running.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (mut send, connection) = h2::client::handshake(tcp(server.address).await.unwrap()).await.unwrap();
    let ended = tokio::spawn(connection);
    for _ in 0..200 {
        let Ok(mut ready) = send.clone().ready().await else { break };
        let request = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
        let Ok((response, mut body)) = ready.send_request(request, false) else { break };
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        tokio::time::sleep(Duration::from_millis(1)).await;
        send = ready;
    }
    ended.abort();
    let most = most.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=20).contains(&most), "{most} handlers for a connection of 10 streams");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_draining_server_lets_tunnels_finish_until_the_deadline_and_then_cuts_them() {
    let config = ServerConfig { drain_deadline: Duration::from_millis(300), ..ServerConfig::default() };
    let mut server = server(config, echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut short, _) = client.open("10.0.0.1:80").await.unwrap();
    let (mut long, _) = client.open("10.0.0.1:80").await.unwrap();
    server.drain.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    short.write_all(b"still here").await.unwrap();
    short.shutdown().await.unwrap();
    let mut answer = String::new();
    short.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "still here");
    assert_eq!(end_of(&mut server).await.unwrap(), 2);
    assert!(long.read(&mut [0; 1]).await.is_err(), "a tunnel outlived the server's deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_draining_server_without_tunnels_ends_at_once() {
    let mut server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    drop(client.open("10.0.0.1:80").await.unwrap());
    server.drain.cancel();
    assert_eq!(timeout(Duration::from_secs(2), end_of(&mut server)).await.unwrap().unwrap(), 1);
}

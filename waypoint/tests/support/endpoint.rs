//! An endpoint behind its node proxy: HBONE on port 15008, an application that says what it got.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_hbone::{Incoming as Connect, ServerConfig, TunnelStream, server};
use ambit_identity::SpiffeId;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{Mesh, certificates, id};

/// The port that answers HTTP.
pub const HTTP: u16 = 8080;
/// The port that speaks first, then echoes.
pub const BANNER: u16 = 9000;
/// The port that echoes.
pub const ECHO: u16 = 9001;
/// The port nothing listens on.
pub const CLOSED: u16 = 9002;
/// The port that a policy of the node lets nobody reach.
pub const DENIED: u16 = 9003;

/// What an endpoint has seen.
#[derive(Default)]
pub struct Seen {
    pub tunnels: AtomicUsize,
    pub requests: AtomicUsize,
    pub connections: AtomicUsize,
    /// Has its node proxy ask those who are connected to open no more tunnels there.
    pub leave: Notify,
    /// Has a request to `/held` answered.
    pub answer: Notify,
    /// Requests to `/flaky`.
    pub flaky: AtomicUsize,
    /// Method, target and host of each request.
    pub log: Mutex<Vec<String>>,
    /// What each tunnel says of who its client is.
    pub clients: Mutex<Vec<Option<String>>>,
}

impl Seen {
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An endpoint called `name` at `127.77.<test>.<host>` that proves to be `identity`.
pub async fn start(mesh: &Mesh, host: u8, name: &'static str, identity: &str) -> Arc<Seen> {
    let listener = tokio::net::TcpListener::bind(mesh.socket(host, waypoint::HBONE_PORT)).await.expect("port 15008");
    let store = certificates(&mesh.authority);
    let identity = id(identity);
    let seen = Arc::new(Seen::default());
    let counted = seen.clone();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let config = store.server_config(&identity).await.expect("a configuration");
            let seen = counted.clone();
            seen.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok((stream, peer)) = ambit_tls::handshake::accept(stream, config, Duration::from_secs(5)).await else {
                    return;
                };
                let leaving = seen.clone();
                let handler = move |incoming: Connect| Box::pin(connect(incoming, name, peer.clone(), seen.clone()));
                let _ = server::serve(stream, &ServerConfig::default(), leaving.leave.notified(), handler).await;
            });
        }
    });
    seen
}

/// The same application without a node proxy.
pub async fn start_clear(address: SocketAddr, name: &'static str) {
    let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http(TokioIo::new(stream), name, None, Arc::default()));
        }
    });
}

async fn connect(incoming: Connect, name: &'static str, peer: SpiffeId, seen: Arc<Seen>) {
    let port = incoming.authority().expect("an authority").port();
    seen.tunnels.fetch_add(1, Ordering::SeqCst);
    let client = incoming.headers().get("x-forwarded-client-cert").and_then(|client| client.to_str().ok());
    seen.clients.lock().expect("the clients").push(client.map(str::to_owned));
    if port == CLOSED {
        let mut headers = HeaderMap::new();
        headers.insert("x-ambit-reason", "upstream_refused".parse().expect("a value"));
        incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, headers).expect("an answer");
        return;
    }
    if port == DENIED {
        let mut headers = HeaderMap::new();
        headers.insert("x-ambit-reason", "policy_denied_explicit".parse().expect("a value"));
        headers.insert("x-ambit-policy", "shop/of-the-node".parse().expect("a value"));
        incoming.refuse(StatusCode::UNAUTHORIZED, headers).expect("an answer");
        return;
    }
    let stream = incoming.accept(HeaderMap::new()).expect("a tunnel");
    match port {
        HTTP => http(TokioIo::new(stream), name, Some(peer), seen).await,
        BANNER => echo(stream, format!("hello from {name}\n").as_bytes()).await,
        ECHO => echo(stream, b"").await,
        _ => {}
    }
}

async fn echo(mut stream: TunnelStream, banner: &[u8]) {
    let _ = stream.write_all(banner).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    // The end of the client's direction is passed on before ours ends.
    let _ = write.write_all(b"bye").await;
    let _ = write.shutdown().await;
    let _ = read.read(&mut [0]).await;
}

async fn http<I>(io: I, name: &'static str, peer: Option<SpiffeId>, seen: Arc<Seen>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, name, peer.clone(), seen.clone()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(io, service).await;
}

/// What came of a body, told once nobody reads it any more.
struct Read(Arc<Seen>, &'static str);

impl Drop for Read {
    fn drop(&mut self) {
        self.0.log.lock().expect("the log").push(self.1.to_owned());
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(
    mut request: Request<Incoming>,
    name: &'static str,
    peer: Option<SpiffeId>,
    seen: Arc<Seen>,
) -> Result<Answer, Infallible> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    seen.log.lock().expect("the log").push(format!("{} {} {host}", request.method(), request.uri()));
    // The server for HTTP/2 would send a body in answer to HEAD, which breaks the answer off.
    let bodiless = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
    let full = |text: String| Full::new(if bodiless { Bytes::new() } else { Bytes::from(text) }).boxed_unsync();
    if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.expect("an upgrade"));
            let mut buffer = [0; 64];
            while let Ok(count) = io.read(&mut buffer).await {
                if count == 0 || io.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return Ok(response.body(full(String::new())).expect("a response"));
    }
    let path = request.uri().path().to_owned();
    if path == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        let whole = request.into_body().collect().await.expect("a body");
        // What came after it goes back as it came.
        trailers.extend(whole.trailers().cloned().unwrap_or_default());
        let received = whole.to_bytes();
        let frames = vec![Ok(Frame::data(received)), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        return Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"));
    }
    if path == "/stream" {
        // Each piece goes back as it comes, and when all of them have come the status of a call.
        let frames = futures::stream::unfold(Some(request.into_body()), |body| async move {
            let mut body = body?;
            match body.frame().await {
                Some(Ok(frame)) => Some((Ok(frame), Some(body))),
                // It was broken off.
                Some(Err(_)) => None,
                None => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().expect("a value"));
                    Some((Ok(Frame::trailers(trailers)), None))
                }
            }
        });
        let body = StreamBody::new(frames).boxed_unsync();
        return Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"));
    }
    if path == "/whole" {
        let mut read = Read(seen, "broken");
        let Ok(body) = request.into_body().collect().await else {
            return Ok(Response::builder().status(400).body(full(String::new())).expect("a response"));
        };
        read.1 = "whole";
        return Ok(Response::new(full(body.to_bytes().len().to_string())));
    }
    if path == "/flaky" {
        // The answers that the request asks for, one to each time it comes, then 200.
        let turn = seen.flaky.fetch_add(1, Ordering::SeqCst);
        let answers = request.headers().get("x-answers").and_then(|answers| answers.to_str().ok()).unwrap_or_default();
        let answer = answers.split(',').nth(turn).filter(|answer| !answer.is_empty()).unwrap_or("200").to_owned();
        let told = request.headers().get("x-envoy-expected-rq-timeout-ms").cloned();
        let length = request.into_body().collect().await.expect("a body").to_bytes().len();
        assert!(answer != "reset", "the endpoint breaks the connection, as the test wants");
        if let Some(status) = answer.strip_prefix("grpc-") {
            // A call that ends with its status in the head, as a limit refuses it where that is said.
            let (status, limited) = status.strip_suffix("-limited").map_or((status, false), |status| (status, true));
            let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
            let head = if limited { head.header("x-envoy-ratelimited", "true") } else { head };
            return Ok(head.body(full(String::new())).expect("a response"));
        }
        if let Some(status) = answer.strip_prefix("behind-") {
            // The same behind a body.
            let trailers =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status.parse().expect("a value"))]);
            let frames = vec![Ok(Frame::data(Bytes::from("some"))), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
            return Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"));
        }
        let mut response = Response::builder().status(answer.as_str()).body(full(length.to_string())).expect("a response");
        response.headers_mut().extend(told.map(|told| (http::HeaderName::from_static("x-told"), told)));
        return Ok(response);
    }
    if path == "/held" {
        seen.answer.notified().await;
    }
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    if path == "/slower" {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    if path == "/drip" || path == "/trickle" || path == "/break" {
        let (whole, drops) = (path != "/break", if path == "/trickle" { 8 } else { 3 });
        let frames = futures::stream::unfold(0, move |n| async move {
            if n == 2 && !whole {
                // The end that chunked coding must have never comes: the connection is closed first.
                panic!("the endpoint breaks its response, as the test wants");
            }
            if n > 0 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            (n < drops).then(|| (Ok(Frame::data(Bytes::from(format!("drop {n}\n")))), n + 1))
        });
        return Ok(Response::new(StreamBody::new(frames).boxed_unsync()));
    }
    let mut text = format!("{name} {} {} {:?}\n", request.method(), request.uri(), request.version());
    for (key, value) in request.headers() {
        text += &format!("{key}: {}\n", value.to_str().unwrap_or("?"));
    }
    if let Some(peer) = peer {
        text += &format!("peer {peer}\n");
    }
    if path == "/echo" {
        let received = request.into_body().collect().await.expect("a body").to_bytes();
        return Ok(Response::new(Full::new(received).boxed_unsync()));
    }
    if path == "/close" {
        return Ok(Response::builder().header("connection", "close").body(full(text)).expect("a response"));
    }
    Ok(Response::builder().header("x-from", name).header("keep-alive", "timeout=5").body(full(text)).expect("a response"))
}

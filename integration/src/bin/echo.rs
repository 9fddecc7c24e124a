//! A server that tells what reached it: HTTP/1.1 and HTTP/2 on `--http`, bytes sent back on `--tcp`, a greeting first on `--greet`.
//!
//! Requests with a header `x-key` are counted by its value. The first `x-fail-first` of them do not go well: they are answered with
//! the status `x-fail-with`, or, where that is `reset`, by the end of the connection, or, where it is `slow`, after five seconds, or, where it is
//! `grpc-14` or the like, as a call that ends with that status in the head. Those with a header `x-fail-at` are answered with 500 by the version
//! that it names. `/healthz` is answered with 200 until somebody asks for `/healthz/fail`, then with 503 until somebody asks for `/healthz/pass`.
//! A request with a header `x-give-back` is given back its body and its trailers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut options = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        options.insert(name, arguments.next().context("every option has a value")?);
    }
    let version = options.get("--version").cloned().unwrap_or_default();
    let port = |name: &str| options.get(name).map(|port| port.parse::<u16>()).transpose();
    let mut servers = tokio::task::JoinSet::new();
    if let Some(port) = port("--http")? {
        servers.spawn(serve(listen(port).await?, move |stream, peer| http(stream, peer, version.clone())));
    }
    if let Some(port) = port("--tcp")? {
        servers.spawn(serve(listen(port).await?, |stream, _| echo(stream)));
    }
    if let Some(port) = port("--greet")? {
        servers.spawn(serve(listen(port).await?, greet));
    }
    while servers.join_next().await.is_some() {}
    Ok(())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("listening on {port}"))
}

async fn serve<F: Future<Output = ()> + Send + 'static>(listener: TcpListener, handle: impl Fn(TcpStream, SocketAddr) -> F) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(handle(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Sends everything back, and ends its side when the other has.
async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    // A client that goes away ends it.
    let _gone = tokio::io::copy(&mut read, &mut write).await;
    let _gone = write.shutdown().await;
}

/// Speaks first, then waits for the other side's end: what a database does.
async fn greet(mut stream: TcpStream, peer: SocketAddr) {
    let _gone = stream.write_all(format!("hello {}\n", peer.ip()).as_bytes()).await;
    echo(stream).await;
}

async fn http(stream: TcpStream, peer: SocketAddr, version: String) {
    let service = hyper::service::service_fn(move |request| answer(request, peer, version.clone()));
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // A client that breaks off is not the server's concern.
    let _end = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// How many requests there were with each key, and what the last of them was.
static SEEN: Mutex<BTreeMap<String, (u32, String)>> = Mutex::new(BTreeMap::new());

/// The program is to say that it is not well.
static ILL: AtomicBool = AtomicBool::new(false);

/// Counts a request with a key, and says what the one before it was.
fn count(key: Option<&String>, request: String) -> (u32, String) {
    let Some(key) = key else { return Default::default() };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, last) = seen.entry(key.clone()).or_default();
    *count += 1;
    (*count, std::mem::replace(last, request))
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What connections are upgraded to: in all of them each byte goes back.
const UPGRADES: [&str; 2] = ["websocket", "Parrot/1.0"];

/// What an answer says, with these trailers if there are any.
fn says(text: Bytes, trailers: Option<HeaderMap>) -> Body {
    match trailers {
        Some(trailers) => Full::new(text).with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync(),
        None => Full::new(text).boxed_unsync(),
    }
}

async fn answer(mut request: Request<Incoming>, peer: SocketAddr, version: String) -> io::Result<Response<Body>> {
    if let Some(protocol) =
        request.headers().get("upgrade").filter(|protocol| UPGRADES.iter().any(|known| protocol == known)).cloned()
    {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let _gone = tokio::io::copy(&mut read, &mut write).await;
                let _gone = write.shutdown().await;
            }
        });
        return Ok(switching_protocols(protocol));
    }
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let (head, body) = request.into_parts();
    let received = body.collect().await.ok();
    let trailers = received.as_ref().and_then(|received| received.trailers().cloned());
    let received = received.map(|received| received.to_bytes()).unwrap_or_default();
    if headers.contains_key("x-give-back") {
        return Ok(Response::new(says(received, trailers)));
    }
    let body = received.len();
    let mut status = headers.get("x-answer-with").and_then(|status| status.parse().ok()).unwrap_or(StatusCode::OK);
    if headers.get("x-fail-at") == Some(&version) {
        status = StatusCode::INTERNAL_SERVER_ERROR;
    }
    match head.uri.path() {
        "/healthz" if ILL.load(Ordering::SeqCst) => status = StatusCode::SERVICE_UNAVAILABLE,
        "/healthz/fail" => ILL.store(true, Ordering::SeqCst),
        "/healthz/pass" => ILL.store(false, Ordering::SeqCst),
        _ => {}
    }
    let path = head.uri.path_and_query().map(ToString::to_string);
    let host = headers.get("host").map(String::as_str).or(head.uri.host()).unwrap_or_default();
    let shown = format!("{} {} {host} {body}", head.method, path.as_deref().unwrap_or_default());
    let (count, previous) = count(headers.get("x-key"), shown);
    if headers.get("x-fail-first").and_then(|first| first.parse().ok()).is_some_and(|first: u32| count <= first) {
        let with = headers.get("x-fail-with").map(String::as_str);
        if let Some(status) = with.and_then(|with| with.strip_prefix("grpc-")) {
            return Ok(ended_call(status));
        }
        match with {
            Some("reset") => return Err(io::Error::other("as the request wants")),
            Some("slow") => tokio::time::sleep(Duration::from_secs(5)).await,
            other => status = other.and_then(|status| status.parse().ok()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    let text = json!({
        "version": version,
        "method": head.method.as_str(),
        "path": path,
        "headers": headers,
        "peer": peer,
        "body": body,
        "count": count,
        "previous": previous,
        "protocol": format!("{:?}", head.version),
    });
    let mut response = Response::new(says(Bytes::from(text.to_string()), None));
    *response.status_mut() = status;
    response.headers_mut().insert("x-served-by", http::HeaderValue::from_static("echo"));
    Ok(response)
}

/// An answer to a call that is its status alone.
fn ended_call(status: &str) -> Response<Body> {
    let status = http::HeaderValue::from_str(status).unwrap_or(http::HeaderValue::from_static("2"));
    let mut response = Response::new(says(Bytes::new(), None));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", status);
    response
}

fn switching_protocols(protocol: http::HeaderValue) -> Response<Body> {
    let mut response = Response::new(says(Bytes::new(), None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", protocol);
    response
}

//! An HTTP client whose connections start in a pod, as the pod's own program's would.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use ambit_testbed::Pod;
use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the echo program says of the request that reached it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Echo {
    /// Its `--version`.
    pub version: String,
    /// Method of the request.
    pub method: String,
    /// Path and query of the request.
    pub path: String,
    /// Headers of the request; the values of a repeated one are joined by commas.
    pub headers: BTreeMap<String, String>,
    /// The address that the connection came from.
    pub peer: SocketAddr,
    /// Bytes in the body of the request.
    pub body: usize,
    /// How many requests with the same header `x-key` reached the program so far, this one included.
    #[serde(default)]
    pub count: u32,
    /// Method, path, host and length of the one before this.
    #[serde(default)]
    pub previous: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: HeaderMap,
}

impl Answer {
    /// What the echo program said.
    ///
    /// # Errors
    /// When somebody else answered.
    pub fn echo(&self) -> anyhow::Result<Echo> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!("{} {:?} is no answer of the echo program", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// A header of the answer as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Opens connections from one pod to one address.
#[derive(Clone)]
pub struct Client {
    pod: Pod,
    to: SocketAddr,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} calling {}", self.pod.ip(), self.to)
    }
}

/// A request to `path`, to be refined.
#[must_use]
pub fn get(path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("host", "echo")
}

impl Client {
    /// A client in `pod` that calls `to`.
    #[must_use]
    pub fn new(pod: Pod, to: SocketAddr) -> Self {
        Self { pod, to }
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect(&self) -> anyhow::Result<tokio::net::TcpStream> {
        tokio::time::timeout(PATIENCE, self.pod.connect(self.to)).await?.with_context(|| format!("connecting to {}", self.to))
    }

    /// Sends one request over HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// When the connection is refused or lost.
    pub async fn send(&self, request: http::request::Builder) -> anyhow::Result<Answer> {
        self.send_with_body(request, Bytes::new()).await
    }

    /// The same with a body.
    ///
    /// # Errors
    /// When the connection is refused or lost.
    pub async fn send_with_body(&self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        self.session().await?.send(request, body).await
    }

    /// Sends a GET over HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// When the connection is refused or lost.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(get(path)).await
    }

    /// A connection for several requests over HTTP/1.1.
    ///
    /// # Errors
    /// When the connection is refused.
    pub async fn session(&self) -> anyhow::Result<Session> {
        let stream = self.connect().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        Ok(Session { sender: Sender::Http1(sender), _connection: spawn(connection.with_upgrades()) })
    }

    /// A connection for several requests over HTTP/2 without TLS.
    ///
    /// # Errors
    /// When the connection is refused.
    pub async fn session_h2(&self) -> anyhow::Result<Session> {
        let stream = self.connect().await?;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        Ok(Session { sender: Sender::Http2(sender), _connection: spawn(connection) })
    }
}

fn spawn(connection: impl Future + Send + 'static) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        // What becomes of a connection shows in the answers to its requests.
        let _end = connection.await;
    }))
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Debug)]
enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    sender: Sender,
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

impl Session {
    /// Sends one request and reads its whole answer.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn send(&mut self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        self.exchange(request, Full::new(body).boxed_unsync()).await
    }

    /// The same with trailers at the end of the request.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn send_with_trailers(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
        trailers: HeaderMap,
    ) -> anyhow::Result<Answer> {
        let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
        self.exchange(request, body.boxed_unsync()).await
    }

    async fn exchange(&mut self, request: http::request::Builder, body: Body) -> anyhow::Result<Answer> {
        let mut request = request.body(body)?;
        let exchange = async {
            let response = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => {
                    let path = request.uri().to_string();
                    *request.uri_mut() = format!("http://echo{path}").parse()?;
                    request.headers_mut().remove("host");
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
    }

    /// Sends a GET and reads its whole answer.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(get(path), Bytes::new()).await
    }
}

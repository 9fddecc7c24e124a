//! Requests as bytes over HTTP/1.1, so that they can be what no client library sends, or over HTTP/2; and what comes back.

use std::collections::BTreeMap;

use ambit_hbone::TunnelStream;
use anyhow::Context as _;
use http::{Method, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::ID;
use crate::world::{BODY, HTTP2, Request};

/// What concerns one connection of HTTP/1.1, or is said in another way.
const NOT_IN_HTTP2: [&str; 6] = ["host", "connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"];

/// What is said instead of a status where the suite failed, and not a waypoint.
pub const NO_CONNECTION: &str = "no connection";
pub const NO_ANSWER: &str = "no answer";

/// The longest head that is read.
const LONGEST: usize = 256 * 1024;

/// An answer, without its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status; or in words, why there is none.
    pub status: String,
    /// In lower case.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Nothing more can be asked on the connection.
    pub closes: bool,
}

impl Answer {
    /// What came instead of an answer.
    pub fn none(why: &str) -> Self {
        Self { status: why.to_owned(), closes: true, ..Self::default() }
    }

    /// What came instead of an answer, if it was not the waypoint's: no tunnel to it was had, or nothing came for so long that no request here
    /// can take it.
    pub fn failed(&self) -> Option<&str> {
        let by_itself = self.status.starts_with(NO_CONNECTION) || self.status == NO_ANSWER;
        by_itself.then_some(self.status.as_str())
    }

    /// The values of a header, if it is there.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|values| values.join(" | "))
    }
}

/// A way to ask, of either version.
pub enum Channel {
    Http1(Box<Connection>),
    Http2(SendRequest<Full<Bytes>>),
}

impl Channel {
    /// One in this tunnel.
    ///
    /// # Errors
    /// When the connection does not come about.
    pub async fn new(tunnel: TunnelStream, version: &str) -> anyhow::Result<Self> {
        if version != HTTP2 {
            return Ok(Self::Http1(Box::new(Connection::new(tunnel))));
        }
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel)).await?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// Asks under an id; `None` when there is no answer.
    ///
    /// # Errors
    /// When what comes is no HTTP.
    pub async fn ask(&mut self, request: &Request, id: &str) -> anyhow::Result<Option<Answer>> {
        match self {
            Self::Http1(connection) => connection.ask(&request.bytes(id), request.method == "HEAD").await,
            Self::Http2(sender) => {
                let Ok(written) = in_http2(request, id) else { return Ok(Some(Answer::none("cannot be said in HTTP/2"))) };
                let Ok(answer) = sender.send_request(written).await else { return Ok(None) };
                let (head, body) = answer.into_parts();
                let mut answer = Answer { status: head.status.as_str().to_owned(), ..Answer::default() };
                for (name, value) in &head.headers {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    answer.headers.entry(name.as_str().to_owned()).or_default().push(value);
                }
                answer.closes = body.collect().await.is_err();
                Ok(Some(answer))
            }
        }
    }
}

/// RFC 9113, section 8.2.2.
fn may_be_in_http2(name: &str, value: &str) -> bool {
    let name = name.to_lowercase();
    !NOT_IN_HTTP2.contains(&name.as_str()) && (name != "te" || value == "trailers")
}

fn in_http2(request: &Request, id: &str) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let host = request.header("host").unwrap_or_default();
    let uri = Uri::builder().scheme("http").authority(host).path_and_query(request.target.as_str()).build()?;
    let method = Method::from_bytes(request.method.as_bytes())?;
    let mut written = http::Request::builder().method(method).uri(uri).version(Version::HTTP_2).header(ID, id);
    for (name, value) in request.headers.iter().filter(|(name, value)| may_be_in_http2(name, value)) {
        written = written.header(name, value);
    }
    written.body(Full::from(if request.body.is_empty() { "" } else { BODY }))
}

/// A connection, and what was read of it and not yet used.
pub struct Connection {
    stream: TunnelStream,
    unread: Vec<u8>,
}

impl Connection {
    pub fn new(stream: TunnelStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends a request, and reads its answer; `None` when the connection ends before there is one.
    ///
    /// # Errors
    /// When what comes is no HTTP.
    pub async fn ask(&mut self, request: &[u8], without_body: bool) -> anyhow::Result<Option<Answer>> {
        // Who refuses a request may do so before it has all of it.
        let _refused = self.stream.write_all(request).await;
        let _refused = self.stream.flush().await;
        loop {
            let Some(head) = self.head().await? else { return Ok(None) };
            let mut answer = parsed(&head)?;
            if answer.status.starts_with('1') {
                continue;
            }
            let none = without_body || ["204", "304"].contains(&answer.status.as_str());
            if !none && !self.body(&answer).await? {
                answer.closes = true;
            }
            return Ok(Some(answer));
        }
    }

    /// Whether there was more.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(read) if read > 0)
    }

    async fn head(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            anyhow::ensure!(self.unread.len() < LONGEST, "the head of an answer does not end");
            if !self.more().await {
                return Ok(None);
            }
        }
    }

    /// Passes over the body; false when the connection has ended with it.
    async fn body(&mut self, answer: &Answer) -> anyhow::Result<bool> {
        if answer.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            loop {
                let Some(size) = self.line().await else { return Ok(false) };
                let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("a chunk of {size:?} bytes"))?;
                if size > 0 {
                    if !self.pass(size + 2).await {
                        return Ok(false);
                    }
                    continue;
                }
                // Trailers end with an empty line, as does a body without them.
                while self.line().await.is_some_and(|line| !line.is_empty()) {}
                return Ok(true);
            }
        }
        match answer.header("content-length") {
            Some(length) => Ok(self.pass(length.parse().with_context(|| format!("a body of {length} bytes"))?).await),
            None => {
                while self.more().await {
                    self.unread.clear();
                }
                Ok(false)
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn pass(&mut self, count: usize) -> bool {
        while self.unread.len() < count {
            if !self.more().await {
                return false;
            }
        }
        self.unread.drain(..count);
        true
    }
}

fn parsed(head: &str) -> anyhow::Result<Answer> {
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (version, rest) = first.split_once(' ').with_context(|| format!("the answer begins with {first:?}"))?;
    let mut answer = Answer { status: rest.get(..3).unwrap_or(rest).to_owned(), ..Answer::default() };
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("the answer has the line {line:?}"))?;
        answer.headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    let said = answer.header("connection").unwrap_or_default().to_ascii_lowercase();
    answer.closes = said.contains("close") || (version == "HTTP/1.0" && !said.contains("keep-alive"));
    Ok(answer)
}

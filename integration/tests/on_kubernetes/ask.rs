//! Requests from one pod, one after the other, and sessions that take longer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, connect};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::echo;
use crate::http2::Http2;

/// A request that takes longer has failed.
const LATE: Duration = Duration::from_secs(10);

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A request on a connection of its own.
    Request,
    /// A request on a connection that carries several.
    Kept,
    /// The same in HTTP/2, where several do not wait for each other.
    Http2,
    /// A call in HTTP/2 whose messages are answered one by one, of two seconds.
    Stream,
    /// A request whose body takes two seconds to send.
    Upload,
    /// A WebSocket of two seconds.
    WebSocket,
}

impl How {
    /// Whether it takes as long as a session.
    pub fn lasts(self) -> bool {
        matches!(self, Self::Stream | Self::Upload | Self::WebSocket)
    }

    /// How many of them have to have ended within three seconds for load that works.
    pub fn enough(self) -> usize {
        if self.lasts() { 1 } else { 5 }
    }
}

/// A way that requests go.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub namespace: &'static str,
    pub service: &'static str,
    pub port: u16,
    pub path: &'static str,
    pub how: How,
    /// Between two requests.
    pub pause: Duration,
}

/// Five a second from each caller.
const OFTEN: Duration = Duration::from_millis(200);

/// Between two sessions.
const AT_ONCE: Duration = Duration::from_millis(50);

pub const WAYS: [Way; 9] = [
    demo("orders", "shop", "orders", "/orders?user=ann", How::Request),
    demo("orders, kept", "shop", "orders", "/orders?user=ann", How::Kept),
    demo("invoices", "billing", "billing", "/invoices/1", How::Request),
    demo("invoices, kept", "billing", "billing", "/invoices/1", How::Kept),
    // Which asks all the others.
    Way { pause: Duration::from_millis(600), ..demo("purchases", "shop", "web", "/buy?user=ann", How::Request) },
    // Through the waypoint, as invoices.
    echoed("HTTP/2", "/", How::Http2, OFTEN),
    echoed("streams", "/stream", How::Stream, AT_ONCE),
    echoed("uploads", "/whole", How::Upload, AT_ONCE),
    echoed("WebSockets", "/websocket", How::WebSocket, AT_ONCE),
];

/// A way to a program of the demonstration.
const fn demo(name: &'static str, namespace: &'static str, service: &'static str, path: &'static str, how: How) -> Way {
    Way { name, namespace, service, port: 8080, path, how, pause: OFTEN }
}

/// A way to the pod that sends back what it is sent, by HTTP.
const fn echoed(name: &'static str, path: &'static str, how: How, pause: Duration) -> Way {
    Way { name, namespace: "billing", service: "echo", port: echo::PORT, path, how, pause }
}

/// The end of a request.
pub struct Outcome {
    pub asker: usize,
    pub begun: Instant,
    pub at: Instant,
    pub way: Way,
    pub failure: Option<String>,
}

/// What became of all requests.
pub struct Outcomes {
    pub ended: Mutex<Vec<Outcome>>,
    /// How long a connection is kept for further requests.
    pub kept: Mutex<Duration>,
}

/// One pod that asks on one way.
pub struct Asker {
    /// Its number among all.
    pub number: usize,
    pub network: NetNs,
    pub to: Vec<IpAddr>,
    pub way: Way,
    pub outcomes: Arc<Outcomes>,
}

/// A connection for several requests.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    made: Instant,
    _driver: AbortOnDropHandle<()>,
}

/// Connections for further requests.
#[derive(Default)]
struct AtHand {
    http1: Option<Connection>,
    http2: Option<Http2>,
}

impl Asker {
    /// Asks again and again, for ever.
    pub async fn run(&self) {
        let mut at_hand = AtHand::default();
        let late = if self.way.how.lasts() { 2 * LATE } else { LATE };
        for number in 0.. {
            let begun = Instant::now();
            let asked = tokio::time::timeout(late, self.once(&mut at_hand, number)).await;
            let failure = asked.unwrap_or_else(|_| Err(format!("no end within {late:?}"))).err();
            let ended = Outcome { asker: self.number, begun, at: Instant::now(), way: self.way, failure };
            self.outcomes.ended.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
            tokio::time::sleep(self.way.pause).await;
        }
    }

    async fn once(&self, at_hand: &mut AtHand, number: usize) -> Result<(), String> {
        match self.way.how {
            How::Request | How::Kept => self.ask(&mut at_hand.http1, number).await,
            How::Http2 => self.ask_in_http2(&mut at_hand.http2, number).await,
            How::Stream => self.stream(number).await,
            How::Upload => self.upload(number).await,
            How::WebSocket => self.websocket(number).await,
        }
    }

    /// Asks once, on the connection that is kept if it can, and keeps it, or the new one, if it may.
    async fn ask(&self, kept: &mut Option<Connection>, number: usize) -> Result<(), String> {
        let mut connection = match self.at_hand(kept).await {
            Some(connection) => connection,
            None => self.connect(number).await.map_err(|error| format!("connecting: {error}"))?,
        };
        let request = Request::post(self.way.path).header(header::HOST, self.way.service).body(Full::from("x"));
        let request = request.map_err(|error| error.to_string())?;
        let answer = connection.sender.send_request(request).await.map_err(said)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(said)?.to_bytes();
        if !head.status.is_success() {
            let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(format!("{} {:?} {body}", head.status, head.headers.get("x-ambit-reason")));
        }
        if self.way.how == How::Kept && head.headers.get(header::CONNECTION).is_none_or(|value| value != "close") {
            *kept = Some(connection);
        }
        Ok(())
    }

    async fn at_hand(&self, kept: &mut Option<Connection>) -> Option<Connection> {
        let mut connection = kept.take()?;
        let fresh = self.may_go_on(connection.made) && connection.sender.ready().await.is_ok();
        fresh.then_some(connection)
    }

    /// Whether a connection that was made then may carry further requests.
    pub fn may_go_on(&self, made: Instant) -> bool {
        made.elapsed() < *self.outcomes.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, number: usize) -> anyhow::Result<Connection> {
        let (sender, driver) = handshake(TokioIo::new(self.dial(number).await?)).await?;
        let driver = tokio::spawn(async move {
            // Its failure is that of the request under way.
            let _told = driver.await;
        });
        Ok(Connection { sender, made: Instant::now(), _driver: AbortOnDropHandle::new(driver) })
    }

    /// A connection to the service, by one of its addresses after the other.
    pub async fn dial(&self, number: usize) -> std::io::Result<TcpStream> {
        let to = self.to.get(number % self.to.len().max(1)).copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let options = ConnectOptions { netns: Some(&self.network), ..ConnectOptions::default() };
        connect(SocketAddr::new(to, self.way.port), &options).await
    }
}

/// An error with its cause.
pub fn said(error: impl std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

//! HTTP connections to endpoints: HTTP/1.1 ones wait for their next request, HTTP/2 ones are shared.

mod checkout;
mod lease;
mod shared;
mod siblings;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ambit_hbone::Carrier;
use ambit_model::{Reason, Refusal};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

pub use self::lease::Lease;
use self::{
    lease::Leased,
    shared::{Multiplexed, Shares},
    siblings::Siblings,
};
use super::{
    Connected, CountedFrames, Destination, EmptyFrames, Host, LastWords, RequestBody, Stream, UnderWay, broken_by, framed,
};

/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// HTTP/1.1 connections that wait, for each endpoint.
const WAITING: usize = 512;
/// How long a connection may take to be ready again after a response was read.
const SETTLE: Duration = Duration::from_secs(5);

/// An HTTP/1.1 connection.
pub struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    to: Destination,
    /// Of the pool when it was made.
    generation: u64,
    carrier: Option<Carrier>,
    /// Whose place it has. Requests of other clusters with the same endpoint go on it, too.
    owner: Arc<Host>,
}

/// Whether a connection may carry a further request: the proxy at its other end may be about to be replaced, and will cut it then.
fn stays(carrier: Option<&Carrier>) -> bool {
    carrier.is_none_or(Carrier::stays)
}

/// Connections by destination. Cloning shares them.
#[derive(Clone, Default)]
pub struct HttpPool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Connections>,
    tasks: TaskTracker,
    siblings: Siblings,
}

#[derive(Default)]
struct Connections {
    waiting: HashMap<Destination, Vec<(Box<Http1>, Instant)>>,
    multiplexed: HashMap<Destination, Vec<Arc<Multiplexed>>>,
    /// Rises when those made before are to carry no more requests.
    generation: u64,
}

/// A connection to send one request on.
pub struct Checkout {
    connection: Connection,
    /// It was at hand: its other end may be gone already.
    pub at_hand: bool,
    under_way: UnderWay,
}

enum Connection {
    Http1(Box<Http1>),
    Http2(Shares),
}

/// A response, with what it holds.
pub struct Sent {
    /// The response.
    pub response: Response<Incoming>,
    /// What it holds.
    pub lease: Lease,
}

/// A request that got no response.
pub struct Unsent {
    /// Why.
    pub refusal: Refusal,
    /// The request, when not a byte of it was sent.
    pub request: Option<Request<RequestBody>>,
    /// The endpoint said that it has not looked at it (RFC 9113, section 8.7).
    pub refused: bool,
    /// The endpoint has ended it alone, having looked at it for all that is known: its connection stood.
    pub alone: bool,
}

impl HttpPool {
    /// Without connections.
    pub fn new() -> Self {
        Self::default()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_hand(&self, to: &Destination, host: &Arc<Host>, http2: bool) -> Option<Connection> {
        let mut connections = self.connections();
        if http2 {
            let shared = connections.multiplexed.get_mut(to)?;
            shared.retain(|c| c.stays());
            return shared.iter().find(|c| c.has_room()).map(|free| Connection::Http2(free.share(host)));
        }
        let waiting = connections.waiting.get_mut(to)?;
        while let Some((http1, since)) = waiting.pop() {
            if http1.sender.is_ready() && since.elapsed() < IDLE && stays(http1.carrier.as_ref()) {
                return Some(Connection::Http1(http1));
            }
        }
        None
    }

    /// The connection keeps its `place` until it has ended.
    async fn handshake_http1(
        &self,
        to: &Destination,
        stream: Stream,
        generation: u64,
        place: Connected,
    ) -> hyper::Result<Connection> {
        let (carrier, owner) = (stream.carrier(), place.host().clone());
        let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(LastWords::new(stream))).await?;
        self.shared.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an endpoint ended");
            }
            drop(place);
        });
        sender.ready().await?;
        Ok(Connection::Http1(Box::new(Http1 { sender, to: to.clone(), generation, carrier, owner })))
    }

    async fn handshake_http2(
        &self,
        to: &Destination,
        stream: Stream,
        generation: u64,
        place: Connected,
    ) -> hyper::Result<Connection> {
        let (carrier, owner, empty) = (stream.carrier(), place.host().clone(), EmptyFrames::default());
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_send_buf_size(256 << 10)
            .handshake(TokioIo::new(CountedFrames::new(LastWords::new(stream), empty.clone())))
            .await?;
        self.shared.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to an endpoint ended");
            }
            drop(place);
        });
        sender.ready().await?;
        let (connection, place) = Multiplexed::new(sender, carrier, empty, owner);
        let mut connections = self.connections();
        if generation == connections.generation {
            connections.multiplexed.entry(to.clone()).or_default().push(connection);
        }
        drop(connections);
        Ok(Connection::Http2(place))
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// Why there is none, with the request when it can be sent elsewhere.
    pub async fn send(&self, to: &Destination, on: Checkout, request: Request<RequestBody>) -> Result<Sent, Box<Unsent>> {
        let Checkout { connection, under_way, .. } = on;
        let (response, connection) = match connection {
            Connection::Http1(mut http1) => match http1.sender.try_send_request(request).await {
                Ok(response) => match framed::ambiguous(response.headers()) {
                    None => (response, Leased::Http1(self.clone(), http1)),
                    // Its connection is let go with it: nobody knows what would come next.
                    Some(why) => {
                        let refusal = Refusal::new(Reason::UpstreamProtocolError, format!("{}: {why}", to.address));
                        return Err(Box::new(Unsent { refusal, request: None, refused: false, alone: true }));
                    }
                },
                Err(mut error) => return Err(unsent(to, error.take_message(), error.error())),
            },
            Connection::Http2(place) => match place.on.sender.clone().try_send_request(request).await {
                Ok(response) => (response, Leased::Http2(place)),
                Err(mut error) => return Err(unsent(to, error.take_message(), error.error())),
            },
        };
        Ok(Sent { response, lease: Lease { connection, under_way } })
    }

    /// Closes connections that have waited too long. Run it now and then.
    pub fn sweep(&self) {
        let mut connections = self.connections();
        for waiting in connections.waiting.values_mut() {
            waiting.retain(|(http1, since)| http1.sender.is_ready() && since.elapsed() < IDLE && stays(http1.carrier.as_ref()));
        }
        connections.waiting.retain(|_, waiting| !waiting.is_empty());
        for shared in connections.multiplexed.values_mut() {
            shared.retain(|c| c.stays() && !c.is_idle());
        }
        connections.multiplexed.retain(|_, shared| !shared.is_empty());
    }

    /// Has further requests take new connections, because the waypoint's own certificate or the roots are others now. Requests that
    /// are under way go on.
    pub fn retire(&self) {
        let mut connections = self.connections();
        *connections = Connections { generation: connections.generation + 1, ..Connections::default() };
    }

    /// Closes what waits and waits for the rest to end.
    pub async fn close(&self) {
        *self.connections() = Connections::default();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Has the connection wait for its next request, and tells who waits for it: of the cluster that it was made for and of the one whose
    /// request, to `host`, it has carried.
    fn wait(&self, http1: Box<Http1>, host: &Arc<Host>) {
        let mut connections = self.connections();
        if http1.generation < connections.generation || !stays(http1.carrier.as_ref()) {
            return;
        }
        let waiting = match connections.waiting.get_mut(&http1.to) {
            Some(waiting) => waiting,
            None => connections.waiting.entry(http1.to.clone()).or_default(),
        };
        if waiting.len() < WAITING {
            // They find it there when they look, which they cannot before the lock is let go.
            http1.owner.tell(false);
            if !Arc::ptr_eq(&http1.owner, host) {
                host.tell(false);
            }
            waiting.push((http1, Instant::now()));
        }
    }
}

fn unsent(to: &Destination, request: Option<Request<RequestBody>>, error: &hyper::Error) -> Box<Unsent> {
    let reason = broken_by(error);
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    // What is sent again is what is told: both go by the one word.
    let (refused, alone) = (reason == Reason::UpstreamStreamRefused, reason == Reason::UpstreamStreamReset);
    Box::new(Unsent { refusal: Refusal::new(reason, format!("{}: {text}", to.address)), request, refused, alone })
}

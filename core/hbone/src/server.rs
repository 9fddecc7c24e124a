//! The receiving side: one connection, many CONNECTs.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, Sleep},
};

use crate::{
    Authority, AuthorityError, OnRefused, Refused, ServeError, Settings, Transport, TunnelStream,
    driver::{Driver, Ended, Times, after},
    frame::code,
    mux::{Failure, Request, Role},
};

/// How a connection is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// HTTP/2 settings.
    pub settings: Settings,
    /// Tunnels in one connection (200).
    pub max_streams: u32,
    /// How long the peer may take until its HTTP/2 preface is complete (10 s).
    pub preface_timeout: Duration,
    /// A connection without tunnels is closed after this (15 min; clients of the mesh close earlier).
    pub idle_timeout: Duration,
    /// How long tunnels may go on once the server drains (30 s).
    pub drain_deadline: Duration,
    /// Who is told of requests that are refused without a handler, and of streams that break the protocol.
    pub on_refused: Option<OnRefused>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            max_streams: 200,
            preface_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(15),
            drain_deadline: Duration::from_secs(30),
            on_refused: None,
        }
    }
}

/// A CONNECT that waits for its answer. Dropping it resets the request.
pub struct Incoming {
    authority: Result<Authority, AuthorityError>,
    headers: HeaderMap,
    tunnel: TunnelStream,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("authority", &self.authority).field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Where the tunnel shall lead; an error is to be answered with 400.
    ///
    /// # Errors
    /// When the request has no authority or one that is not an address or host name with a port.
    pub fn authority(&self) -> Result<&Authority, &AuthorityError> {
        self.authority.as_ref()
    }

    /// The headers of the request.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Bytes that the client has sent before its answer. They are read from the tunnel once it is accepted.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.tunnel.unread()
    }

    /// Completes when the client gives up before its answer.
    pub async fn abandoned(&mut self) {
        let _reset = poll_fn(|cx| self.tunnel.poll_reset(cx)).await;
    }

    /// Answers 200 with `headers`: call it once the upstream connection stands.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn accept(mut self, headers: HeaderMap) -> io::Result<TunnelStream> {
        self.tunnel.respond(StatusCode::OK, &headers, false)?;
        Ok(self.tunnel)
    }

    /// Answers with `status` and `headers`, and no tunnel.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn refuse(mut self, status: StatusCode, headers: HeaderMap) -> io::Result<()> {
        self.tunnel.respond(status, &headers, true)
    }
}

/// Serves the HTTP/2 connection `io` (TLS done): each CONNECT goes to `handler`, in a task of its own that belongs to this call.
/// Other methods are answered with 400. When `drain` completes, the client is told to open no more tunnels, and those that are open
/// have `drain_deadline` to finish. Returns how many requests there were, when the connection has ended and so have its handlers.
///
/// # Errors
/// When the peer does not speak HTTP/2, breaks the protocol, falls silent, or the transport fails.
pub async fn serve<T, D, H, F>(io: T, config: &ServerConfig, drain: D, handler: H) -> Result<u64, ServeError>
where
    T: Transport,
    D: Future<Output = ()>,
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let times = Times {
        ping_interval: config.settings.ping_interval,
        ping_timeout: config.settings.ping_timeout,
        header: config.settings.header_timeout,
        preface: Some(config.preface_timeout),
        idle: None,
    };
    let mut drain = pin!(drain);
    let mut server = Server {
        driver: Driver::new(io, Role::Server { most: config.max_streams }, &config.settings, times),
        handlers: JoinSet::new(),
        requests: 0,
        idle_since: Instant::now(),
        home: Handle::current(),
        timer: Box::pin(tokio::time::sleep(config.idle_timeout)),
        drained: false,
        config,
        handler: &handler,
    };
    let ended = poll_fn(|cx| server.poll(cx, drain.as_mut())).await;
    // The connection is gone, so that every tunnel of it fails or has ended: handlers come to their end by themselves.
    settle(&mut server.handlers, config.drain_deadline.max(PATIENCE)).await;
    match ended {
        Ok(()) => Ok(server.requests),
        Err(failure) => Err(told(failure, server.driver.has_begun())),
    }
}

/// One connection and the handlers of its requests.
struct Server<'a, T: Transport, H> {
    driver: Driver<T>,
    handlers: JoinSet<()>,
    requests: u64,
    idle_since: Instant,
    /// Where handlers run, wherever the connection goes.
    home: Handle,
    /// For the end of idleness, or of the drain.
    timer: Pin<Box<Sleep>>,
    drained: bool,
    config: &'a ServerConfig,
    handler: &'a H,
}

impl<T, H, F> Server<'_, T, H>
where
    T: Transport,
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    fn poll<D: Future<Output = ()>>(&mut self, cx: &mut Context<'_>, drain: Pin<&mut D>) -> Poll<Ended> {
        let ended = self.driver.poll(cx);
        while let Some(request) = self.next() {
            self.requests += 1;
            self.handle(request);
        }
        while let Poll::Ready(Some(result)) = self.handlers.poll_join_next(cx) {
            finished(result);
            self.idle_since = Instant::now();
        }
        if ended.is_ready() {
            return ended;
        }
        if !self.drained && drain.poll(cx).is_ready() {
            self.drained = true;
            self.driver.shut();
            self.timer.as_mut().reset(after(Instant::now(), self.config.drain_deadline));
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.look();
        }
        Poll::Pending
    }

    /// The next request. Tells of what was refused meanwhile.
    fn next(&self) -> Option<Request> {
        let (request, refused) = {
            let mut mux = self.driver.link().lock();
            (mux.take_request(), mux.take_refused())
        };
        if let (Some(mut refused), Some(on_refused)) = (refused, &self.config.on_refused) {
            refused.take().for_each(|(refused, count)| on_refused.tell(refused, count));
        }
        request
    }

    /// Hands a request to its handler.
    fn handle(&mut self, request: Request) {
        let tunnel = TunnelStream::new(Arc::clone(self.driver.link()), request.stream);
        // Streams that a client opens and resets at once no longer count as streams, but their handlers may still run.
        if self.handlers.len() >= 2 * usize::try_from(self.config.max_streams).unwrap_or(usize::MAX / 2) {
            self.driver.link().lock().note_refused(Refused::TooMany);
            return tunnel.decline();
        }
        let authority = request.authority.map_or(Err(AuthorityError::Missing), |authority| authority.parse());
        let handled = (self.handler)(Incoming { authority, headers: request.headers, tunnel });
        self.handlers.spawn_on(handled, &self.home);
    }

    /// The time is up: for the drain, or for a connection that nobody uses.
    fn look(&mut self) {
        let now = Instant::now();
        let limit = self.config.idle_timeout;
        if self.drained || (self.handlers.is_empty() && after(self.idle_since, limit) <= now) {
            self.handlers.abort_all();
            self.driver.cut();
            self.timer.as_mut().reset(now + PATIENCE);
        } else {
            let idle_since = if self.handlers.is_empty() { self.idle_since } else { now };
            self.timer.as_mut().reset(after(idle_since, limit));
        }
    }
}

/// Why serving ended, in the words of the API.
fn told(failure: Failure, begun: bool) -> ServeError {
    match failure {
        Failure::Lost(error) => ServeError::Lost(error),
        Failure::Silent(text) => ServeError::Silent(text),
        Failure::Protocol { code, why } => {
            let text = format!("{why} ({})", code::name(code));
            if begun { ServeError::Protocol(text) } else { ServeError::NotHttp2(text) }
        }
        failure => ServeError::Lost(Arc::new(failure.to_io())),
    }
}

/// How long handlers may take to end by themselves once their connection is gone, at least. Those whose tunnel ended in order may still
/// pass on what they have received.
const PATIENCE: Duration = Duration::from_secs(5);

async fn settle(handlers: &mut JoinSet<()>, patience: Duration) {
    let all = async {
        while let Some(result) = handlers.join_next().await {
            finished(result);
        }
    };
    if tokio::time::timeout(patience, all).await.is_err() {
        handlers.shutdown().await;
    }
}

fn finished(result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result
        && !error.is_cancelled()
    {
        tracing::error!(%error, "a tunnel's handler failed");
    }
}

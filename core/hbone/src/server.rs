//! The receiving side: one connection, many CONNECTs.

use std::{fmt, future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Authority, AuthorityError, ServeError, Settings, TunnelStream,
    error::stream_error,
    keepalive,
    settings::{RESETS_REMEMBERED, SMALL_FRAME_BUDGET},
    tap::{Cause, Tapped},
    window::Withheld,
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
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            max_streams: 200,
            preface_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(15),
            drain_deadline: Duration::from_secs(30),
        }
    }
}

/// A CONNECT that waits for its answer. Dropping it resets the request.
pub struct Incoming {
    authority: Result<Authority, AuthorityError>,
    headers: HeaderMap,
    respond: SendResponse<Bytes>,
    body: RecvStream,
    withheld: Arc<Withheld>,
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

    /// Completes when the client gives up before its answer.
    pub async fn abandoned(&mut self) {
        let _reset = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Answers 200 with `headers`: call it once the upstream connection stands.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn accept(mut self, headers: HeaderMap) -> io::Result<TunnelStream> {
        let send = self.respond.send_response(answer(StatusCode::OK, headers), false).map_err(|e| stream_error(&e))?;
        Ok(TunnelStream::new(send, self.body, self.withheld, None))
    }

    /// Answers with `status` and `headers`, and no tunnel.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn refuse(mut self, status: StatusCode, headers: HeaderMap) -> io::Result<()> {
        self.respond.send_response(answer(status, headers), true).map(drop).map_err(|e| stream_error(&e))
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
    T: AsyncRead + AsyncWrite + Unpin + Send,
    D: Future<Output = ()>,
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (io, cause) = Tapped::new(io);
    let handshake = builder(config).handshake::<_, Bytes>(io);
    let mut connection = tokio::time::timeout(config.preface_timeout, handshake)
        .await
        .map_err(|_| ServeError::Silent("no HTTP/2 preface in time"))?
        .map_err(|e| ended(&e, &cause, ServeError::NotHttp2))?;
    let pings = connection.ping_pong();
    let mut silence = pin!(keepalive::until_silent(pings, config.settings.ping_interval, config.settings.ping_timeout));
    let mut drain = pin!(drain);
    let mut cut_at = None;
    let mut idle_since = Instant::now();
    let mut handlers = JoinSet::new();
    let mut requests = 0;
    let withheld = Arc::new(Withheld::default());
    let outcome = loop {
        let until = cut_at.unwrap_or(idle_since + config.idle_timeout);
        tokio::select! {
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => {
                    requests += 1;
                    if let Some(incoming) = admit(request, respond, handlers.len(), config, &withheld) {
                        handlers.spawn(handler(incoming));
                    }
                }
                Some(Err(error)) => break Err(ended(&error, &cause, ServeError::Protocol)),
                None => break Ok(()),
            },
            Some(result) = handlers.join_next() => {
                finished(result);
                idle_since = Instant::now();
            }
            () = withheld.changed() => {
                connection.set_target_window_size(withheld.widened(config.settings.connection_window));
            }
            () = &mut drain, if cut_at.is_none() => {
                connection.graceful_shutdown();
                cut_at = Some(Instant::now() + config.drain_deadline);
            }
            () = tokio::time::sleep_until(until), if cut_at.is_some() || handlers.is_empty() => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                break flush(connection, &mut handlers).await;
            }
            () = &mut silence => break Err(ServeError::Silent("no answer to a ping")),
        }
    };
    // The connection is gone, so that every tunnel of it fails or has ended: handlers come to their end by themselves.
    settle(&mut handlers).await;
    outcome.map(|()| requests)
}

fn builder(config: &ServerConfig) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(config.settings.stream_window)
        .initial_connection_window_size(config.settings.connection_window)
        .max_frame_size(config.settings.max_frame_size)
        .max_header_list_size(config.settings.max_header_bytes)
        .max_send_buffer_size(config.settings.send_buffer)
        .max_concurrent_streams(config.max_streams)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        // Clients that give up many requests at once are in a hurry, not hostile; the handlers are limited below.
        .max_pending_accept_reset_streams(config.max_streams as usize)
        // A count over the connection's life: resets that cross bytes under way would end every shared connection some day.
        .max_local_error_reset_streams(None);
    builder
}

/// Makes a request ready for its handler, or answers it at once.
fn admit(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    running: usize,
    config: &ServerConfig,
    withheld: &Arc<Withheld>,
) -> Option<Incoming> {
    // Streams that a client opens and resets at once no longer count as streams, but their handlers may still run.
    if running >= 2 * config.max_streams as usize {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    let (head, body) = request.into_parts();
    if head.method != Method::CONNECT {
        tracing::info!(method = %head.method, "request refused: not CONNECT");
        // The client may be gone already; then nobody misses the answer.
        let _gone = respond.send_response(answer(StatusCode::BAD_REQUEST, HeaderMap::new()), true);
        return None;
    }
    let authority = head.uri.authority().map_or(Err(AuthorityError::Missing), |a| a.as_str().parse());
    Some(Incoming { authority, headers: head.headers, respond, body, withheld: Arc::clone(withheld) })
}

fn answer(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn ended(error: &h2::Error, cause: &Cause, protocol: fn(String) -> ServeError) -> ServeError {
    match cause.get() {
        Some(cause) => ServeError::Lost(cause),
        None => match error.get_io() {
            Some(io) => ServeError::Lost(Arc::new(io::Error::new(io.kind(), io.to_string()))),
            None => protocol(error.to_string()),
        },
    }
}

/// Writes out what is left after the connection was told to end, handlers included.
async fn flush<T>(mut connection: h2::server::Connection<T, Bytes>, handlers: &mut JoinSet<()>) -> Result<(), ServeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    handlers.abort_all();
    let closing = poll_fn(|cx| connection.poll_closed(cx));
    // Whatever comes of it, the connection is given up.
    let _closed = tokio::time::timeout(Duration::from_secs(1), closing).await;
    Ok(())
}

async fn settle(handlers: &mut JoinSet<()>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let all = async {
        while let Some(result) = handlers.join_next().await {
            finished(result);
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
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

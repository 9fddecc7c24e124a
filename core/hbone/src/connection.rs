//! One connection of the client: its places for tunnels, and the task that drives it.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Method, Request, Uri, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{
    ConnectError, ConnectRequest, Settings, TunnelStream, keepalive,
    settings::{RESETS_REMEMBERED, SMALL_FRAME_BUDGET},
    tap::{Cause, Tapped},
    window::Withheld,
};

/// How long a tunnel that was closed here may take until the peer has ended it too, and how many bytes it may still bring. After that
/// it is reset, which tells the peer to stop.
const PARTING: Duration = Duration::from_secs(30);
const PARTING_BYTES: usize = 256 << 10;

/// A connection that carries tunnels.
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    parting: mpsc::UnboundedSender<Parting>,
    withheld: Arc<Withheld>,
    places: Mutex<Places>,
    cause: Cause,
    pub(crate) made: Instant,
}

struct Places {
    taken: usize,
    open: bool,
    idle_since: Instant,
}

/// A place for one tunnel in a connection; given back when dropped.
pub(crate) struct Slot {
    connection: Arc<Connection>,
}

/// A tunnel that its user has closed and the peer has not ended yet.
struct Parting {
    recv: RecvStream,
    _slot: Slot,
}

/// A tunnel that was not opened.
pub(crate) struct Unopened {
    pub(crate) error: ConnectError,
    /// Whether the same request may be sent on another connection: the peer did not act on this one, or the connection was already
    /// gone. A CONNECT carries no bytes of the client before its answer, so at worst an upstream connection was opened and closed.
    pub(crate) again: bool,
}

impl Connection {
    /// Speaks first over `io`, and returns the connection with the future that drives it.
    pub(crate) async fn start<T>(
        io: T,
        settings: &Settings,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<T>), ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, cause) = Tapped::new(io);
        let handshake = h2::client::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame_size)
            .max_header_list_size(settings.max_header_bytes)
            .max_send_buffer_size(settings.send_buffer)
            .enable_push(false)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            // A count over the connection's life: resets that cross bytes under way would end every shared connection some day.
            .max_local_error_reset_streams(None)
            .handshake(io)
            .await;
        let (sender, mut driver) = handshake.map_err(|e| ConnectError::Lost(cause.or(|| io::Error::other(e.to_string()))))?;
        let now = Instant::now();
        let places = Mutex::new(Places { taken: 0, open: true, idle_since: now });
        let (parting, partings) = mpsc::unbounded_channel();
        let this = Arc::new(Self { sender, parting, withheld: Arc::default(), places, cause, made: now });
        let watched = Arc::downgrade(&this);
        let silence = keepalive::until_silent(driver.ping_pong(), settings.ping_interval, settings.ping_timeout);
        let blamed = this.cause.clone();
        let silence = async move {
            silence.await;
            // Before the connection is dropped, so that its tunnels are told this and not what follows from it.
            blamed.set(io::Error::new(io::ErrorKind::TimedOut, "the peer answers no ping"));
        };
        let (withheld, window) = (Arc::clone(&this.withheld), settings.connection_window);
        let driven = async move {
            loop {
                tokio::select! {
                    ended = &mut driver => return ended,
                    () = withheld.changed() => driver.set_target_window_size(withheld.widened(window)),
                }
            }
        };
        let drive = async move {
            tokio::select! {
                ended = driven => if let Err(error) = ended {
                    tracing::debug!(%error, "tunnel connection ended");
                },
                () = silence => tracing::info!("tunnel connection dropped: the peer answers no ping"),
                () = see_off(partings) => {}
            }
            if let Some(connection) = watched.upgrade() {
                connection.close();
            }
        };
        Ok((this, drive))
    }

    /// Takes a place unless the connection is full (of `limit`, or of what the peer allows) or closed.
    pub(crate) fn take(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let mut places = self.places();
        // A peer that allows none for now lets the first request wait for its leave.
        let most = limit.min(self.sender.current_max_send_streams()).max(1);
        if !places.open || places.taken >= most {
            return None;
        }
        places.taken += 1;
        drop(places);
        Some(Slot { connection: Arc::clone(self) })
    }

    /// No further tunnels here; those that are open go on.
    pub(crate) fn close(&self) {
        self.places().open = false;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.places().open
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.places().taken
    }

    /// Closes the connection if it has had no tunnel for `limit`; says whether it is closed.
    pub(crate) fn close_if_idle(&self, limit: Duration) -> bool {
        let mut places = self.places();
        if places.taken == 0 && places.idle_since.elapsed() >= limit {
            places.open = false;
        }
        !places.open
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut places = self.connection.places();
        places.taken = places.taken.saturating_sub(1);
        if places.taken == 0 {
            places.idle_since = Instant::now();
        }
    }
}

/// Reads to their end what peers still send in tunnels that were closed here. Each holds a place, so that they are few.
async fn see_off(mut partings: mpsc::UnboundedReceiver<Parting>) {
    let mut leaving = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(parting) = partings.recv() => leaving.push(tokio::time::timeout(PARTING, parting.end())),
            Some(_) = leaving.next() => {}
            // Nobody can send any more, and nothing is left: what remains of the connection ends by itself.
            else => std::future::pending().await,
        }
    }
}

impl Parting {
    async fn end(mut self) {
        let mut seen = 0;
        while let Some(Ok(chunk)) = self.recv.data().await {
            seen += chunk.len();
            if seen > PARTING_BYTES || self.recv.flow_control().release_capacity(chunk.len()).is_err() {
                return;
            }
        }
    }
}

impl Slot {
    /// Takes over a tunnel that its user has closed, until the peer has ended it too.
    pub(crate) fn part(self, recv: RecvStream) {
        let parting = self.connection.parting.clone();
        // When the connection has ended there is nothing to wait for.
        let _ended = parting.send(Parting { recv, _slot: self });
    }

    /// Sends the CONNECT and waits for its answer, at most `limit`.
    pub(crate) async fn open(self, request: &ConnectRequest, limit: Duration) -> Result<(TunnelStream, HeaderMap), Unopened> {
        let message = message(request)?;
        let mut sender = self.connection.sender.clone();
        let exchange = async {
            poll_fn(|cx| sender.poll_ready(cx)).await?;
            let (response, send) = sender.send_request(message, false)?;
            Ok::<_, h2::Error>((response.await?, send))
        };
        let (response, send) = match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(_) => return Err(Unopened { error: ConnectError::TimedOut(limit), again: false }),
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let error = ConnectError::Refused { status: head.status, headers: Box::new(head.headers) };
            return Err(Unopened { error, again: false });
        }
        Ok((TunnelStream::new(send, body, Arc::clone(&self.connection.withheld), Some(self)), head.headers))
    }

    fn failed(&self, error: &h2::Error) -> Unopened {
        let gone = error.is_go_away() || error.is_io();
        if gone {
            self.connection.close();
        }
        if error.is_io() || self.connection.cause.get().is_some() {
            let cause = self.connection.cause.or(|| io::Error::new(io::ErrorKind::BrokenPipe, error.to_string()));
            return Unopened { error: ConnectError::Lost(cause), again: true };
        }
        // RFC 9113, sections 6.8 and 8.7: a GOAWAY names the last stream that was processed, and ours fails with it only when it is a
        // later one; REFUSED_STREAM is sent only for streams that were not processed.
        let reason = error.reason();
        let untouched = error.is_remote()
            && ((error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                || (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)));
        Unopened { error: ConnectError::Reset(error.to_string()), again: untouched }
    }
}

fn message(request: &ConnectRequest) -> Result<Request<()>, Unopened> {
    let invalid = |e: http::Error| Unopened { error: ConnectError::Invalid(e.to_string()), again: false };
    let target = Uri::builder().authority(request.authority.to_string()).build().map_err(invalid)?;
    let mut message =
        Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(target).body(()).map_err(invalid)?;
    *message.headers_mut() = request.headers.clone();
    Ok(message)
}

//! The byte pump: joins a tunnel with a TCP connection, or any two sides, and counts while it goes.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use crate::TunnelStream;

/// Size of the first read from a socket; it grows while reads come back full.
const SMALL_READ: usize = 16 << 10;
/// Size to which reads grow: larger ones were measured to change nothing.
const LARGE_READ: usize = 256 << 10;
/// A rest of a buffer smaller than this is not read into.
const LEAST_READ: usize = 4 << 10;

/// Bytes carried so far. Others may read them while the pump runs.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    /// Bytes carried into the first side (the tunnel).
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes carried out of the first side (the tunnel).
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// How a pump ended.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes carried into the first side (the tunnel).
    pub sent: u64,
    /// Bytes carried out of the first side (the tunnel).
    pub received: u64,
    /// What ended it.
    pub ended_by: EndedBy,
}

/// What ended a pump.
#[derive(Debug)]
pub enum EndedBy {
    /// Both directions came to their end.
    Finished,
    /// The first side (the tunnel) failed; the other was reset.
    First(io::Error),
    /// The second side (the TCP connection) failed; the other was reset.
    Second(io::Error),
}

impl EndedBy {
    /// The failure, if it was one.
    #[must_use]
    pub fn error(&self) -> Option<&io::Error> {
        match self {
            Self::Finished => None,
            Self::First(error) | Self::Second(error) => Some(error),
        }
    }
}

/// One side of a pump.
pub trait Side {
    /// The next bytes, or none at the end.
    ///
    /// # Errors
    /// When this side fails.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// `count` bytes of what [`Side::poll_chunk`] gave have been passed on.
    fn consumed(&mut self, count: usize);

    /// Takes bytes off the front of `chunk`, at least one if ready.
    ///
    /// # Errors
    /// When this side fails.
    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>>;

    /// Tells the peer of this side that no more bytes come.
    ///
    /// # Errors
    /// When this side fails.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when this side has failed, although nothing is read from it now.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Cuts this side so that its peer sees a reset, not an end.
    fn reset(&mut self);
}

impl Side for TunnelStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Self::poll_chunk(self, cx)
    }

    fn consumed(&mut self, count: usize) {
        Self::consumed(self, count);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        Self::poll_send(self, cx, chunk)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.poll_reset(cx)
    }

    fn reset(&mut self) {
        Self::reset(self);
    }
}

/// A TCP connection as a side of a pump. While nothing arrives it holds no buffer.
#[derive(Debug)]
pub struct TcpSide {
    stream: TcpStream,
    buffer: BytesMut,
    read_size: usize,
}

impl From<TcpStream> for TcpSide {
    fn from(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), read_size: SMALL_READ }
    }
}

impl Side for TcpSide {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        ready!(self.stream.poll_read_ready(cx))?;
        if self.buffer.capacity() < LEAST_READ {
            self.buffer = BytesMut::with_capacity(self.read_size);
        }
        let room = self.buffer.capacity();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx) else {
            self.buffer = BytesMut::new();
            return Poll::Pending;
        };
        let count = read?;
        if count == 0 {
            self.buffer = BytesMut::new();
            return Poll::Ready(Ok(None));
        }
        if count == room {
            self.read_size = (self.read_size * 2).min(LARGE_READ);
        } else if count < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(SMALL_READ);
        }
        Poll::Ready(Ok(Some(self.buffer.split().freeze())))
    }

    fn consumed(&mut self, _count: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, chunk))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        chunk.advance(count);
        Poll::Ready(Ok(count))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_shutdown(cx)) {
            // The peer has closed both directions already, which is an end as well.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn poll_failed(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        // The kernel tells of a failure as readiness, and the next read or write meets it.
        Poll::Pending
    }

    fn reset(&mut self) {
        // Fails only on a socket that is gone.
        let _gone = self.stream.set_zero_linger();
    }
}

/// Carries bytes both ways between a tunnel and a TCP connection until both directions have ended or one side fails. The end of one
/// direction is passed on while the other goes on; a failure of one side resets the other. Dropping the future resets both.
pub fn pump(tunnel: TunnelStream, tcp: TcpStream, counters: &Counters) -> impl Future<Output = Outcome> + Send {
    join(tunnel, TcpSide::from(tcp), counters)
}

/// As [`pump`], between any two sides.
pub fn join<A: Side, B: Side>(first: A, second: B, counters: &Counters) -> impl Future<Output = Outcome> + use<'_, A, B> {
    // Made before the future is first polled, so that both are reset even if it never is.
    let mut pair = Pair { first, second, into_first: Direction::default(), into_second: Direction::default() };
    async move {
        let ended_by = poll_fn(|cx| pair.poll(cx, counters)).await;
        Outcome { sent: counters.sent(), received: counters.received(), ended_by }
    }
}

/// Two sides that are reset unless both directions ended well.
struct Pair<A: Side, B: Side> {
    first: A,
    second: B,
    into_first: Direction,
    into_second: Direction,
}

/// Bytes under way in one direction.
#[derive(Default)]
struct Direction {
    chunk: Bytes,
    ended: bool,
    finished: bool,
}

/// Which end of a direction failed.
enum Failed {
    Source(io::Error),
    Sink(io::Error),
}

impl<A: Side, B: Side> Pair<A, B> {
    fn poll(&mut self, cx: &mut Context<'_>, counters: &Counters) -> Poll<EndedBy> {
        let into_first = match self.into_first.poll(cx, &mut self.second, &mut self.first, &counters.sent) {
            Poll::Ready(Err(Failed::Source(error))) => return Poll::Ready(EndedBy::Second(error)),
            Poll::Ready(Err(Failed::Sink(error))) => return Poll::Ready(EndedBy::First(error)),
            polled => polled.is_ready(),
        };
        let into_second = match self.into_second.poll(cx, &mut self.first, &mut self.second, &counters.received) {
            Poll::Ready(Err(Failed::Source(error))) => return Poll::Ready(EndedBy::First(error)),
            Poll::Ready(Err(Failed::Sink(error))) => return Poll::Ready(EndedBy::Second(error)),
            polled => polled.is_ready(),
        };
        if into_first && into_second {
            return Poll::Ready(EndedBy::Finished);
        }
        // A side that is not read from at the moment would not tell of its failure.
        if self.into_second.source_unread()
            && let Poll::Ready(error) = self.first.poll_failed(cx)
        {
            return Poll::Ready(EndedBy::First(error));
        }
        if self.into_first.source_unread()
            && let Poll::Ready(error) = self.second.poll_failed(cx)
        {
            return Poll::Ready(EndedBy::Second(error));
        }
        Poll::Pending
    }
}

impl<A: Side, B: Side> Drop for Pair<A, B> {
    fn drop(&mut self) {
        if !(self.into_first.finished && self.into_second.finished) {
            self.first.reset();
            self.second.reset();
        }
    }
}

impl Direction {
    fn source_unread(&self) -> bool {
        self.ended || !self.chunk.is_empty()
    }

    fn poll<S: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
        carried: &AtomicU64,
    ) -> Poll<Result<(), Failed>> {
        while !self.finished {
            if !self.chunk.is_empty() {
                let count = ready!(sink.poll_send(cx, &mut self.chunk)).map_err(Failed::Sink)?;
                source.consumed(count);
                carried.fetch_add(count as u64, Ordering::Relaxed);
            } else if self.ended {
                ready!(sink.poll_finish(cx)).map_err(Failed::Sink)?;
                self.finished = true;
            } else {
                match ready!(source.poll_chunk(cx)).map_err(Failed::Source)? {
                    Some(chunk) => self.chunk = chunk,
                    None => self.ended = true,
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

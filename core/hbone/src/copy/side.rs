//! What a pump needs of each of its sides, and the two kinds of side.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use crate::{TunnelStream, pace};

/// Size of the first read from a socket; it grows while reads come back full.
const SMALL_READ: usize = 16 << 10;
/// Size to which reads grow: larger ones were measured to change nothing.
const LARGE_READ: usize = 256 << 10;
/// A rest of a buffer smaller than this is not read into.
const LEAST_READ: usize = 4 << 10;

/// One side of a pump.
pub trait Side {
    /// The next bytes, or none at the end.
    ///
    /// # Errors
    /// When this side fails.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// Whether the peer of this side stops by itself when nothing is [`Side::consumed`]. Then all that arrives can be taken at once,
    /// so that many small pieces do not pile up below; else only what can be passed on is taken.
    fn reads_ahead(&self) -> bool {
        false
    }

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

    /// Ready when this side has failed or closed as a whole, although its bytes have ended and nothing is written to it now.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Cuts this side so that its peer sees a reset, not an end.
    fn reset(&mut self);
}

impl Side for TunnelStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Self::poll_chunk(self, cx)
    }

    fn reads_ahead(&self) -> bool {
        true
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
    /// A write has met the peer's reset. Reads would take it for an end, as the kernel tells of an error once.
    reset: Option<io::ErrorKind>,
}

impl From<TcpStream> for TcpSide {
    fn from(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), read_size: SMALL_READ, reset: None }
    }
}

impl Side for TcpSide {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(reset) = self.reset {
            return Poll::Ready(Err(reset.into()));
        }
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
        let most = chunk.len().min(pace::turn());
        let turn = chunk.get(..most).unwrap_or_default();
        let count = match ready!(Pin::new(&mut self.stream).poll_write(cx, turn)) {
            Ok(count) => count,
            Err(error) => {
                // Linux says EPIPE for the reset of a peer that had ended its direction before: that was an end.
                self.reset = Some(error.kind()).filter(|kind| *kind != io::ErrorKind::BrokenPipe);
                return Poll::Ready(Err(error));
            }
        };
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

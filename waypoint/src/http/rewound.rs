//! The connection inside a tunnel as the HTTP server reads it: first the bytes that were looked at, then the rest.
//!
//! A client may end its direction once its request is complete and still read the answer. A server that looks for the end of the
//! connection while it works, to notice clients that left, would take that for leaving; so the end is held back while an answer is
//! awaited, and a reset is not.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use ambit_hbone::{TunnelStream, copy::Side};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const IDLE: u8 = 0;
const RECEIVING: u8 = 1;
const WAITING: u8 = 2;

/// Where the exchange on a connection of one request at a time stands.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// A request has begun; its end is here already if `complete`. It is over when the guard is dropped.
    pub fn begin(&self, complete: bool) -> Over {
        self.0.store(if complete { WAITING } else { RECEIVING }, Ordering::Release);
        Over(self.clone())
    }

    /// The request has come to its end. Of no effect when its answer already has.
    pub fn complete(&self) {
        let _over = self.0.compare_exchange(RECEIVING, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    fn waits(&self) -> bool {
        self.0.load(Ordering::Acquire) == WAITING
    }
}

/// Ends an exchange when dropped.
#[derive(Debug)]
pub struct Over(Phase);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.0.store(IDLE, Ordering::Release);
    }
}

/// A connection whose first bytes are read again.
#[derive(Debug)]
pub struct Rewound {
    prefix: Bytes,
    stream: TunnelStream,
    phase: Phase,
}

impl Rewound {
    /// `stream` after `prefix`.
    pub fn new(prefix: Bytes, stream: TunnelStream) -> Self {
        Self { prefix, stream, phase: Phase::default() }
    }

    /// Where the exchange on this connection stands, to be kept up to date by whoever serves it.
    pub fn phase(&self) -> Phase {
        self.phase.clone()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before && buf.remaining() > 0 && self.phase.waits() {
                return self.stream.poll_reset(cx).map(Err);
            }
            return Poll::Ready(Ok(()));
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Side for Rewound {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.prefix))));
        }
        self.stream.poll_chunk(cx)
    }

    fn consumed(&mut self, count: usize) {
        // The bytes put back were acknowledged when they were first read; acknowledging them again only widens the window by as much.
        self.stream.consumed(count);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, chunk)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.finish())
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_reset(cx)
    }

    fn reset(&mut self) {
        self.stream.reset();
    }
}

//! What carries a connection of tunnels: TLS between workloads, or plain bytes.

use std::{
    any::Any,
    fmt, io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use ambit_tls::Presented;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use crate::aside;

/// A connection as the framing sees it. Bytes go out in pieces, each with room around its plaintext in which it is sealed where it lies.
pub trait Transport: Unpin + Send + 'static {
    /// Room before the plaintext of each piece, bytes.
    fn head(&self) -> usize;

    /// Room after the plaintext of each piece, bytes.
    fn tail(&self) -> usize;

    /// The most plaintext in a piece, bytes.
    fn most(&self) -> usize;

    /// The next plaintext, at least one byte; none at the end in order.
    ///
    /// # Errors
    /// When the transport fails, or ends in a way that an attacker could have brought about.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// Called when the batch before is written completely and a new one begins.
    ///
    /// # Errors
    /// When the transport is closed or has failed.
    fn begin(&mut self) -> io::Result<()>;

    /// Seals one piece in place: [`Transport::head`] bytes, the plaintext, [`Transport::tail`] bytes.
    ///
    /// # Errors
    /// When the transport is closed or has failed.
    fn seal(&mut self, piece: &mut [u8]) -> io::Result<()>;

    /// Writes sealed bytes in the order in which they were sealed.
    ///
    /// # Errors
    /// When the transport fails.
    fn poll_write(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> Poll<io::Result<usize>>;

    /// Has the current runtime tell what becomes of the connection, when it was another one before.
    fn move_here(&mut self) {}

    /// The certificates that the peer has proven to be its own, if there are any.
    fn presented(&self) -> Option<&Presented> {
        None
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the transport fails.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for ambit_tls::Stream<T> {
    fn head(&self) -> usize {
        Self::head(self)
    }

    fn tail(&self) -> usize {
        Self::tail(self)
    }

    fn most(&self) -> usize {
        Self::most(self)
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Self::poll_chunk(self, cx)
    }

    fn begin(&mut self) -> io::Result<()> {
        Self::begin(self)
    }

    fn seal(&mut self, piece: &mut [u8]) -> io::Result<()> {
        Self::seal(self, piece)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, sealed)
    }

    fn move_here(&mut self) {
        let io: &mut dyn Any = self.get_mut();
        if let Some(tcp) = io.downcast_mut::<TcpStream>() {
            aside::move_here(tcp);
        }
    }

    fn presented(&self) -> Option<&Presented> {
        Some(Self::presented(self))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(self, cx)
    }
}

/// Size of reads from a plain transport.
const READ: usize = 64 << 10;
/// A rest of the buffer smaller than this is not read into.
const LEAST_READ: usize = 4 << 10;

/// A transport without encryption: for tests, and where something below encrypts already.
pub struct Plain<T> {
    io: T,
    buffer: BytesMut,
}

impl<T: fmt::Debug> fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plain").field(&self.io).finish()
    }
}

impl<T> Plain<T> {
    /// `io` as it is.
    #[must_use]
    pub fn new(io: T) -> Self {
        Self { io, buffer: BytesMut::new() }
    }
}

impl<T> From<T> for Plain<T> {
    fn from(io: T) -> Self {
        Self::new(io)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for Plain<T> {
    fn head(&self) -> usize {
        0
    }

    fn tail(&self) -> usize {
        0
    }

    fn most(&self) -> usize {
        16 << 10
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.buffer.capacity() < LEAST_READ {
            self.buffer = BytesMut::with_capacity(READ);
        }
        let polled = pin!(self.io.read_buf(&mut self.buffer)).poll(cx);
        if !matches!(polled, Poll::Ready(Ok(1..))) {
            // While nothing arrives no buffer is held.
            self.buffer = BytesMut::new();
        }
        let count = ready!(polled)?;
        Poll::Ready(Ok((count > 0).then(|| self.buffer.split().freeze())))
    }

    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn seal(&mut self, _piece: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, sealed)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

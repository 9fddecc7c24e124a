//! Keeps the transport's own error. The framing below passes on only its kind and text, but which TLS alert came is in its type.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first error of a transport.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cause(Arc<OnceLock<Arc<io::Error>>>);

impl Cause {
    pub(crate) fn get(&self) -> Option<Arc<io::Error>> {
        self.0.get().cloned()
    }

    /// The transport's error when there is one, else `other`.
    pub(crate) fn or(&self, other: impl FnOnce() -> io::Error) -> Arc<io::Error> {
        self.get().unwrap_or_else(|| Arc::new(other()))
    }

    /// Only the first error counts; later ones follow from it.
    pub(crate) fn set(&self, error: io::Error) {
        let _first = self.0.set(Arc::new(error));
    }

    fn keep(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        let text = error.to_string();
        self.set(error);
        io::Error::new(kind, text)
    }
}

/// A transport whose first error is kept.
#[derive(Debug)]
pub(crate) struct Tapped<T> {
    io: T,
    cause: Cause,
}

impl<T> Tapped<T> {
    pub(crate) fn new(io: T) -> (Self, Cause) {
        let cause = Cause::default();
        (Self { io, cause: cause.clone() }, cause)
    }

    fn kept<V>(&self, result: io::Result<V>) -> Poll<io::Result<V>> {
        Poll::Ready(result.map_err(|e| self.cause.keep(e)))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tapped<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.kept(result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tapped<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.kept(result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.kept(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.kept(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        self.kept(result)
    }
}

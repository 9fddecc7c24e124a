//! The connection as [`AsyncRead`] and [`AsyncWrite`], for those who can afford the copy.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(mut chunk) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(())) };
        let count = chunk.len().min(buffer.remaining());
        buffer.put_slice(chunk.get(..count).unwrap_or_default());
        chunk.advance(count);
        // Even an empty rest would keep the whole buffer.
        self.rest = if chunk.is_empty() { Bytes::new() } else { chunk };
        Poll::Ready(Ok(()))
    }
}

/// Written bytes are sealed and taken at once, up to 64 KB; what the transport does not take stays until the next write, or a flush.
impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, plaintext: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, &[IoSlice::new(plaintext)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, plaintext: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, plaintext)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_copy(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_shutdown(&mut self, cx)
    }
}

//! What a script can be played over besides a socket: a tunnel, a stream of the other HTTP/2 implementation.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ambit_hbone::TunnelStream;
use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pipe::Pipe;

/// A tunnel, through either of its interfaces.
pub struct Tunnel {
    stream: TunnelStream,
    /// None: bytes are copied in and out.
    chunks: Option<Bytes>,
}

impl Tunnel {
    pub fn new(stream: TunnelStream, by_chunks: bool) -> Self {
        Self { stream, chunks: by_chunks.then(Bytes::new) }
    }
}

impl Pipe for Tunnel {
    const TELLS_ONCE: bool = false;

    fn cut(mut self) {
        // Dropping it means the same.
        if self.chunks.is_some() {
            self.stream.reset();
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, chunks } = &mut *self;
        let Some(unread) = chunks else { return Pin::new(stream).poll_read(cx, buf) };
        if unread.is_empty() {
            *unread = match ready!(stream.poll_chunk(cx))? {
                Some(chunk) => chunk,
                None => return Poll::Ready(Ok(())),
            };
        }
        let part = unread.split_to(unread.len().min(buf.remaining()));
        buf.put_slice(&part);
        stream.consumed(part.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.chunks.is_some() {
            let part = &buf[..buf.len().min(1 << 20)];
            return self.stream.poll_send(cx, &mut Bytes::copy_from_slice(part));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A stream of the `h2` crate.
pub struct H2Stream {
    pub send: SendStream<Bytes>,
    pub recv: RecvStream,
    pub unread: Bytes,
}

impl H2Stream {
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, unread: Bytes::new() }
    }
}

impl Pipe for H2Stream {
    const TELLS_ONCE: bool = false;

    fn cut(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(chunk) => self.unread = chunk.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        self.recv.flow_control().release_capacity(count).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            self.send.reserve_capacity(buf.len());
            let count = self.send.capacity().min(buf.len());
            if count > 0 {
                self.send.send_data(Bytes::copy_from_slice(&buf[..count]), false).map_err(io::Error::other)?;
                return Poll::Ready(Ok(count));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity.map_err(io::Error::other)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

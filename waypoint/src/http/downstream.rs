//! The connection of a client: inside a tunnel, or, where the proxy is the edge of the mesh, its own.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ambit_hbone::{TunnelStream, copy::Side};
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How much is read at once of a connection of a client's own to tell what is spoken in it.
const CHUNK: usize = 4 << 10;

/// A client's connection.
#[derive(Debug)]
pub enum Downstream {
    /// Inside a tunnel.
    Tunnel(TunnelStream),
    /// From outside of the mesh, in clear.
    Clear(TcpStream),
}

impl From<TunnelStream> for Downstream {
    fn from(stream: TunnelStream) -> Self {
        Self::Tunnel(stream)
    }
}

impl From<TcpStream> for Downstream {
    fn from(stream: TcpStream) -> Self {
        Self::Clear(stream)
    }
}

impl Downstream {
    /// Ready when the client, which has ended its direction, does not wait for an answer any more. With a connection of its own it never
    /// does: whoever closes that has left, to Envoy too.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(stream) => stream.poll_reset(cx),
            Self::Clear(_) => Poll::Ready(io::Error::new(io::ErrorKind::ConnectionReset, "the client has left")),
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Side for Downstream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let stream = match self {
            Self::Tunnel(stream) => return stream.poll_chunk(cx),
            Self::Clear(stream) => stream,
        };
        let mut room = [0; CHUNK];
        let mut read = ReadBuf::new(&mut room);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        let read = read.filled();
        Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
    }

    fn consumed(&mut self, count: usize) {
        if let Self::Tunnel(stream) = self {
            stream.consumed(count);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        let stream = match self {
            Self::Tunnel(stream) => return stream.poll_send(cx, chunk),
            Self::Clear(stream) => stream,
        };
        let count = ready!(Pin::new(stream).poll_write(cx, chunk))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        chunk.advance(count);
        Poll::Ready(Ok(count))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tunnel(stream) => Poll::Ready(stream.finish()),
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(stream) => stream.poll_reset(cx),
            // The next read or write meets it.
            Self::Clear(_) => Poll::Pending,
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Tunnel(stream) => stream.reset(),
            Self::Clear(stream) => {
                // Fails only on a socket that is gone.
                let _gone = stream.set_zero_linger();
            }
        }
    }
}

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
use tokio_rustls::server::TlsStream;

/// How much is read at once of a connection of a client's own to tell what is spoken in it.
const CHUNK: usize = 4 << 10;

/// A client's connection.
#[derive(Debug)]
pub enum Downstream {
    /// Inside a tunnel.
    Tunnel(TunnelStream),
    /// From outside of the mesh, in clear.
    Clear(TcpStream),
    /// From outside of the mesh, in TLS.
    Secure(Box<Secure>),
}

/// A connection in TLS.
#[derive(Debug)]
pub struct Secure {
    stream: TlsStream<TcpStream>,
    /// How much of what is to be sent is taken already, and waits until the connection takes it.
    taken: usize,
}

impl From<TlsStream<TcpStream>> for Downstream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Secure(Box::new(Secure { stream, taken: 0 }))
    }
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
            Self::Clear(_) | Self::Secure(_) => {
                Poll::Ready(io::Error::new(io::ErrorKind::ConnectionReset, "the client has left"))
            }
        }
    }
}

impl Secure {
    /// Sends of a chunk, and says how much once the connection has taken it: what TLS alone has taken nobody might ever send. The same chunk is to
    /// come again until then.
    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            self.taken = ready!(Pin::new(&mut self.stream).poll_write(cx, chunk))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_shutdown(cx),
        }
    }
}

/// Some of what comes next; nothing at the end.
fn poll_some(stream: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
    let mut room = [0; CHUNK];
    let mut read = ReadBuf::new(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    let read = read.filled();
    Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
}

impl Side for Downstream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::Tunnel(stream) => stream.poll_chunk(cx),
            Self::Clear(stream) => poll_some(stream, cx),
            Self::Secure(secure) => poll_some(&mut secure.stream, cx),
        }
    }

    fn consumed(&mut self, count: usize) {
        if let Self::Tunnel(stream) = self {
            stream.consumed(count);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        let count = match self {
            Self::Tunnel(stream) => return stream.poll_send(cx, chunk),
            Self::Clear(stream) => ready!(Pin::new(stream).poll_write(cx, chunk))?,
            Self::Secure(secure) => ready!(secure.poll_send(cx, chunk))?,
        };
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
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_shutdown(cx),
        }
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(stream) => stream.poll_reset(cx),
            // The next read or write meets it.
            Self::Clear(_) | Self::Secure(_) => Poll::Pending,
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Tunnel(stream) => stream.reset(),
            // Fails only on a socket that is gone.
            Self::Clear(stream) => _ = stream.set_zero_linger(),
            Self::Secure(secure) => _ = secure.stream.get_ref().0.set_zero_linger(),
        }
    }
}

//! Connections of the servers under TLS: accepted, shaken hands with, and counted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// How long a peer may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections at once, those in their handshake included; more wait in the backlog.
const CONNECTIONS: usize = 8192;
/// The pause after an accept that failed, for example because there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that counts until it is dropped.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections and shakes hands, each in a task of its own, so that a slow peer holds up nobody.
pub struct Acceptor {
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: usize,
}

impl Acceptor {
    /// Accepts on `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, tls: TlsAcceptor) -> Self {
        Self { listener, tls, connections: CONNECTIONS }
    }

    /// With another number of connections at once.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// The connections as a stream, and the task that feeds it: it ends when the stream is dropped.
    pub fn incoming(self) -> (ReceiverStream<io::Result<Connection>>, impl Future<Output = ()> + Send) {
        let (ready, incoming) = mpsc::channel(16);
        (ReceiverStream::new(incoming), self.accept(ready))
    }

    async fn accept(self, ready: mpsc::Sender<io::Result<Connection>>) {
        let permits = Arc::new(Semaphore::new(self.connections));
        let mut handshakes = JoinSet::new();
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
                self.listener.accept().await.map(|(stream, peer)| (stream, peer, permit))
            };
            let accepted = tokio::select! {
                () = ready.closed() => return,
                Some(_) = handshakes.join_next() => continue,
                accepted = next => accepted,
            };
            let (stream, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a server of the control plane cannot accept a connection");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, ready) = (self.tls.clone(), ready.clone());
            handshakes.spawn(async move {
                // Without it, small messages are late but not lost.
                let _ = stream.set_nodelay(true);
                match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => drop(ready.send(Ok(Connection { stream, _permit: permit })).await),
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            });
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

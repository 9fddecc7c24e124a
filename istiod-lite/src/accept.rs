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

use crate::share::{Share, Shares};

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
    /// Its place among those of its address, where these are limited.
    share: Option<Share>,
}

impl Connection {
    /// One permit for each request that its address may have at one time; `None` where nothing is said of that.
    pub(crate) fn requests(&self) -> Option<Arc<Semaphore>> {
        self.share.as_ref().map(|share| Arc::clone(&share.requests))
    }
}

/// Accepts connections and shakes hands, each in a task of its own, so that a slow peer holds up nobody.
pub struct Acceptor {
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: usize,
    shares: Option<Arc<Shares>>,
}

impl Acceptor {
    /// Accepts on `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, tls: TlsAcceptor) -> Self {
        Self { listener, tls, connections: CONNECTIONS, shares: None }
    }

    /// With another number of connections at once.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// With a share of them for each address, beyond which its connections are closed as they come.
    #[must_use]
    pub(crate) fn shared(self, shares: Arc<Shares>) -> Self {
        Self { shares: Some(shares), ..self }
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
            let share = match &self.shares {
                None => None,
                Some(shares) => match shares.take(peer.ip()) {
                    Some(share) => Some(share),
                    None => {
                        tracing::debug!(%peer, "a connection was closed: its address has as many as it may have");
                        continue;
                    }
                },
            };
            let (tls, ready) = (self.tls.clone(), ready.clone());
            handshakes.spawn(async move {
                // Without it, small messages are late but not lost.
                let _ = stream.set_nodelay(true);
                match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => drop(ready.send(Ok(Connection { stream, _permit: permit, share })).await),
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Whether the other side closes it within a moment; what is kept waits for its handshake.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        timeout(Duration::from_millis(300), stream.read(&mut [0; 8])).await.is_ok()
    }

    #[tokio::test]
    async fn an_address_that_has_its_share_gets_no_more_and_others_are_served() {
        let config = rustls::ServerConfig::builder_with_provider(ambit_tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(listener, TlsAcceptor::from(Arc::new(config))).at_most(8).shared(Shares::new(2, 1));
        let (_incoming, accepting) = acceptor.incoming();
        tokio::spawn(accepting);

        let connect = async |from: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            socket.connect(address).await.unwrap()
        };
        let mut held = [connect("127.0.0.1").await, connect("127.0.0.1").await];
        let mut more = connect("127.0.0.1").await;
        assert!(timeout(HANDSHAKE / 2, more.read(&mut [0; 8])).await.is_ok(), "a third one is closed");
        for stream in &mut held {
            assert!(!is_closed(stream).await, "what it had stays");
        }
        assert!(!is_closed(&mut connect("127.0.0.2").await).await, "another address has its own share");
    }
}

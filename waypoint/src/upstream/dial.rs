//! Opening a connection to an endpoint.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ambit_hbone::{Carrier, ConnectError, ConnectRequest, PoolKey, TunnelStream};
use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal};
use ambit_runtime::socket;
use ambit_tls::handshake;
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::Destination;
use crate::{HBONE_PORT, proxy::Proxy, terminate::peer_reason};

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// Through a tunnel.
    Tunnel(TunnelStream),
    /// In clear.
    Clear(TcpStream),
}

impl Stream {
    /// The connection of its tunnel, when it has one.
    #[must_use]
    pub fn carrier(&self) -> Option<Carrier> {
        match self {
            Self::Tunnel(stream) => Some(stream.carrier()),
            Self::Clear(_) => None,
        }
    }
}

/// Opens a connection within `limit`. `headers` go with the CONNECT of a tunnel.
///
/// # Errors
/// Why it does not stand.
pub async fn open(proxy: &Proxy, to: &Destination, headers: HeaderMap, limit: Duration) -> Result<Stream, Refusal> {
    let late = |_| Refusal::new(Reason::UpstreamTimeout, format!("no connection to {} within {limit:?}", to.address));
    match &to.identity {
        Some(identity) => {
            tokio::time::timeout(limit, tunnel(proxy, to.address, identity, headers)).await.map_err(late)?.map(Stream::Tunnel)
        }
        None => socket::connect(to.address, &socket::ConnectOptions { timeout: limit, ..Default::default() })
            .await
            .map(Stream::Clear)
            .map_err(|error| Refusal::new(peer_reason(&error), format!("{}: {error}", to.address))),
    }
}

async fn tunnel(proxy: &Proxy, address: SocketAddr, identity: &SpiffeId, headers: HeaderMap) -> Result<TunnelStream, Refusal> {
    let key = PoolKey {
        source: proxy.identity.clone(),
        destinations: vec![identity.clone()],
        address: SocketAddr::new(address.ip(), HBONE_PORT),
        source_ip: None,
        netns: None,
    };
    let dial = || dial(proxy, key.address, identity);
    let request = ConnectRequest { authority: address.into(), headers };
    match proxy.tunnels.connect(&key, dial, request).await {
        Ok((stream, _)) => Ok(stream),
        Err(error) => Err(refusal(&error, address)),
    }
}

async fn dial(proxy: &Proxy, address: SocketAddr, identity: &SpiffeId) -> io::Result<handshake::ClientStream<TcpStream>> {
    let svid = proxy.certificates.get(&proxy.identity).await.map_err(io::Error::other)?;
    let config = ambit_tls::client_config(&svid, std::slice::from_ref(identity)).map_err(io::Error::other)?;
    let stream = socket::connect(address, &socket::ConnectOptions::default()).await?;
    handshake::connect(stream, config, proxy.limits.handshake).await
}

/// Why there is no tunnel, with the policy that the endpoint's proxy names.
fn refusal(error: &ConnectError, address: SocketAddr) -> Refusal {
    let mut refusal = Refusal::new(reason_of(error), format!("{address}: {error}"));
    if let ConnectError::Refused { headers, .. } = error {
        refusal.policy = headers.get("x-ambit-policy").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    }
    refusal
}

/// Why a tunnel was not opened, as a reason code: the peer's own, when it names one.
pub fn reason_of(error: &ConnectError) -> Reason {
    if let Some(io) = error.io() {
        return peer_reason(io);
    }
    match error {
        ConnectError::Refused { headers, .. } => headers
            .get("x-ambit-reason")
            .and_then(|v| v.to_str().ok())
            .and_then(Reason::from_label)
            .unwrap_or(Reason::TunnelFailed),
        ConnectError::TimedOut(_) => Reason::UpstreamTimeout,
        _ => Reason::TunnelFailed,
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
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

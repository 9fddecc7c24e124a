//! The listener of tunnels.

use std::{io, net::SocketAddr, sync::Arc};

use ambit_hbone::{Incoming, ServeError, ServerConfig, server};
use ambit_model::{Reason, Refusal};
use ambit_runtime::{drain::Watch, socket};
use ambit_tls::PeerError;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use super::{Peer, refused, tunnel};
use crate::{
    carriers::{Carriers, Opener},
    compiled::Snapshot,
    observe::Record,
    proxy::Proxy,
};

/// Accepts tunnels until the drain begins, then waits for those that are open (the drain's deadline cuts them).
pub async fn accept_loop(carriers: impl Into<Carriers>, listener: TcpListener, drain: Watch) {
    let carriers = carriers.into();
    let places = Arc::new(Semaphore::new(carriers.proxy().limits.connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let from = socket::canonical(from);
        let Ok(place) = places.clone().try_acquire_owned() else {
            refuse(carriers.proxy(), from, at(&listener, from), &Refusal::new(Reason::ConnectionLimit, ""));
            continue;
        };
        let watch = drain.clone();
        let served = carriers.serve(Opener::Ztunnel, stream, &tasks, move |proxy, stream| async move {
            connection(&proxy, stream, from, watch).await;
            drop(place);
        });
        if let Err(error) = served {
            let refusal = Refusal::new(Reason::Internal, format!("it cannot be handed on to a worker: {error}"));
            refuse(carriers.proxy(), from, at(&listener, from), &refusal);
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Where it is accepted.
fn at(listener: &TcpListener, from: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(from)
}

/// One connection: handshake, then its CONNECTs.
async fn connection(proxy: &Arc<Proxy>, stream: TcpStream, from: SocketAddr, drain: Watch) {
    let local = stream.local_addr().map_or(from, socket::canonical);
    if let Err(refusal) = serve(proxy, stream, (from, local), drain).await {
        refuse(proxy, from, local, &refusal);
    }
}

async fn serve(
    proxy: &Arc<Proxy>,
    stream: TcpStream,
    (from, local): (SocketAddr, SocketAddr),
    drain: Watch,
) -> Result<(), Refusal> {
    socket::tune(&stream).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
    let certificate = proxy
        .certificates
        .server_config(&proxy.identity)
        .await
        .map_err(|error| Refusal::new(Reason::CertificateUnavailable, error.to_string()))?;
    let trust = proxy.certificates.trust().changes();
    let (stream, identity) = ambit_tls::handshake::accept(stream, certificate, proxy.limits.handshake)
        .await
        .map_err(|error| Refusal::new(peer_reason(&error), error.to_string()))?;
    let peer = Peer::new(from, Some(identity)).seen_by(&proxy.identity);
    known(&proxy.config.load(), &peer)?;
    let peer = Arc::new(peer);
    let handler = {
        let (proxy, peer, drain) = (proxy.clone(), peer.clone(), drain.clone());
        move |incoming: Incoming| Box::pin(tunnel::open(proxy.clone(), peer.clone(), incoming, drain.clone()))
    };
    let draining = async move { drain.draining().await };
    let presented = stream.presented().clone();
    let config = ServerConfig { on_refused: Some(refused::told(proxy, &peer, local)), ..proxy.limits.tunnels.clone() };
    let served = tokio::select! {
        served = server::serve(stream, &config, draining, handler) => served,
        () = proxy.certificates.trust().until_revoked(&presented, trust) => {
            return Err(Refusal::new(Reason::PeerRevoked, "its tunnels were ended"));
        }
    };
    match served {
        Ok(_) => Ok(()),
        Err(ServeError::NotHttp2(text)) => Err(Refusal::new(Reason::TunnelProtocolError, text)),
        // The peer went away; each tunnel has its own record.
        Err(error) => {
            tracing::debug!(%error, peer = %from, "connection of tunnels ended");
            Ok(())
        }
    }
}

/// Whether the listener takes tunnels of this peer.
pub fn known(snapshot: &Snapshot, peer: &Peer) -> Result<(), Refusal> {
    let Some(terminate) = &snapshot.terminate else { return Ok(()) };
    let uri = peer.uri.as_deref().unwrap_or_default();
    if !terminate.peers.is_empty() && !terminate.peers.iter().any(|test| test.matches(uri)) {
        return Err(Refusal::new(Reason::PeerTrustDomain, format!("{uri} passes none of the listener's tests")));
    }
    Ok(())
}

/// Why a handshake failed, as a reason code.
pub fn peer_reason(error: &io::Error) -> Reason {
    match PeerError::from_io(error) {
        Some(PeerError::NoCertificate) => Reason::PeerNoCertificate,
        Some(PeerError::UnknownAuthority) => Reason::PeerUntrusted,
        Some(PeerError::Expired { .. }) => Reason::PeerExpired,
        Some(PeerError::NotYetValid { .. }) => Reason::PeerNotYetValid,
        Some(PeerError::Revoked) => Reason::PeerRevoked,
        Some(PeerError::RevocationUnknown(_)) => Reason::PeerRevocationUnknown,
        Some(PeerError::WrongTrustDomain { .. }) => Reason::PeerTrustDomain,
        Some(PeerError::UnexpectedIdentity { .. }) => Reason::PeerIdentityMismatch,
        Some(PeerError::NoIdentity(_)) => Reason::PeerIdentityInvalid,
        Some(PeerError::TimedOut) => Reason::TlsHandshakeTimeout,
        Some(_) => Reason::TlsHandshakeFailed,
        None => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reason::UpstreamRefused,
            io::ErrorKind::TimedOut => Reason::UpstreamTimeout,
            _ => Reason::UpstreamUnreachable,
        },
    }
}

fn refuse(proxy: &Proxy, from: SocketAddr, local: SocketAddr, refusal: &Refusal) {
    let mut record = Record::new(proxy.telemetry.clone(), Arc::new(Peer::new(from, None)), local, "tcp");
    record.refused(refusal);
}

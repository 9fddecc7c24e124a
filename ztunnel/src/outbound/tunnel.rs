//! Opening a tunnel to the planned hop, and saying why it was not opened.

use std::{net::SocketAddr, sync::Arc};

use ambit_hbone::{Authority, ConnectError, ConnectRequest, PoolKey, TunnelStream};
use ambit_model::{
    Reason, Refusal,
    plan::{Hbone, Hop},
};
use ambit_runtime::telemetry::Security;
use ambit_tls::{PeerError, handshake};
use tokio::net::TcpStream;

use super::headers;
use crate::{
    peer,
    proxy::{Pod, Proxy},
    telemetry::Record,
};

/// A tunnel that was not opened.
#[derive(Debug)]
pub(super) struct Unopened {
    /// Why, in the destination's own words when it gave any.
    pub(super) refusal: Refusal,
    /// Bytes of the client went with the request, and what came of them is not known: it must not be made again elsewhere.
    pub(super) last: bool,
}

impl From<Refusal> for Unopened {
    /// No byte of the client was passed on.
    fn from(refusal: Refusal) -> Self {
        Self { refusal, last: false }
    }
}

/// Opens the tunnel. While it is being opened the client is watched: when it gives up, so do we; what it says first goes with the request,
/// and is taken out of its socket only by the pump.
///
/// # Errors
/// Why there is no tunnel.
pub(super) async fn open(
    proxy: &Proxy,
    pod: &Pod,
    client: &TcpStream,
    from: SocketAddr,
    plan: &Hbone,
    record: &mut Record,
) -> Result<TunnelStream, Unopened> {
    let certificate = proxy
        .certificates
        .get(&pod.identity)
        .await
        .map_err(|error| Refusal::new(Reason::CertificateUnavailable, error.to_string()))?;
    let key = PoolKey {
        source: pod.identity.clone(),
        destinations: plan.expected.clone(),
        address: plan.dial,
        source_ip: Some(from.ip()),
        netns: Some(pod.netns.inode()),
    };
    let trace = record.traced();
    let headers =
        headers::of(pod, record.facts().and_then(|facts| facts.kind.source_workload.as_ref()), from, &plan.target, &trace);
    let request = ConnectRequest { authority: Authority::from(plan.authority), headers };
    let dial = || async {
        // As it is now: another one's dial may have been waited for, and what was renewed meanwhile is retired already.
        let certificate = proxy.certificates.current(&pod.identity).unwrap_or(certificate);
        let config = ambit_tls::client_config(&certificate, &plan.expected).map_err(std::io::Error::other)?;
        let tcp = proxy.dial(pod, plan.dial, None, proxy.limits.connect).await?;
        handshake::connect(tcp, Arc::clone(&config), proxy.limits.handshake).await
    };
    let opened = tokio::select! {
        // A tunnel that stands is used, however soon its client is gone: so the reset is passed on.
        biased;
        opened = proxy.pool.connect_for(&key, dial, request, client) => opened,
        error = gone(client) => return Err(Refusal::new(Reason::ClientReset, error).into()),
    };
    // Who answered was verified by the handshake, which accepts no one else.
    let (tunnel, _headers) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if matches!(error, ConnectError::Refused { .. }) {
                verified(plan, record);
            }
            return Err(match error {
                ConnectError::Unknown(error) => Unopened { refusal: refusal(proxy, &error, plan), last: true },
                error => refusal(proxy, &error, plan).into(),
            });
        }
    };
    verified(plan, record);
    Ok(tunnel)
}

fn verified(plan: &Hbone, record: &mut Record) {
    record.secured(Security::MutualTls, plan.expected.first());
}

/// Completes with a reason when the client resets. A client that only ended its sending is still there.
pub(crate) async fn gone(client: &TcpStream) -> String {
    use tokio::io::Interest;
    loop {
        match client.ready(Interest::ERROR).await {
            Ok(_) => match client.take_error() {
                Ok(Some(error)) | Err(error) => return error.to_string(),
                Ok(None) => std::future::pending().await,
            },
            Err(error) => return error.to_string(),
        }
    }
}

fn refusal(proxy: &Proxy, error: &ConnectError, plan: &Hbone) -> Refusal {
    if let ConnectError::Refused { status, headers } = error {
        return peer::read_refusal(*status, headers);
    }
    if let ConnectError::Client(error) = error {
        return Refusal::new(Reason::ClientReset, error.to_string());
    }
    if let Some(refusal) = error.io().and_then(|error| proxy.limits.descriptors.refused(error)) {
        return refusal;
    }
    let detail = format!("{}: {error}", plan.dial);
    if let Some(peer) = PeerError::from_error(error).or_else(|| error.io().and_then(PeerError::from_io)) {
        return Refusal::new(peer::reason(&peer), detail);
    }
    let reason = match (error, plan.hop) {
        (ConnectError::Shutdown, _) => Reason::Draining,
        (_, Hop::Waypoint) => Reason::WaypointUnreachable,
        (ConnectError::TimedOut(_), Hop::Endpoint) => Reason::UpstreamTimeout,
        (_, Hop::Endpoint) => Reason::TunnelFailed,
    };
    Refusal::new(reason, detail)
}

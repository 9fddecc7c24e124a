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

/// Opens the tunnel. While it is being opened the client is watched: when it gives up, so do we.
///
/// # Errors
/// Why there is no tunnel, in the destination's own words when it gave any.
pub(super) async fn open(
    proxy: &Proxy,
    pod: &Pod,
    client: &TcpStream,
    from: SocketAddr,
    plan: &Hbone,
    record: &mut Record,
) -> Result<TunnelStream, Refusal> {
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
    };
    let headers = headers::of(pod, record.source_workload.as_ref(), from, &plan.target);
    let request = ConnectRequest { authority: Authority::from(plan.authority), headers };
    let dial = || async {
        let config = ambit_tls::client_config(&certificate, &plan.expected).map_err(std::io::Error::other)?;
        let tcp = proxy.dial(pod, plan.dial, None, proxy.limits.connect).await?;
        handshake::connect(tcp, Arc::clone(&config), proxy.limits.handshake).await
    };
    let opened = tokio::select! {
        // A tunnel that stands is used, however soon its client is gone: so the reset is passed on.
        biased;
        opened = proxy.pool.connect(&key, dial, request) => opened,
        error = gone(client) => return Err(Refusal::new(Reason::ClientReset, error)),
    };
    // Who answered was verified by the handshake, which accepts no one else.
    let (tunnel, _headers) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if matches!(error, ConnectError::Refused { .. }) {
                verified(plan, record);
            }
            return Err(refusal(&error, plan));
        }
    };
    verified(plan, record);
    Ok(tunnel)
}

fn verified(plan: &Hbone, record: &mut Record) {
    record.security = Security::MutualTls;
    record.destination_identity = plan.expected.first().cloned();
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

fn refusal(error: &ConnectError, plan: &Hbone) -> Refusal {
    if let ConnectError::Refused { status, headers } = error {
        return peer::read_refusal(*status, headers);
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

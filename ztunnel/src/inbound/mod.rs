//! Connections to the pods of this node: through HBONE, or in plain text as far as policy lets them.

pub mod hbone;
pub mod plaintext;

use std::{net::SocketAddr, sync::Arc};

use ambit_hbone::copy::{EndedBy, Outcome};
use ambit_identity::SpiffeId;
use ambit_model::{
    Reason, Refusal,
    address::NetworkAddress,
    authorize::{Allowed, Connection, authorize},
    state::MeshState,
    workload::Workload,
};

use crate::{proxy::Proxy, telemetry::Record};

/// Notes who connects, and decides whether it may.
fn permit(
    proxy: &Proxy,
    workload: &Arc<Workload>,
    peer: Option<&SpiffeId>,
    from: SocketAddr,
    destination: SocketAddr,
    record: &mut Record,
) -> Result<(), Refusal> {
    let connection = Connection { source: peer.cloned(), source_ip: from.ip(), destination };
    let decided = proxy.state.read(|mesh| {
        record.source_workload = mesh.workload_at(&NetworkAddress::new(workload.network.clone(), from.ip())).cloned();
        decide(mesh, workload, &connection)
    })?;
    for refusal in &decided.dry_run {
        tracing::info!(%refusal, %from, %destination, "a dry-run policy would have refused this connection");
    }
    record.policy = decided.policy.map(|policy| policy.to_string());
    Ok(())
}

/// Decides by the workload as it is known now: between waiting for it and now it may have changed.
fn decide(mesh: &MeshState, workload: &Arc<Workload>, connection: &Connection) -> Result<Allowed, Refusal> {
    let workload = mesh.workload(workload.uid.as_str()).unwrap_or(workload);
    authorize(mesh, workload, connection)
}

/// Completes when a connection that was allowed no longer is.
async fn revoked(
    proxy: &Proxy,
    workload: &Arc<Workload>,
    peer: Option<&SpiffeId>,
    from: SocketAddr,
    destination: SocketAddr,
) -> Refusal {
    let connection = Connection { source: peer.cloned(), source_ip: from.ip(), destination };
    let mut policies = proxy.state.policies();
    loop {
        // The sender lives in the proxy, so there is no error to wait for.
        if policies.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Err(refusal) = proxy.state.read(|mesh| decide(mesh, workload, &connection)) {
            return refusal;
        }
    }
}

/// Carries a connection that was allowed until it ends or no longer is allowed.
async fn carry(mut record: Record, carried: impl Future<Output = Outcome>, revoked: impl Future<Output = Refusal>) {
    record.established();
    let ended = record.watch(async {
        tokio::select! {
            outcome = carried => Ok(outcome.ended_by),
            refusal = revoked => Err(refusal),
        }
    });
    match ended.await {
        Ok(EndedBy::Finished) => record.finish(),
        Ok(EndedBy::First(error)) => record.refused(Refusal::new(Reason::ClientReset, error.to_string())),
        Ok(EndedBy::Second(error)) => record.refused(Refusal::new(Reason::UpstreamReset, error.to_string())),
        Err(refusal) => record.refused(refusal),
    }
}

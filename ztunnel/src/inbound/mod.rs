//! Connections to the pods of this node: through HBONE, or in plain text as far as policy lets them.

mod decisions;
pub mod hbone;
pub mod plaintext;
mod refused;

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::{Poll, ready},
};

use ambit_hbone::copy::{EndedBy, Outcome};
use ambit_identity::SpiffeId;
use ambit_model::{
    Reason, Refusal,
    address::NetworkAddress,
    authorize::{Allowed, Connection, authorize},
    state::MeshState,
    workload::Workload,
};

use decisions::Decided;
use tokio::sync::watch;

pub use decisions::Decisions;

use crate::{
    proxy::{Carrying, Places, Pod, Proxy},
    state::Shared,
    telemetry::Record,
};

/// Notes who connects, and decides whether it may.
fn permit(
    (proxy, pod): (&Proxy, &Pod),
    workload: &Arc<Workload>,
    peer: Option<&SpiffeId>,
    from: SocketAddr,
    destination: SocketAddr,
    record: &mut Record,
) -> Result<(), Refusal> {
    let connection = Connection { source: peer.cloned(), source_ip: from.ip(), destination };
    // Before the decision, so that no change after it is missed.
    let policies = proxy.state.policies_of(&workload.uid);
    let Decided { allowed, source } = pod.decisions.get(proxy.state.changes().version, &connection, || {
        proxy.state.read(|mesh| {
            let source = mesh.workload_at(&NetworkAddress::new(workload.network.clone(), from.ip())).cloned();
            record.learn(|facts| facts.kind.source_workload.clone_from(&source));
            decide(mesh, workload, &connection).map(|allowed| Decided { allowed, source })
        })
    })?;
    record.learn(|facts| facts.kind.source_workload = source);
    record.decided(policies);
    record.allowed(allowed);
    Ok(())
}

/// Decides by the workload as it is known now: between waiting for it and now it may have changed.
fn decide(mesh: &MeshState, workload: &Arc<Workload>, connection: &Connection) -> Result<Allowed, Refusal> {
    let workload = mesh.workload(workload.uid.as_str()).unwrap_or(workload);
    authorize(mesh, workload, connection)
}

/// What is decided now about a connection that was allowed.
pub(crate) fn again(state: &Shared, workload: &Arc<Workload>, connection: &Connection) -> Result<Allowed, Refusal> {
    state.read(|mesh| decide(mesh, workload, connection))
}

/// What tells of changes since the decision that `record` tells of. Without one all that is in force is a change.
pub(crate) fn since_decided(record: &mut Record, state: &Shared, workload: &Workload) -> watch::Receiver<u64> {
    record.policies().unwrap_or_else(|| {
        let mut policies = state.policies_of(&workload.uid);
        policies.mark_changed();
        policies
    })
}

/// A connection that was allowed, with what it takes to decide about it again.
pub(crate) struct Watched {
    proxy: Arc<Proxy>,
    workload: Arc<Workload>,
    connection: Connection,
    policies: watch::Receiver<u64>,
}

impl Watched {
    /// Watches from the decision on that the record tells of, so that what changed while the application was dialled is not missed.
    pub(crate) fn new(proxy: &Arc<Proxy>, workload: Arc<Workload>, connection: Connection, record: &mut Record) -> Self {
        let policies = since_decided(record, &proxy.state, &workload);
        Self { proxy: Arc::clone(proxy), workload, connection, policies }
    }

    fn again(&self) -> Result<Allowed, Refusal> {
        again(&self.proxy.state, &self.workload, &self.connection)
    }

    /// Completes when the connection no longer is allowed. Until then `record` tells what dry-run policies make of it.
    pub(crate) async fn revoked(mut self, record: &mut Record) -> Refusal {
        loop {
            self.policies = changed(self.policies).await;
            match self.again() {
                Ok(allowed) => record.allowed(allowed),
                Err(refusal) => return refusal,
            }
        }
    }
}

/// Completes with the next change.
async fn changed(mut policies: watch::Receiver<u64>) -> watch::Receiver<u64> {
    // The sender lives in the state, so there is no error to wait for.
    if policies.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    policies
}

/// Carries a connection that was allowed until it ends or no longer is allowed.
fn carry(
    mut record: Record,
    places: Places,
    carried: impl Future<Output = Outcome> + Send + 'static,
    watched: Watched,
) -> Carrying {
    record.established();
    let Watched { proxy, workload, connection, policies } = watched;
    // Each is boxed as it is: a block that awaits them would hold each of them twice.
    let (mut carried, mut changing) = (Box::pin(carried), Box::pin(changed(policies)));
    let mut held = Some((record, places));
    Box::pin(poll_fn(move |cx| {
        let ended = loop {
            // Whether it still may comes before its first byte.
            let Poll::Ready(policies) = changing.as_mut().poll(cx) else {
                break Ok(ready!(carried.as_mut().poll(cx)).ended_by);
            };
            match again(&proxy.state, &workload, &connection) {
                Ok(allowed) => {
                    if let Some((record, _)) = &mut held {
                        record.allowed(allowed);
                    }
                    changing.set(changed(policies));
                }
                Err(refusal) => break Err(refusal),
            }
        };
        if let Some((record, _places)) = held.take() {
            end(record, ended);
        }
        Poll::Ready(())
    }))
}

fn end(record: Record, ended: Result<EndedBy, Refusal>) {
    match ended {
        Ok(ended) => record.ended(&ended, Reason::ClientReset, Reason::UpstreamReset),
        Err(refusal) => record.refused(refusal),
    }
}

#[cfg(test)]
mod live;
#[cfg(test)]
mod tests;

//! Connections to the pods of this node: through HBONE, or in plain text as far as policy lets them.

mod decisions;
pub mod hbone;
pub mod plaintext;

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
    let policies = proxy.state.policies();
    let Decided { allowed, source } = pod.decisions.get(proxy.state.changes().version, &connection, || {
        proxy.state.read(|mesh| {
            let source = mesh.workload_at(&NetworkAddress::new(workload.network.clone(), from.ip())).cloned();
            record.source_workload.clone_from(&source);
            decide((&proxy.state, mesh), workload, &connection).map(|allowed| Decided { allowed, source })
        })
    })?;
    record.source_workload = source;
    record.decided(policies);
    for refusal in &allowed.dry_run {
        tracing::info!(%refusal, %from, %destination, "a dry-run policy would have refused this connection");
    }
    record.policy = allowed.policy;
    Ok(())
}

/// Decides by the workload as it is known now: between waiting for it and now it may have changed.
fn decide((state, mesh): (&Shared, &MeshState), workload: &Arc<Workload>, connection: &Connection) -> Result<Allowed, Refusal> {
    state.decides(&workload.uid);
    let workload = mesh.workload(workload.uid.as_str()).unwrap_or(workload);
    authorize(mesh, workload, connection)
}

/// Completes when a connection that was allowed, as its record says, no longer is.
fn watched(
    proxy: &Arc<Proxy>,
    workload: Arc<Workload>,
    connection: Connection,
    record: &mut Record,
) -> impl Future<Output = Refusal> + Send + 'static {
    let proxy = Arc::clone(proxy);
    let mut policies = record.policies().unwrap_or_else(|| {
        let mut policies = proxy.state.policies();
        policies.mark_changed();
        policies
    });
    async move {
        loop {
            // The sender lives in the state, so there is no error to wait for.
            if policies.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(refusal) = no_longer(&proxy.state, &workload, &connection) {
                return refusal;
            }
        }
    }
}

/// Why a connection that was allowed no longer is.
pub(crate) fn no_longer(state: &Shared, workload: &Arc<Workload>, connection: &Connection) -> Option<Refusal> {
    state.read(|mesh| decide((state, mesh), workload, connection)).err()
}

/// Completes when a connection that was allowed no longer is; at once when that happened while the application was being dialled.
pub(crate) async fn revoked(
    state: &Shared,
    workload: &Arc<Workload>,
    peer: Option<&SpiffeId>,
    from: SocketAddr,
    destination: SocketAddr,
) -> Refusal {
    let connection = Connection { source: peer.cloned(), source_ip: from.ip(), destination };
    let mut policies = state.policies();
    loop {
        if let Some(refusal) = no_longer(state, workload, &connection) {
            return refusal;
        }
        // The sender lives in the state, so there is no error to wait for.
        if policies.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Carries a connection that was allowed until it ends or no longer is allowed.
fn carry(
    mut record: Record,
    places: Places,
    carried: impl Future<Output = Outcome> + Send + 'static,
    revoked: impl Future<Output = Refusal> + Send + 'static,
) -> Carrying {
    record.established();
    // Each is boxed as it is: a block that awaits them would hold each of them twice.
    let (mut carried, mut revoked) = (Box::pin(carried), Box::pin(revoked));
    let mut held = Some((record, places));
    Box::pin(poll_fn(move |cx| {
        let ended = match revoked.as_mut().poll(cx) {
            // Whether it still may comes before its first byte.
            Poll::Ready(refusal) => Err(refusal),
            Poll::Pending => Ok(ready!(carried.as_mut().poll(cx)).ended_by),
        };
        if let Some((record, _places)) = held.take() {
            end(record, ended);
        }
        Poll::Ready(())
    }))
}

fn end(record: Record, ended: Result<EndedBy, Refusal>) {
    match ended {
        Ok(EndedBy::Finished) => record.finish(),
        Ok(EndedBy::First(error)) => record.refused(Refusal::new(Reason::ClientReset, error.to_string())),
        Ok(EndedBy::Second(error)) => record.refused(Refusal::new(Reason::UpstreamReset, error.to_string())),
        Err(refusal) => record.refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ambit_api::workload as wire;
    use ambit_model::{
        convert::Entry,
        policy::{Action, Group, Policy, PolicyKey, Scope},
    };
    use tokio::time::timeout;

    use super::*;

    fn deny_all() -> Policy {
        let groups = vec![Group { clauses: Vec::new() }];
        Policy { key: PolicyKey::new("shop", "closed"), scope: Scope::Namespace, action: Action::Deny, dry_run: false, groups }
    }

    fn state() -> (Shared, Arc<Workload>) {
        let (state, web) =
            (Shared::default(), wire::Workload { uid: "web".into(), namespace: "shop".into(), ..Default::default() });
        let web = Workload::try_from(web).unwrap();
        state.write(false, |mesh| mesh.insert(Entry::Workload(Box::new(web.clone()))));
        (state, Arc::new(web))
    }

    async fn soon(state: &Shared, web: &Arc<Workload>) -> Option<Reason> {
        let (from, to) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        timeout(Duration::from_millis(200), revoked(state, web, None, from, to)).await.ok().map(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn a_policy_that_arrives_while_the_application_is_dialled_ends_the_connection() {
        let (state, web) = state();
        assert_eq!(soon(&state, &web).await, None);
        // Between the decision that it may and the watch over it.
        state.write(true, |mesh| mesh.insert_policy(deny_all()));
        assert_eq!(soon(&state, &web).await, Some(Reason::PolicyDeniedExplicit));
    }

    #[tokio::test]
    async fn a_policy_that_arrives_later_ends_the_connection() {
        let (state, web) = state();
        let later = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            state.write(true, |mesh| mesh.insert_policy(deny_all()));
        };
        assert_eq!(tokio::join!(soon(&state, &web), later).0, Some(Reason::PolicyDeniedExplicit));
    }
}

//! Connections that pods open: accepted in the pod's namespace, planned, and carried over HBONE or passed through.

mod headers;
mod tunnel;

use std::sync::Arc;

use ambit_hbone::copy::{self, Counters, EndedBy, TcpSide};
use ambit_model::{
    Reason, Refusal,
    address::port,
    plan::{self, Hbone, Passthrough, Plan},
};
use ambit_runtime::{
    socket::{self, canonical},
    telemetry::Direction,
};
use tokio::net::TcpStream;

use crate::{
    proxy::{Pod, Proxy},
    telemetry::Record,
};

/// Carries one captured connection to its end.
pub async fn handle(proxy: Arc<Proxy>, pod: Arc<Pod>, client: TcpStream) {
    let Ok(from) = client.peer_addr().map(canonical) else { return };
    let Ok(local) = client.local_addr().map(canonical) else { return };
    let mut record = proxy.telemetry.begin(Direction::Outbound, from, local);
    record.source_identity = Some(pod.identity.clone());
    let planned = match proxy.place(&pod) {
        Ok(places) => decide(&proxy, &pod, &client, &mut record).await.map(|plan| (plan, places)),
        Err(refusal) => Err(refusal),
    };
    match planned {
        Ok((Planned::Hbone(plan), places)) => {
            carry(&proxy, &pod, client, from, *plan, record).await;
            drop(places);
        }
        Ok((Planned::Passthrough(plan), places)) => {
            pass(&proxy, &pod, client, *plan, record).await;
            drop(places);
        }
        Err(refusal) => {
            socket::reset(client);
            record.refused(refusal);
        }
    }
}

enum Planned {
    Hbone(Box<Hbone>),
    Passthrough(Box<Passthrough>),
}

async fn decide(proxy: &Proxy, pod: &Pod, client: &TcpStream, record: &mut Record) -> Result<Planned, Refusal> {
    socket::tune(client).map_err(|error| Refusal::new(Reason::ClientReset, error.to_string()))?;
    let destination = socket::original_destination(client)
        .map_err(|_| Refusal::new(Reason::LoopGuard, format!("port {} was dialled itself", port::OUTBOUND)))?;
    record.destination(destination);
    let Some(source) = proxy.source(pod).await else {
        return Err(Refusal::new(Reason::SourceUnknown, format!("{}/{}", pod.identity.namespace(), pod.name)));
    };
    record.source_workload = Some(Arc::clone(&source));
    let request = plan::Request { source: &source, destination, random: fastrand::u64(..) };
    match proxy.state.read(|mesh| plan::plan(mesh, request)) {
        Plan::Hbone(plan) => {
            record.target = plan.target.clone();
            Ok(Planned::Hbone(plan))
        }
        Plan::Passthrough(plan) => {
            record.target = plan.target.clone();
            Ok(Planned::Passthrough(plan))
        }
        Plan::Deny(denied) => {
            record.target = denied.target;
            Err(denied.refusal)
        }
    }
}

async fn carry(proxy: &Proxy, pod: &Pod, client: TcpStream, from: std::net::SocketAddr, plan: Hbone, mut record: Record) {
    let tunnel = match tunnel::open(proxy, pod, &client, from, &plan, &mut record).await {
        Ok(tunnel) => tunnel,
        Err(refusal) => {
            socket::reset(client);
            return record.refused(refusal);
        }
    };
    record.established();
    let counters = Counters::default();
    let outcome = copy::pump(tunnel, client, &counters).await;
    let (sent, received) = (outcome.sent, outcome.received);
    match outcome.ended_by {
        EndedBy::Finished => record.finish(sent, received),
        EndedBy::First(error) => record.broken(sent, received, Refusal::new(Reason::UpstreamReset, error.to_string())),
        EndedBy::Second(error) => record.broken(sent, received, Refusal::new(Reason::ClientReset, error.to_string())),
    }
}

async fn pass(proxy: &Proxy, pod: &Pod, client: TcpStream, plan: Passthrough, mut record: Record) {
    let server = match proxy.connect(pod, plan.dial, None).await {
        Ok(server) => server,
        Err(refusal) => {
            socket::reset(client);
            return record.refused(refusal);
        }
    };
    record.established();
    let counters = Counters::default();
    let outcome = copy::join(TcpSide::from(server), TcpSide::from(client), &counters).await;
    let (sent, received) = (outcome.sent, outcome.received);
    match outcome.ended_by {
        EndedBy::Finished => record.finish(sent, received),
        EndedBy::First(error) => record.broken(sent, received, Refusal::new(Reason::UpstreamReset, error.to_string())),
        EndedBy::Second(error) => record.broken(sent, received, Refusal::new(Reason::ClientReset, error.to_string())),
    }
}

//! Both ends of one connection in this process: the inbound half of the tunnel path, without the tunnel.

use std::{io, net::SocketAddr, sync::Arc};

use ambit_hbone::copy::{self, Counters, EndedBy, TcpSide};
use ambit_model::{
    Reason, Refusal,
    admit::{Admitted, Target},
    authorize::Connection,
    plan::Hbone,
    workload::Workload,
};
use ambit_runtime::telemetry::{Direction, Security};
use tokio::net::TcpStream;

use super::Neighbour;
use crate::{
    inbound::{
        Watched,
        hbone::{self, Peer},
    },
    outbound::gone,
    peer,
    proxy::{Places, Pod, Proxy},
    telemetry::Record,
};

/// The inbound record, which ends as it does on the tunnel when the outbound side vanishes: its client has gone.
struct Half(Option<Record>);

impl Half {
    fn refused(&mut self, refusal: Refusal) {
        if let Some(record) = self.0.take() {
            record.refused(refusal);
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.refused(Refusal::new(Reason::ClientReset, "its proxy ended it"));
    }
}

/// A connection to a pod of this node that was allowed and stands.
pub(crate) struct Near {
    peer: Peer,
    neighbour: Arc<Neighbour>,
    record: Half,
    upstream: TcpStream,
    admitted: Admitted,
    workload: Arc<Workload>,
    _places: Places,
}

/// Decides as the inbound side does, and connects to the application. The client is watched meanwhile.
///
/// # Errors
/// What the outbound side of a tunnel would have been told. The inbound record says more.
pub(crate) async fn open(
    (proxy, pod): (&Arc<Proxy>, &Pod),
    neighbour: Arc<Neighbour>,
    (client, from): (&TcpStream, SocketAddr),
    plan: &Hbone,
    outbound: &mut Record,
) -> Result<Near, Refusal> {
    outbound.secured(Security::NodeLocal, Some(&neighbour.pod.identity));
    let mut record = proxy.telemetry.begin(Direction::Inbound, from, plan.authority);
    record.from_identity(&pod.identity);
    record.secured(Security::NodeLocal, Some(&neighbour.pod.identity));
    record.count_with(outbound);
    let trace = outbound.traced().next();
    record.learn(|facts| facts.trace = Some(trace));
    let peer =
        Peer { proxy: Arc::clone(proxy), pod: Arc::clone(&neighbour.pod), id: pod.identity.clone(), from, at: plan.authority };
    let mut half = Half(Some(record));
    let target = Ok(Target::Address(plan.authority));
    let opened = tokio::select! {
        // A connection that stands is carried to its end, however soon that is: so its end is passed on.
        biased;
        opened = admitted(&peer, &target, &mut half) => opened,
        error = gone(client) => {
            half.refused(Refusal::new(Reason::ClientReset, "it gave up before the answer"));
            return Err(Refusal::new(Reason::ClientReset, error));
        }
        () = neighbour.pod.cut.cancelled() => Err(Refusal::new(Reason::Draining, "the pod went away")),
    };
    match opened {
        Ok(((upstream, admitted, workload), places)) => {
            Ok(Near { peer, neighbour, record: half, upstream, admitted, workload, _places: places })
        }
        Err(refusal) => {
            // Through the same words as over a tunnel, so that the outbound side says the same whatever the path was.
            let said = peer::read_refusal(peer::status(refusal.reason), &peer::write_refusal(&refusal));
            half.refused(refusal);
            Err(said)
        }
    }
}

async fn admitted(peer: &Peer, target: &Result<Target, Refusal>, half: &mut Half) -> Result<(hbone::Opened, Places), Refusal> {
    let Some(record) = &mut half.0 else { return Err(Refusal::new(Reason::Internal, "the record has ended")) };
    let places = peer.proxy.place_from(&peer.pod, peer.from.ip())?;
    hbone::open(peer, target, record).await.map(|opened| (opened, places))
}

impl Near {
    /// Carries the connection until it ends, no longer is allowed, or the pod goes away. `counters` are the outbound record's.
    pub(crate) async fn carry(self, client: TcpStream, counters: &Counters) -> EndedBy {
        let Self { peer, neighbour, record: mut half, upstream, admitted, workload, _places } = self;
        let joined = copy::join(TcpSide::from(upstream), TcpSide::from(client), counters);
        let Some(record) = &mut half.0 else { return EndedBy::Finished };
        let connection = Connection { source: Some(peer.id), source_ip: peer.from.ip(), destination: admitted.destination };
        let watched = Watched::new(&peer.proxy, workload, connection, record);
        record.established();
        let revoked = watched.revoked(record);
        let ended = tokio::select! {
            // Whether it still may comes before its first byte.
            biased;
            refusal = revoked => Err(refusal),
            () = neighbour.pod.cut.cancelled() => Err(Refusal::new(Reason::Draining, "cut while the pod went away")),
            outcome = joined => Ok(outcome.ended_by),
        };
        half.end(ended)
    }
}

impl Half {
    fn end(mut self, ended: Result<EndedBy, Refusal>) -> EndedBy {
        let Some(record) = self.0.take() else { return EndedBy::Finished };
        match &ended {
            Ok(ended) => record.ended(ended, Reason::UpstreamReset, Reason::ClientReset),
            Err(refusal) => record.refused(refusal.clone()),
        }
        // The outbound side of a tunnel sees only that it was cut.
        ended.unwrap_or_else(|refusal| EndedBy::First(io::Error::new(io::ErrorKind::ConnectionReset, refusal.to_string())))
    }
}

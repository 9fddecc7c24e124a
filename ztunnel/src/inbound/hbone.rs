//! HBONE to a pod: mutual TLS, then for each CONNECT the checks of address and policy, then the application.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ambit_hbone::{Host, Incoming, ServeError, ServerConfig, aside::Roaming, copy, server};
use ambit_identity::SpiffeId;
use ambit_model::{
    Reason, Refusal,
    admit::{Admitted, Target},
    arrive,
    authorize::Connection,
    forwarded, plan,
};
use ambit_runtime::{
    drain::Watch,
    socket::{self, canonical},
    telemetry::{Direction, Security, Trace},
};
use ambit_tls::{PeerError, handshake};
use http::HeaderMap;
use tokio::net::TcpStream;

use super::{Watched, carry, permit, refused};
use crate::{
    peer,
    proxy::{Carrying, Pod, Proxy, carried},
    telemetry::Record,
};

/// One accepted connection, with who is at its other end.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) id: SpiffeId,
    pub(crate) from: SocketAddr,
    pub(crate) at: SocketAddr,
}

impl Peer {
    /// The record of something about the connection itself, or about a tunnel in it of which nothing is known.
    pub(super) fn record(&self) -> Record {
        let mut record = self.proxy.telemetry.begin(Direction::Inbound, self.from, self.at);
        record.from_identity(&self.id);
        record.secured(Security::MutualTls, Some(&self.pod.identity));
        record
    }
}

/// Serves one accepted connection until it ends. With bulk in it, it may go to the thread for that; requests for tunnels are handled here.
pub fn handle(
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    io: TcpStream,
    from: SocketAddr,
    drain: Watch,
) -> impl Future<Output = ()> + Send {
    Roaming::new(Box::pin(serve(proxy, pod, io, from, drain)))
}

async fn serve(proxy: Arc<Proxy>, pod: Arc<Pod>, io: TcpStream, from: SocketAddr, drain: Watch) {
    let Ok(at) = io.local_addr().map(canonical) else { return };
    let failed = |refusal| proxy.telemetry.begin(Direction::Inbound, from, at).refused(refusal);
    let _places = match proxy.admit_from(&pod, &io, from.ip()) {
        Ok(places) => places,
        Err(refusal) => {
            socket::reset(io);
            return failed(refusal);
        }
    };
    let config = match proxy.certificates.server_config(&pod.identity).await {
        Ok(config) => config,
        Err(error) => {
            socket::reset(io);
            return failed(Refusal::new(Reason::CertificateUnavailable, error.to_string()));
        }
    };
    let trust = proxy.certificates.trust().changes();
    let (io, id) = match handshake::accept(io, config, proxy.limits.handshake).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let reason = PeerError::from_io(&error).map_or(Reason::TlsHandshakeFailed, |error| peer::reason(&error));
            return failed(Refusal::new(reason, error.to_string()));
        }
    };
    let peer = Peer { proxy: Arc::clone(&proxy), pod, id, from, at };
    let config = ServerConfig { on_refused: Some(refused::told(&peer)), ..proxy.limits.server() };
    let handler = {
        let peer = peer.clone();
        move |incoming| tunnel(peer.clone(), incoming)
    };
    let presented = io.presented().clone();
    let served = tokio::select! {
        served = Box::pin(server::serve(io, &config, drain.draining(), handler)) => served,
        () = proxy.certificates.trust().until_revoked(&presented, trust) => {
            return peer.record().refused(Refusal::new(Reason::PeerRevoked, "its tunnels were ended"));
        }
    };
    if let Err(error) = served {
        match error {
            ServeError::NotHttp2(_) | ServeError::Protocol(_) => {
                peer.record().refused(Refusal::new(Reason::TunnelProtocolError, error.to_string()));
            }
            ServeError::Silent(_) => peer.record().refused(Refusal::new(Reason::TunnelTimeout, error.to_string())),
            // Peers close connections as they like; each tunnel in it has its own record.
            ServeError::Lost(_) => tracing::debug!(%error, %from, "a tunnel connection ended"),
        }
    }
}

/// Carries one tunnel to its end.
fn tunnel(peer: Peer, incoming: Incoming) -> impl Future<Output = ()> + Send {
    carried(establish(peer, incoming))
}

async fn establish(peer: Peer, mut incoming: Incoming) -> Option<Carrying> {
    let (proxy, pod) = (&peer.proxy, &peer.pod);
    let mut record = proxy.telemetry.begin(Direction::Inbound, peer.from, peer.at);
    record.from_identity(&peer.id);
    record.secured(Security::MutualTls, Some(&pod.identity));
    record.learn(|facts| facts.trace = Trace::read(incoming.headers()));
    // One connection carries many tunnels, each of which counts.
    let places = match proxy.place_from(pod, peer.from.ip()) {
        Ok(places) => places,
        Err(refusal) => {
            let _gone = incoming.refuse(peer::status(refusal.reason), peer::write_refusal(&refusal));
            record.refused(refusal);
            return None;
        }
    };
    let target = incoming_target(&incoming);
    let opened = tokio::select! {
        // A connection that stands is carried to its end, however soon that is: so its end is passed on.
        biased;
        opened = async {
            proxy.turns.next().await;
            open(&peer, &target, &mut record).await
        } => opened,
        () = incoming.abandoned() => {
            record.refused(Refusal::new(Reason::ClientReset, "it gave up before the answer"));
            return None;
        }
    };
    on_behalf((proxy, &peer.id), incoming.headers(), &mut record);
    let (upstream, admitted, workload) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            // When the client has gone there is no one to tell.
            let _gone = incoming.refuse(peer::status(refusal.reason), peer::write_refusal(&refusal));
            record.refused(refusal);
            return None;
        }
    };
    let stream = match incoming.accept(HeaderMap::new()) {
        Ok(stream) => stream,
        Err(error) => {
            socket::reset(upstream);
            record.refused(Refusal::new(Reason::ClientReset, error.to_string()));
            return None;
        }
    };
    let connection = Connection { source: Some(peer.id.clone()), source_ip: peer.from.ip(), destination: admitted.destination };
    let watched = Watched::new(proxy, workload, connection, &mut record);
    let carried = copy::pump(stream, upstream, record.counters());
    Some(carry(record, places, carried, watched))
}

/// Notes on whose behalf the peer, if it may say so, opens the tunnel that `record` tells of. One header says it, or none does.
fn on_behalf((proxy, id): (&Proxy, &SpiffeId), headers: &HeaderMap, record: &mut Record) {
    let mut all = headers.get_all(forwarded::HEADER).iter();
    let (Some(said), None) = (all.next(), all.next()) else { return };
    let Ok(said) = said.to_str() else { return };
    let Some(workload) = record.facts().and_then(|facts| facts.kind.target.workload.clone()) else { return };
    let client = proxy.state.read(|mesh| {
        let workload = mesh.workload(workload.uid.as_str()).unwrap_or(&workload);
        forwarded::client(mesh, workload, id, said)
    });
    record.learn(|facts| facts.forwarded = client.map(Box::new));
}

fn incoming_target(incoming: &Incoming) -> Result<Target, Refusal> {
    match incoming.authority() {
        Ok(authority) => Ok(match (authority.socket_addr(), authority.host()) {
            (Some(address), _) => Target::Address(address),
            (None, Host::Name(name)) => Target::Host(name.to_string(), authority.port()),
            (None, Host::Ip(ip)) => Target::Address(SocketAddr::new(*ip, authority.port())),
        }),
        Err(error) => Err(Refusal::new(Reason::AuthorityInvalid, error.to_string())),
    }
}

pub(crate) type Opened = (TcpStream, Admitted, Arc<ambit_model::workload::Workload>);

/// Decides whether `peer` may reach `target`, and connects to the application.
pub(crate) async fn open(peer: &Peer, target: &Result<Target, Refusal>, record: &mut Record) -> Result<Opened, Refusal> {
    let (proxy, pod) = (&peer.proxy, &peer.pod);
    let target = target.as_ref().map_err(Clone::clone)?;
    if let Target::Address(address) = target {
        record.destination(*address);
    }
    let workload = proxy.destination(pod).await.ok_or_else(|| arrive::destination_unknown(&proxy.captured(pod)))?;
    let admitted = decide((proxy, pod), &workload, (&peer.id, peer.from), target, record)?;
    let upstream = proxy.connect(pod, admitted.upstream, same_family(peer.from.ip(), admitted.upstream)).await?;
    Ok((upstream, admitted, workload))
}

/// Decides whether the client, who proved to be this, may reach `target` of `workload`.
pub(crate) fn decide(
    (proxy, pod): (&Proxy, &Pod),
    workload: &Arc<ambit_model::workload::Workload>,
    (id, from): (&SpiffeId, SocketAddr),
    target: &Target,
    record: &mut Record,
) -> Result<Admitted, Refusal> {
    record.learn(|facts| facts.kind.target = plan::Target { workload: Some(Arc::clone(workload)), service: None });
    let admitted = arrive::tunnelled(workload, target)?;
    permit((proxy, pod), workload, Some(id), from, admitted.destination, record)?;
    Ok(admitted)
}

/// The client's address for the last hop, unless the tunnel came over the other address family.
pub(super) fn same_family(from: IpAddr, to: SocketAddr) -> Option<IpAddr> {
    (from.is_ipv4() == to.is_ipv4()).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_tunnel_that_carries_needs_little_memory() {
        let size = size_of_future(tunnel);
        assert!(size <= 64, "{size} bytes");
    }
}

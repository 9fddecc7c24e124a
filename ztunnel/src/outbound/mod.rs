//! Connections that pods open: accepted in the pod's namespace, planned, and carried over HBONE or passed through.

mod attempts;
mod headers;
mod tunnel;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ambit_hbone::{
    TunnelStream,
    copy::{self, EndedBy, TcpSide},
};
use ambit_model::{Reason, Refusal, address::port, arrive};
use ambit_runtime::{
    socket::{self, canonical},
    telemetry::Direction,
};
use futures::FutureExt;
use tokio::net::TcpStream;

use attempts::Taken;
pub(crate) use tunnel::gone;

use crate::{
    local::relay::Near,
    proxy::{Carrying, Pod, Proxy, carried},
    telemetry::Record,
};

/// What a record shows as long as nothing better is known: the listener.
const OUTBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port::OUTBOUND);

/// Carries one captured connection to its end.
pub fn handle(proxy: Arc<Proxy>, pod: Arc<Pod>, client: TcpStream, from: SocketAddr) -> impl Future<Output = ()> + Send {
    carried(establish(proxy, pod, client, from))
}

async fn establish(proxy: Arc<Proxy>, pod: Arc<Pod>, client: TcpStream, from: SocketAddr) -> Option<Carrying> {
    let mut record = proxy.telemetry.begin(Direction::Outbound, from, OUTBOUND);
    record.from_identity(&pod.identity);
    let opened = match proxy.admit(&pod, &client) {
        Ok(places) => {
            proxy.turns.next().await;
            open(&proxy, &pod, &client, from, &mut record).await.map(|taken| (taken, places))
        }
        Err(refusal) => Err(refusal),
    };
    let (Taken { server, held }, places) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            socket::reset(client);
            record.refused(refusal);
            return None;
        }
    };
    record.established();
    let counters = record.counters();
    let end = move |ended| {
        let _until_now = (places, held);
        end(record, ended);
    };
    Some(match server {
        Server::Tunnel(tunnel) => Box::pin(copy::pump(tunnel, client, counters).map(|outcome| end(outcome.ended_by))),
        Server::Near(near) => Box::pin(async move { end(near.carry(client, &counters).await) }),
        Server::Plain(server) => {
            let joined = copy::join(TcpSide::from(server), TcpSide::from(client), counters);
            Box::pin(joined.map(|outcome| end(outcome.ended_by)))
        }
    })
}

fn end(record: Record, ended: EndedBy) {
    record.ended(&ended, Reason::UpstreamReset, Reason::ClientReset);
}

/// The way to the server.
enum Server {
    Tunnel(TunnelStream),
    Near(Box<Near>),
    Plain(TcpStream),
}

async fn open(
    proxy: &Arc<Proxy>,
    pod: &Pod,
    client: &TcpStream,
    from: SocketAddr,
    record: &mut Record,
) -> Result<Taken, Refusal> {
    let destination = socket::original_destination_from(client, from).map_err(|_| arrive::itself(port::OUTBOUND))?;
    record.destination(destination);
    arrive::not_itself(destination, client.local_addr().map(canonical).ok())?;
    let source = proxy.source(pod).await.ok_or_else(|| arrive::source_unknown(&proxy.captured(pod)))?;
    record.learn(|facts| facts.kind.source_workload = Some(Arc::clone(&source)));
    attempts::Client { proxy, pod, source: &source, stream: client, from, destination }.connect(record).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ambit_hbone::copy::Counters;

    use super::*;

    fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_is_carried_needs_little_memory() {
        let outer = size_of_future(|(proxy, pod), client, from| handle(proxy, pod, client, from));
        assert!(outer <= 64, "{outer} bytes beside what is carried");
        let pump = size_of_future(|tunnel, tcp, counters: Arc<Counters>| copy::pump(tunnel, tcp, counters));
        assert!(pump <= 512, "{pump} bytes to carry");
    }
}

//! Plain text to a pod: passed on when no policy asks for more, with the client's address kept.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ambit_hbone::copy::{self, TcpSide};
use ambit_model::{Refusal, address::port, admit::admit_plaintext, arrive, authorize::Connection, plan, workload::Workload};
use ambit_runtime::{socket, telemetry::Direction};
use tokio::net::TcpStream;

use super::{Watched, carry, hbone::same_family, permit};
use crate::{
    proxy::{Carrying, Pod, Proxy, carried},
    telemetry::Record,
};

/// What a record shows as long as nothing better is known: the listener.
const INBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port::INBOUND_PLAINTEXT);

/// Carries one captured connection to its end.
pub fn handle(proxy: Arc<Proxy>, pod: Arc<Pod>, client: TcpStream, from: SocketAddr) -> impl Future<Output = ()> + Send {
    carried(establish(proxy, pod, client, from))
}

async fn establish(proxy: Arc<Proxy>, pod: Arc<Pod>, client: TcpStream, from: SocketAddr) -> Option<Carrying> {
    let mut record = proxy.telemetry.begin(Direction::Inbound, from, INBOUND);
    let opened = match proxy.admit_from(&pod, &client, from.ip()) {
        Ok(places) => {
            proxy.turns.next().await;
            open(&proxy, &pod, &client, from, &mut record).await.map(|opened| (opened, places))
        }
        Err(refusal) => Err(refusal),
    };
    let ((server, destination, workload), places) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            socket::reset(client);
            record.refused(refusal);
            return None;
        }
    };
    let connection = Connection { source: None, source_ip: from.ip(), destination };
    let watched = Watched::new(&proxy, workload, connection, &mut record);
    let carried = copy::join(TcpSide::from(client), TcpSide::from(server), record.counters());
    Some(carry(record, places, carried, watched))
}

type Opened = (TcpStream, SocketAddr, Arc<Workload>);

async fn open(proxy: &Proxy, pod: &Pod, client: &TcpStream, from: SocketAddr, record: &mut Record) -> Result<Opened, Refusal> {
    let destination = socket::original_destination_from(client, from).map_err(|_| arrive::itself(port::INBOUND_PLAINTEXT))?;
    record.destination(destination);
    let workload = proxy.destination(pod).await.ok_or_else(|| arrive::destination_unknown(&proxy.captured(pod)))?;
    record.learn(|facts| facts.kind.target = plan::Target { workload: Some(Arc::clone(&workload)), service: None });
    let destination = admit_plaintext(&workload, destination)?;
    permit((proxy, pod), &workload, None, from, destination, record)?;
    let server = proxy.connect(pod, destination, same_family(from.ip(), destination)).await?;
    Ok((server, destination, workload))
}

//! Ports at which the proxy is the edge of the mesh: their clients come in no tunnel and prove no identity. They ask in clear, or in TLS
//! that ends here.

mod handshake;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ambit_model::{Reason, Refusal};
use ambit_runtime::{
    drain::Watch,
    socket::{self, ListenOptions},
};
use http::HeaderMap;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    compiled::Edge,
    http::{self as l7, detect::Detected},
    observe::Record,
    proxy::Proxy,
    terminate::{Peer, Tunnel},
};

/// How soon a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// TLS handshakes that are made at once at all ports: each costs some milliseconds of a processor, and whoever does not end one holds its place
/// for as long as a handshake may take.
const HANDSHAKES: usize = 4096;

/// Listens on the ports that the configuration in force has, until the drain begins, and waits for the connections that are open then (the
/// drain's deadline cuts them). A port that cannot be opened is tried for as long as it is wanted; the others do not wait for it.
pub async fn run(proxy: Arc<Proxy>, mut ports: watch::Receiver<BTreeSet<u16>>, drain: Watch) {
    let places = Arc::new(Semaphore::new(proxy.limits.connections));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES.min(proxy.limits.connections)));
    let tasks = TaskTracker::new();
    let mut open: BTreeMap<u16, DropGuard> = BTreeMap::new();
    let mut told = BTreeSet::new();
    loop {
        let wanted = ports.borrow_and_update().clone();
        open.retain(|port, _| wanted.contains(port));
        told.retain(|port| wanted.contains(port));
        for port in wanted.iter().filter(|port| !open.contains_key(*port)).copied().collect::<Vec<_>>() {
            match listen(port) {
                Ok(listener) => {
                    told.remove(&port);
                    let end = CancellationToken::new();
                    let at = Port {
                        proxy: proxy.clone(),
                        number: port,
                        places: places.clone(),
                        handshakes: handshakes.clone(),
                        tasks: tasks.clone(),
                    };
                    tasks.spawn(at.accept(listener, end.clone(), drain.clone()));
                    open.insert(port, end.drop_guard());
                    tracing::info!(port, "requests from outside of the mesh are taken");
                }
                Err(error) if told.insert(port) => {
                    tracing::error!(port, %error, "the port cannot be listened on, trying again; nobody is served at it");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            changed = ports.changed() => if changed.is_err() {
                drain.draining().await;
                break;
            },
            () = sleep(RETRY), if !told.is_empty() => {}
            () = drain.draining() => break,
        }
    }
    drop(open);
    tasks.close();
    tasks.wait().await;
}

fn listen(port: u16) -> io::Result<TcpListener> {
    socket::listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), &ListenOptions::default())
}

/// One of the ports.
struct Port {
    proxy: Arc<Proxy>,
    number: u16,
    /// For the connections of all ports.
    places: Arc<Semaphore>,
    /// For the handshakes of all ports.
    handshakes: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Port {
    async fn accept(self, listener: TcpListener, end: CancellationToken, drain: Watch) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.cancelled() => return,
                () = drain.draining() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, port = self.number, "no connection accepted");
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let tunnel = self.client(&stream, socket::canonical(from), drain.clone());
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                let mut record = Record::new(self.proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
                record.refused(&Refusal::new(Reason::ConnectionLimit, ""));
                continue;
            };
            let (proxy, handshakes) = (self.proxy.clone(), self.handshakes.clone());
            self.tasks.spawn(async move {
                serve(proxy, tunnel, stream, handshakes).await;
                drop(place);
            });
        }
    }

    /// Who asks, and what for, as far as it is known: where the client is, and the port that it came to.
    fn client(&self, stream: &TcpStream, from: SocketAddr, drain: Watch) -> Tunnel {
        let destination = stream.local_addr().map_or(from, socket::canonical);
        let peer = Arc::new(Peer::new(from, None));
        Tunnel { peer, destination, passed_on: HeaderMap::new(), drain, edge: Some(self.number), secure: None }
    }
}

/// Serves one connection, once its handshake is made where its port speaks TLS.
async fn serve(proxy: Arc<Proxy>, tunnel: Tunnel, stream: TcpStream, handshakes: Arc<Semaphore>) {
    let edge = tunnel.edge.and_then(|port| proxy.config.load().edge.get(&port).cloned());
    let (tunnel, detected) = match edge.filter(|edge| edge.clear.is_none()) {
        // Where there is no listener any more each request is told so.
        None => (tunnel, Detected::later(stream)),
        // A connection that is served keeps no room for its handshake.
        Some(edge) => match Box::pin(secured(&proxy, &edge, stream, &handshakes)).await {
            Ok((chain, stream)) => (Tunnel { secure: Some(chain), ..tunnel }, Detected::later(stream)),
            Err(None) => {
                tracing::debug!(peer = %tunnel.peer.address, "a client has left before its handshake");
                return;
            }
            Err(Some(refusal)) => {
                let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
                record.refused(&refusal);
                return;
            }
        },
    };
    l7::serve(proxy, Arc::new(tunnel), detected).await;
}

/// The handshake of a client, if not too many are being made.
async fn secured(
    proxy: &Proxy,
    edge: &Edge,
    stream: TcpStream,
    handshakes: &Semaphore,
) -> Result<(Arc<str>, TlsStream<TcpStream>), handshake::Failed> {
    let Ok(_place) = handshakes.try_acquire() else {
        return Err(Some(Refusal::new(Reason::ConnectionLimit, "too many TLS handshakes are being made")));
    };
    handshake::accept(edge, stream, proxy.limits.handshake).await
}

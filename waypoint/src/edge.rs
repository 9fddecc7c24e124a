//! Ports at which the proxy is the edge of the mesh: their clients come in no tunnel and prove no identity. They ask in clear, or in TLS
//! that ends here, or have bytes carried, in TLS that is passed on among them.

mod begun;
mod handshake;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ambit_hbone::copy::{Side, TcpSide};
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
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{handshake::Made, places::Places};
use crate::{
    carriers::{Carriers, Opener},
    compiled::{Chain, Edge, Proxy as ChainProxy},
    http::{self as l7, detect::Detected},
    observe::Record,
    proxy::Proxy,
    tcp,
    terminate::{Peer, Tunnel},
};

/// How soon a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// TLS handshakes that are made at once at all ports: each costs some milliseconds of a processor, and whoever does not end one holds its place
/// for as long as a handshake may take, so that the clients of one address have but a share of them.
const HANDSHAKES: usize = 4096;

/// Listens on the ports that the configuration in force has, until the drain begins, and waits for the connections that are open then (the
/// drain's deadline cuts them). A port that cannot be opened is tried for as long as it is wanted; the others do not wait for it.
pub async fn run(carriers: impl Into<Carriers>, mut ports: watch::Receiver<BTreeSet<u16>>, drain: Watch) {
    let carriers = carriers.into();
    let most = carriers.proxy().limits.connections;
    let places = Arc::new(Semaphore::new(most));
    let handshakes = Places::new(HANDSHAKES.min(most));
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
                        carriers: carriers.clone(),
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
    carriers: Carriers,
    number: u16,
    /// For the connections of all ports.
    places: Arc<Semaphore>,
    /// For the handshakes of all ports.
    handshakes: Arc<Places>,
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
                self.refuse(tunnel.peer, tunnel.destination, &Refusal::new(Reason::ConnectionLimit, ""));
                continue;
            };
            let (peer, destination, handshakes) = (tunnel.peer.clone(), tunnel.destination, self.handshakes.clone());
            let served = self.carriers.serve(Opener::Client, stream, &self.tasks, move |proxy, stream| async move {
                serve(proxy, tunnel, stream, handshakes).await;
                drop(place);
            });
            if let Err(error) = served {
                let refusal = Refusal::new(Reason::Internal, format!("it cannot be handed on to a worker: {error}"));
                self.refuse(peer, destination, &refusal);
            }
        }
    }

    fn refuse(&self, peer: Arc<Peer>, destination: SocketAddr, refusal: &Refusal) {
        Record::new(self.carriers.proxy().telemetry.clone(), peer, destination, "tcp").refused(refusal);
    }

    /// Who asks, and what for, as far as it is known: where the client is, and the port that it came to.
    fn client(&self, stream: &TcpStream, from: SocketAddr, drain: Watch) -> Tunnel {
        let destination = stream.local_addr().map_or(from, socket::canonical);
        let peer = Arc::new(Peer::new(from, None));
        Tunnel { peer, destination, passed_on: HeaderMap::new(), drain, edge: Some(self.number), secure: None }
    }
}

/// Serves one connection, once its handshake is made where its port speaks TLS.
async fn serve(proxy: Arc<Proxy>, tunnel: Tunnel, stream: TcpStream, handshakes: Arc<Places>) {
    let edge = tunnel.edge.and_then(|port| proxy.config.load().edge.get(&port).cloned());
    let Some(edge) = edge else {
        // Where there is no listener any more each request is told so.
        return l7::serve(proxy, Arc::new(tunnel), Detected::later(stream)).await;
    };
    // What is in force now may be replaced while the connection is open, which does not keep it.
    if let Some(chain) = edge.clear.clone() {
        drop(edge);
        return match chain.carries() {
            false => {
                drop(chain);
                l7::serve(proxy, Arc::new(tunnel), Detected::later(stream)).await;
            }
            true => carry(proxy, tunnel, chain, TcpSide::from(stream)).await,
        };
    }
    // A connection that is served keeps no room for its handshake.
    let made = Box::pin(secured(&proxy, &edge, &tunnel, stream, &handshakes)).await;
    drop((edge, handshakes));
    match made {
        Ok(Made::PassedOn(chain, begun)) => carry(proxy, tunnel, chain, begun).await,
        Ok(Made::Ended(chain, stream)) => {
            let peer = Arc::new(Peer { in_tls: true, ..(*tunnel.peer).clone() });
            let tunnel = Tunnel { peer, secure: Some(chain.name.clone()), ..tunnel };
            let detected = Detected::later(*stream);
            match chain.carries() {
                false => {
                    drop(chain);
                    l7::serve(proxy, Arc::new(tunnel), detected).await;
                }
                true => carry(proxy, tunnel, chain, detected.into_stream()).await,
            }
        }
        Err(None) => tracing::debug!(peer = %tunnel.peer.address, "a client has left before its handshake"),
        Err(Some(refusal)) => {
            let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
            record.refused(&refusal);
        }
    }
}

/// Carries a connection that nobody looks into.
async fn carry<S: Side>(proxy: Arc<Proxy>, tunnel: Tunnel, chain: Arc<Chain>, stream: S) {
    if let ChainProxy::Tcp(tcp) = &chain.proxy {
        // Most connections are for requests, and need no room for this.
        Box::pin(tcp::carry(proxy, Arc::new(tunnel), chain.clone(), tcp, stream)).await;
    }
}

/// The handshake of a client, if not too many are being made.
async fn secured(
    proxy: &Proxy,
    edge: &Edge,
    tunnel: &Tunnel,
    stream: TcpStream,
    handshakes: &Arc<Places>,
) -> Result<Made, handshake::Failed> {
    let _place = handshakes.take(tunnel.peer.address.ip()).map_err(Some)?;
    handshake::accept(edge, stream, proxy.limits.handshake).await
}

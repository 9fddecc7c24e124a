//! What all connections of the node share, and what those of one pod share.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ambit_hbone::{Pool, PoolConfig, aside::Roaming};
use ambit_identity::SpiffeId;
use ambit_model::{
    Reason, Refusal,
    address::port,
    arrive::{Captured, Knowledge},
    workload::Workload,
};
use ambit_runtime::{
    netns::NetNs,
    socket::{self, ConnectOptions, PROXY_MARK, Stock},
    workers::awake,
};
use ambit_tls::SvidStore;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Limits,
    endpoints::{Endpoints, Standings},
    inbound::Decisions,
    known::Known,
    local::Neighbours,
    sources::{self, Sources},
    state::{Changes, Shared},
    telemetry::Telemetry,
    turns::Turns,
};

/// What the connections of one worker share. All but the tunnels and the turns is shared with the other workers too.
pub struct Proxy {
    /// What the control plane sent.
    pub state: Arc<Shared>,
    /// Certificates of the identities on this node.
    pub certificates: SvidStore,
    /// Tunnels to other nodes and waypoints, of this worker.
    pub pool: Pool,
    /// Access log and metrics.
    pub telemetry: Telemetry,
    /// What connections are held to.
    pub limits: Limits,
    /// The cluster of this node.
    pub cluster: String,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// The pods of this node, as the other end of a connection.
    pub near: Arc<Neighbours>,
    /// What was seen of endpoints by all pods of this node.
    pub endpoints: Endpoints,
    /// When connections begin, on this worker.
    pub turns: Arc<Turns>,
}

/// A pod of this node whose traffic is captured.
#[derive(Debug)]
pub struct Pod {
    /// The node agent's key of it: the UID of the Kubernetes object.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Who it is.
    pub identity: SpiffeId,
    /// Where it runs.
    pub netns: NetNs,
    /// Sockets for connections from there.
    pub sockets: Stock,
    /// Places for its connections.
    pub places: Arc<Semaphore>,
    /// How many of them each client has.
    pub sources: Sources,
    /// What the control plane told of it.
    pub known: Known,
    /// Who may connect to it.
    pub decisions: Decisions,
    /// Which endpoints failed its connects.
    pub standings: Standings,
    /// Ends its connections: they have had their time, or its namespace is another pod's by now.
    pub cut: CancellationToken,
}

/// A connection that stands, and is carried to its end. How it came to stand is forgotten by then: most connections are idle.
pub type Carrying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Establishes a connection and carries it, if there is one; what establishing needed is gone by then. One that turns out to be bulk may go
/// to the thread for that.
pub fn carried(establishing: impl Future<Output = Option<Carrying>> + Send) -> impl Future<Output = ()> + Send {
    let establishing = Box::pin(establishing);
    async move {
        if let Some(carrying) = establishing.await {
            Roaming::new(Counted(carrying)).await;
        }
    }
}

/// Counts how often a connection is polled.
struct Counted(Carrying);

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        awake::turn();
        self.0.as_mut().poll(cx)
    }
}

/// Places that a connection holds while it lives.
pub struct Places {
    _pod: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
    _source: Option<sources::Place>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Proxy {
    /// The same for another worker: it shares everything but the tunnels and the turns.
    #[must_use]
    pub fn with_own_tunnels(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            certificates: self.certificates.clone(),
            pool: Pool::new(PoolConfig::default()),
            telemetry: self.telemetry.clone(),
            limits: self.limits.clone(),
            cluster: self.cluster.clone(),
            places: Arc::clone(&self.places),
            near: Arc::clone(&self.near),
            endpoints: self.endpoints.clone(),
            turns: Arc::default(),
        }
    }

    /// Takes a place for one more connection.
    ///
    /// # Errors
    /// `connection_limit` when there is none.
    pub fn place(&self, pod: &Pod) -> Result<Places, Refusal> {
        let full = |whose: &str| Refusal::new(Reason::ConnectionLimit, format!("{whose} has no room for another connection"));
        let place = Arc::clone(&pod.places).try_acquire_owned().map_err(|_| full("the pod"))?;
        let node = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full("the node"))?;
        Ok(Places { _pod: place, _node: node, _source: None })
    }

    /// As [`Proxy::place`], for one to the pod from `source`.
    ///
    /// # Errors
    /// `connection_limit`, also when there is none for this client.
    pub fn place_from(&self, pod: &Pod, source: IpAddr) -> Result<Places, Refusal> {
        let place = pod.sources.take(source, self.limits.connections_per_source)?;
        Ok(Places { _source: Some(place), ..self.place(pod)? })
    }

    /// As [`Proxy::place`], for one that has just come by this socket.
    ///
    /// # Errors
    /// `connection_limit`, or `descriptor_limit` when the socket takes one of the last descriptors.
    pub fn admit(&self, pod: &Pod, socket: &TcpStream) -> Result<Places, Refusal> {
        self.limits.descriptors.admit(socket)?;
        self.place(pod)
    }

    /// As [`Proxy::place_from`], for one that has just come by this socket.
    ///
    /// # Errors
    /// `connection_limit`, or `descriptor_limit` when the socket takes one of the last descriptors.
    pub fn admit_from(&self, pod: &Pod, socket: &TcpStream, source: IpAddr) -> Result<Places, Refusal> {
        self.limits.descriptors.admit(socket)?;
        self.place_from(pod, source)
    }

    /// The workload of `pod`, as soon as enough is known to plan what it opens.
    pub async fn source(&self, pod: &Pod) -> Option<Arc<Workload>> {
        self.workload(pod, Knowledge::can_plan).await
    }

    /// The workload of `pod`, as soon as enough is known to authorize who connects to it.
    pub async fn destination(&self, pod: &Pod) -> Option<Arc<Workload>> {
        self.workload(pod, Knowledge::can_authorize).await
    }

    async fn workload(&self, pod: &Pod, enough: fn(Knowledge) -> bool) -> Option<Arc<Workload>> {
        let find = |now: Changes| {
            let find = || self.state.read(|mesh| self.workload_of(mesh, pod));
            if enough(now.knowledge()) { pod.known.workload(now.version, find) } else { None }
        };
        match find(self.state.changes()) {
            Some(workload) => Some(workload),
            None => Box::pin(self.state.wait_for(self.limits.knowledge, |_, now| find(now))).await,
        }
    }

    /// The workload of `pod`, if it is known now.
    pub fn workload_of(&self, mesh: &ambit_model::state::MeshState, pod: &Pod) -> Option<Arc<Workload>> {
        self.captured(pod).workload(mesh).cloned()
    }

    /// The pod as decisions know it.
    pub fn captured<'a>(&'a self, pod: &'a Pod) -> Captured<'a> {
        Captured { cluster: &self.cluster, name: &pod.name, identity: &pod.identity }
    }

    /// Opens a TCP connection from the pod, marked as the proxy's own; from `source` when that is given.
    ///
    /// # Errors
    /// `upstream_refused`, `upstream_timeout`, `upstream_reset`, `upstream_unreachable`, `descriptor_limit` or `draining`.
    pub async fn connect(&self, pod: &Pod, destination: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, Refusal> {
        let connected = self.dial(pod, destination, source, self.limits.connect).await.map_err(|error| {
            if let Some(refusal) = self.limits.descriptors.refused(&error) {
                return refusal;
            }
            let reason = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Reason::UpstreamRefused,
                std::io::ErrorKind::TimedOut => Reason::UpstreamTimeout,
                // It was accepted and broken at once.
                std::io::ErrorKind::ConnectionReset => Reason::UpstreamReset,
                _ => Reason::UpstreamUnreachable,
            };
            Refusal::new(reason, format!("{destination}: {error}"))
        })?;
        // Looked at now and not before: who listens there may have begun while it was connected.
        if pod.cut.is_cancelled() {
            socket::reset(connected);
            return Err(Refusal::new(Reason::Draining, "the pod is gone, and its namespace may be another one's"));
        }
        Ok(connected)
    }

    /// As [`Proxy::connect`], with the error of the system.
    ///
    /// # Errors
    /// As `connect(2)`; `EMFILE` already when only the last descriptors are left.
    pub async fn dial(&self, pod: &Pod, to: SocketAddr, from: Option<IpAddr>, limit: Duration) -> std::io::Result<TcpStream> {
        let tunnel = to.port() == port::HBONE;
        let (netns, stock) = (Some(&pod.netns), Some(&pod.sockets));
        let below = Some(self.limits.descriptors.end());
        let options = ConnectOptions { bind_source: from, mark: Some(PROXY_MARK), tunnel, netns, stock, below, timeout: limit };
        socket::connect(to, &options).await
    }
}

#[cfg(test)]
mod tests {
    use ambit_api::workload as wire;
    use ambit_model::{Reason, convert::Entry};

    use crate::test_support::{pod, proxy};

    #[tokio::test]
    async fn a_pod_and_the_node_have_no_more_connections_than_they_may() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let (proxy, one, other) = (proxy(log.path()), pod(), pod());
        let held = proxy.place(&one).unwrap_or_else(|refusal| panic!("{refusal}"));
        for (pod, whose) in [(&one, "the pod"), (&other, "the node")] {
            let refusal = proxy.place(pod).err().unwrap();
            assert_eq!(refusal.reason, Reason::ConnectionLimit);
            assert!(refusal.detail.starts_with(whose), "{refusal}");
        }
        drop(held);
        assert!(proxy.place(&other).is_ok());
    }

    #[tokio::test]
    async fn of_a_pod_whose_namespace_is_another_one_s_nobody_is_connected() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let (proxy, pod) = (proxy(log.path()), pod());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        assert!(proxy.connect(&pod, to, None).await.is_ok());
        pod.cut.cancel();
        assert_eq!(proxy.connect(&pod, to, None).await.err().unwrap().reason, Reason::Draining);
    }

    #[tokio::test]
    async fn a_pod_s_connections_wait_until_every_address_is_known_and_those_to_it_until_every_policy_is() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let (proxy, pod) = (proxy(log.path()), pod());
        let web = wire::Workload {
            uid: "Kubernetes//Pod/shop/web".to_owned(),
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            ..Default::default()
        };
        // The first of several messages: it tells of the pod, not yet of what the pod dials.
        proxy.state.write(false, |mesh| mesh.insert(Entry::Workload(Box::new(web.try_into().unwrap()))));
        assert!(proxy.source(&pod).await.is_none() && proxy.destination(&pod).await.is_none());
        proxy.state.note(|changes| changes.addresses_synced = true);
        assert!(proxy.source(&pod).await.is_some() && proxy.destination(&pod).await.is_none());
        proxy.state.note(|changes| changes.policies_synced = true);
        assert!(proxy.destination(&pod).await.is_some());
    }
}

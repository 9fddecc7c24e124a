//! The pods of this node whose traffic the proxy carries: listeners in their namespaces, and the connections behind them.

use std::{
    collections::{BTreeMap, HashSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    time::Duration,
};

use ambit_hbone::PoolKey;
use ambit_identity::{SpiffeId, TrustDomain};
use ambit_model::address::port;
use ambit_runtime::{
    drain::{self, Trigger},
    netns::NetNs,
    socket::{ListenOptions, PROXY_MARK, Stock, listen},
    sysctl,
    telemetry::Direction,
};
use ambit_zds::protocol::PodInfo;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::accept::Acceptor;
use crate::{
    Error,
    dns::{self, Dns},
    endpoints::Standings,
    inbound,
    known::Known,
    outbound,
    proxy::{Pod, Proxy},
    sources::Sources,
    worker::Workers,
};

/// How long the connections of a pod that is gone may still go on.
const POD_DRAIN: Duration = Duration::from_secs(5);

/// The pods of this node.
pub struct Pods {
    workers: Arc<Workers>,
    /// What all workers share.
    proxy: Arc<Proxy>,
    trust_domain: TrustDomain,
    /// The DNS of pods, if it is served.
    dns: Option<Arc<Dns>>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Those whose connections may still go on.
    leaving: Arc<Mutex<Vec<Arc<Pod>>>>,
    ending: TaskTracker,
}

/// A pod with the tasks that serve it.
struct Running {
    pod: Arc<Pod>,
    trigger: Trigger,
    tasks: TaskTracker,
    /// Those of `tasks` that accept.
    accepting: TaskTracker,
}

impl Pods {
    /// No pods yet; their connections will be carried by `workers`.
    #[must_use]
    pub fn new(workers: Arc<Workers>, trust_domain: TrustDomain) -> Self {
        let proxy = Arc::clone(&workers.first().shared);
        Self {
            workers,
            proxy,
            trust_domain,
            dns: None,
            running: Mutex::default(),
            leaving: Arc::default(),
            ending: TaskTracker::new(),
        }
    }

    /// As it is, with the DNS of pods served like this.
    #[must_use]
    pub fn with_dns(mut self, dns: Option<Arc<Dns>>) -> Self {
        self.dns = dns;
        self
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a pod: opens its listeners and asks for its certificate. A pod that is served already in that namespace stays as it is.
    ///
    /// # Errors
    /// When the descriptor is no network namespace, or one in which another pod is served, or a port in it is taken.
    pub async fn add(&self, info: PodInfo, netns: OwnedFd) -> Result<(), Error> {
        let place = format!("pod {}/{}", info.namespace, info.name);
        let netns =
            NetNs::from_fd(netns).map_err(|source| Error::Listen { address: "-".to_owned(), place: place.clone(), source })?;
        let identity = SpiffeId::new(self.trust_domain.clone(), info.namespace, info.service_account);
        let same = self
            .running()
            .get(&info.uid)
            .filter(|running| running.pod.netns == netns)
            .map(|running| running.pod.identity == identity);
        match same {
            Some(true) => return Ok(()),
            // With another account: nobody is to be served in the name of the one before.
            Some(false) => self.remove(&info.uid).await,
            None => {}
        }
        // Its listeners and those of the other would take each other's connections.
        let other = self
            .running()
            .iter()
            .find(|(uid, running)| **uid != info.uid && running.pod.netns == netns)
            .map(|(uid, _)| uid.clone());
        if let Some(uid) = other {
            return Err(Error::Occupied { place, uid });
        }
        self.cut(&info.uid, &identity, &netns);
        let places = Arc::new(Semaphore::new(self.proxy.limits.connections_per_pod));
        let (known, decisions) = (Known::default(), inbound::Decisions::default());
        let (standings, sources, sockets) = (Standings::default(), Sources::default(), Stock::new(netns.clone(), PROXY_MARK));
        let (uid, name) = (info.uid.clone(), info.name);
        let cut = CancellationToken::new();
        let pod = Arc::new(Pod { uid, name, identity, netns, sockets, places, sources, known, decisions, standings, cut });
        let started = self.start(Arc::clone(&pod), &place)?;
        tracing::info!(uid = info.uid, identity = %pod.identity, "{place} is captured");
        let before = self.running().insert(info.uid, started);
        // At once, so that its first connection does not wait; and once it is among the pods, so that nobody takes its key for one of
        // an identity that has left.
        self.proxy.certificates.prefetch(&pod.identity);
        if let Some(before) = before {
            let _the_other_namespace = self.end(before, POD_DRAIN);
            // It may have come back with another account.
            self.forget_keys();
        }
        Ok(())
    }

    fn start(&self, pod: Arc<Pod>, place: &str) -> Result<Running, Error> {
        leave_connections(&pod.netns);
        let (outbound, plaintext, hbone, resolving) = {
            let _its_listeners = self.workers.first().enter();
            let listen = |port| open(&pod, port, place);
            let resolving = self.dns.as_ref().map(|dns| dns.listen(&self.proxy, &pod, place)).transpose()?;
            (listen(port::OUTBOUND)?, listen(port::INBOUND_PLAINTEXT)?, listen(port::HBONE)?, resolving)
        };
        let (trigger, watch) = drain::channel();
        let workers = Arc::clone(&self.workers);
        let (tasks, accepting) = (TaskTracker::new(), TaskTracker::new());
        let acceptor = Acceptor { workers, watch, cut: pod.cut.clone(), tasks, accepting };
        let own = Arc::clone(&pod);
        acceptor
            .run(outbound, Direction::Outbound, move |proxy, io, from, _| outbound::handle(proxy, Arc::clone(&own), io, from));
        let own = Arc::clone(&pod);
        acceptor.run(plaintext, Direction::Inbound, move |proxy, io, from, _| {
            inbound::plaintext::handle(proxy, Arc::clone(&own), io, from)
        });
        let own = Arc::clone(&pod);
        acceptor.run(hbone, Direction::Inbound, move |proxy, io, from, watch| {
            inbound::hbone::handle(proxy, Arc::clone(&own), io, from, watch)
        });
        if let Some(resolving) = resolving {
            self.resolve(&acceptor, resolving);
        }
        self.proxy.near.add(&self.proxy, Arc::clone(&pod), acceptor.watch.clone(), &acceptor.tasks);
        Ok(Running { pod, trigger, tasks: acceptor.tasks, accepting: acceptor.accepting })
    }

    fn resolve(&self, acceptor: &Acceptor, resolving: dns::Listening) {
        for listener in resolving.tcp {
            let dns = Arc::clone(&resolving.dns);
            let serve = move |_, io, _, watch| Box::pin(dns::serve_tcp(Arc::clone(&dns), io, watch));
            acceptor.run(listener, Direction::Outbound, serve);
        }
        for socket in resolving.udp {
            let (watch, cut, tasks) = (acceptor.watch.clone(), acceptor.cut.clone(), acceptor.tasks.clone());
            let serving = dns::serve_udp(Arc::clone(&resolving.dns), socket, watch, cut, tasks);
            acceptor.tasks.spawn_on(acceptor.accepting.track_future(serving), self.workers.first().handle());
        }
    }

    /// Stops serving a pod. Unknown pods are no error. When this returns, nothing is accepted for it any more: its namespace may be another
    /// pod's by then. Its connections have a while to end.
    pub async fn remove(&self, uid: &str) {
        let removed = self.running().remove(uid);
        if let Some(running) = removed {
            tracing::info!(uid, "pod {} is no longer captured", running.pod.name);
            self.proxy.near.release(&running.pod);
            let accepting = self.end(running, POD_DRAIN);
            self.forget_keys();
            accepting.wait().await;
        }
    }

    /// Stops serving every pod that is not in `uids`.
    pub async fn retain(&self, uids: &HashSet<String>) {
        let gone: Vec<String> = self.running().keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        futures::future::join_all(gone.iter().map(|uid| self.remove(uid))).await;
    }

    /// The pods that are served now.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.running().values().map(|running| Arc::clone(&running.pod)).collect()
    }

    /// Whether this pod is served.
    #[must_use]
    pub fn serves(&self, uid: &str) -> bool {
        self.running().contains_key(uid)
    }

    /// Keys are held for the identities that run on this node and for no other.
    fn forget_keys(&self) {
        let here: HashSet<SpiffeId> = self.running().values().map(|running| running.pod.identity.clone()).collect();
        self.proxy.certificates.retain(&here);
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Pod>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This pod takes a namespace: what an earlier one of it still has ends now, for the next to be connected would be this one, under
    /// the name and the policies of the other.
    fn cut(&self, uid: &str, identity: &SpiffeId, netns: &NetNs) {
        let is_other = |pod: &&Arc<Pod>| pod.netns == *netns && (pod.uid != uid || pod.identity != *identity);
        self.leaving().iter().filter(is_other).for_each(|pod| pod.cut.cancel());
    }

    /// The namespace of a pod that has left is another's, which another proxy serves.
    pub fn replaced(&self, uid: &str) {
        let leaving = self.leaving();
        let its = leaving.iter().filter(|pod| pod.uid == uid && !pod.cut.is_cancelled());
        its.for_each(|pod| {
            tracing::info!(uid, "the connections of pod {} are ended, as its namespace is another pod's by now", pod.name);
            pod.cut.cancel();
        });
    }

    /// Completes when no pod is served any more, and all their connections have ended.
    pub async fn ended(&self) {
        self.ending.wait().await;
    }

    /// Ends it, and gives what ends when nothing more is accepted.
    fn end(&self, running: Running, deadline: Duration) -> TaskTracker {
        self.proxy.near.remove(&running.pod);
        running.trigger.begin();
        running.accepting.close();
        let accepting = running.accepting.clone();
        self.leaving().push(Arc::clone(&running.pod));
        let (workers, leaving) = (Arc::clone(&self.workers), Arc::clone(&self.leaving));
        self.ending.spawn(async move {
            running.trigger.drain(deadline).await;
            running.pod.cut.cancel();
            running.tasks.close();
            running.tasks.wait().await;
            // Nobody else uses them, not even a pod that has taken its place with its address: they are of its namespace.
            let Pod { netns, identity, .. } = &*running.pod;
            let its = |key: &PoolKey| key.netns == Some(netns.inode()) && key.source == *identity;
            workers.proxies().for_each(|proxy| proxy.pool.retire(its));
            leaving.lock().unwrap_or_else(PoisonError::into_inner).retain(|pod| !Arc::ptr_eq(pod, &running.pod));
        });
        accepting
    }

    /// Stops serving all pods; their connections have `deadline` to finish.
    pub async fn shutdown(&self, deadline: Duration) {
        let all = std::mem::take(&mut *self.running());
        for running in all.into_values() {
            let _with_its_connections = self.end(running, deadline);
        }
        self.ending.close();
        self.ending.wait().await;
    }
}

/// Listens in the pod on both address families; on IPv4 alone where there is no IPv6.
fn open(pod: &Pod, port: u16, place: &str) -> Result<TcpListener, Error> {
    let tunnel = port == port::HBONE;
    let options =
        ListenOptions { mark: Some(PROXY_MARK), reuse_port: true, tunnel, netns: Some(&pod.netns), ..ListenOptions::default() };
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    listen(both, &options)
        .or_else(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::AFNOSUPPORT.raw_os_error() => {
                listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), &options)
            }
            _ => Err(error),
        })
        .map_err(|source| Error::Listen { address: both.to_string(), place: place.to_owned(), source })
}

/// Has the kernel give connections that are not accepted yet to another listener of the same port when theirs is closed (Linux 5.14,
/// `tcp_migrate_req`): to the proxy that takes the place of this one. Where it cannot, those of that moment are reset.
fn leave_connections(netns: &NetNs) {
    static TOLD: Once = Once::new();
    if let Err(error) = sysctl::set(netns, "ipv4/tcp_migrate_req", "1") {
        TOLD.call_once(|| {
            tracing::warn!(%error, "net.ipv4.tcp_migrate_req cannot be set in pods: when another proxy takes over, connections of that moment are reset");
        });
    }
}

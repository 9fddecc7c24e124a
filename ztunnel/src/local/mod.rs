//! Connections whose two ends are pods of this node: decided as always, and then carried without network and cryptography.
//!
//! Nothing here decides who may connect: the plan, the admission and the authorization are those of the tunnel. A connection is taken
//! from the tunnel only when it is certain that the pod behind the tunnel is served here; else the tunnel finds out.

mod direct;
pub(crate) mod relay;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_model::{
    plan::{Hbone, Hop},
    workload::Workload,
};
use ambit_runtime::drain::Watch;
use tokio_util::task::TaskTracker;

use crate::proxy::{Pod, Proxy};
use direct::{Arrival, Direct, Sockets};

/// How long it is remembered by which number an endpoint was picked, and for how many connections.
const PICKED_FOR: Duration = Duration::from_secs(5);
/// How long after they were read a pod's addresses are not read again, whatever is asked for.
const ADDRESSES_AGAIN: Duration = Duration::from_secs(1);
const PICKED_MOST: usize = 4096;

/// How connections between two pods of this node are carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNode {
    /// Through a tunnel, as between nodes.
    Tunnel,
    /// Joined in this process.
    #[default]
    Relay,
    /// By the kernel alone, once this process has decided about the first packet. For nodes on which packets between two of their pods
    /// do not leave the node.
    Direct,
}

/// A pod that is served here, as the other end of a connection.
pub struct Neighbour {
    pub(crate) pod: Arc<Pod>,
    /// Held by its connections, so that its drain waits for them.
    pub(crate) watch: Watch,
    /// Addresses that are known to be in its namespace.
    own: RwLock<Own>,
    /// Whether it has left the mesh.
    released: Arc<AtomicBool>,
    /// Asks about its sockets.
    sockets: Mutex<Option<Sockets>>,
}

/// Addresses of a namespace.
struct Own {
    list: Vec<IpAddr>,
    /// When they were read.
    read: Instant,
}

impl fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbour").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Neighbour {
    /// Asks about the pod's sockets, with what is made when it is needed first.
    fn sockets<T>(&self, ask: impl FnOnce(&Sockets) -> io::Result<T>) -> io::Result<T> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sockets {
            Some(sockets) => ask(sockets),
            none => ask(none.insert(Sockets::open(&self.pod.netns)?)),
        }
    }

    /// Whether `ip` is an address of the pod's own namespace. The control plane says so too, but what it says may be of an earlier pod,
    /// and a connection to an address that is not there would leave the pod in clear.
    fn holds(&self, ip: IpAddr) -> bool {
        {
            let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
            if own.list.contains(&ip) || own.read.elapsed() < ADDRESSES_AGAIN {
                return own.list.contains(&ip);
            }
        }
        match self.pod.netns.addresses() {
            Ok(list) => {
                let holds = list.contains(&ip);
                *self.own.write().unwrap_or_else(PoisonError::into_inner) = Own { list, read: Instant::now() };
                holds
            }
            Err(error) => {
                tracing::debug!(%error, pod = self.pod.name, "its addresses cannot be read");
                false
            }
        }
    }
}

/// Namespace and name of a pod.
type PodName = (Box<str>, Box<str>);

/// The pods that are served here, by namespace and name. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    mode: SameNode,
    pods: Arc<RwLock<HashMap<PodName, Arc<Neighbour>>>>,
    direct: Arc<OnceLock<Option<Direct>>>,
    /// By which number an endpoint was picked for a connection that is captured all the same, and when.
    picked: Arc<Mutex<HashMap<Ends, (u64, Instant)>>>,
}

/// A client's address and the one that it dialled.
type Ends = (SocketAddr, SocketAddr);

impl Neighbours {
    /// No pods yet.
    #[must_use]
    pub fn new(mode: SameNode) -> Self {
        Self { mode, ..Self::default() }
    }

    fn key(pod: &Pod) -> PodName {
        (pod.identity.namespace().as_str().into(), pod.name.as_str().into())
    }

    /// A pod is served from now on, in place of an earlier one of its name.
    pub(crate) fn add(&self, proxy: &Arc<Proxy>, pod: Arc<Pod>, watch: Watch, tasks: &TaskTracker) {
        let key = Self::key(&pod);
        let own = RwLock::new(Own { list: pod.netns.addresses().unwrap_or_default(), read: Instant::now() });
        let released = Arc::new(AtomicBool::new(false));
        let neighbour =
            Neighbour { pod: Arc::clone(&pod), watch, own, released: Arc::clone(&released), sockets: Mutex::default() };
        let neighbour = Arc::new(neighbour);
        let weak = Arc::downgrade(&neighbour);
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(key, neighbour);
        if let Some(direct) = self.direct(proxy) {
            direct.serve(Arrival { neighbour: weak, pod, released, _until_the_end: tasks.token() });
        }
    }

    fn direct(&self, proxy: &Arc<Proxy>) -> Option<&Direct> {
        let start = || match Direct::start(Arc::clone(proxy)) {
            Ok(direct) => Some(direct),
            Err(error) => {
                tracing::warn!(%error, "connections on the node are joined by the proxy");
                None
            }
        };
        if self.mode == SameNode::Direct { self.direct.get_or_init(start).as_ref() } else { None }
    }

    /// A pod leaves the mesh. To be called before [`Neighbours::remove`].
    pub(crate) fn release(&self, pod: &Pod) {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = pods.get(&Self::key(pod)) {
            found.released.store(true, Ordering::Relaxed);
        }
    }

    fn picked(&self) -> MutexGuard<'_, HashMap<Ends, (u64, Instant)>> {
        self.picked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers by which number an endpoint was picked for a connection that will be captured now.
    fn remember(&self, ends: Ends, random: u64) {
        let mut picked = self.picked();
        if picked.len() >= PICKED_MOST {
            picked.retain(|_, (_, since)| since.elapsed() < PICKED_FOR);
        }
        if picked.len() < PICKED_MOST {
            picked.insert(ends, (random, Instant::now()));
        }
    }

    /// The number to pick an endpoint by for this connection.
    pub(crate) fn random(&self, from: SocketAddr, destination: SocketAddr) -> u64 {
        let remembered = if self.mode == SameNode::Direct { self.picked().remove(&(from, destination)) } else { None };
        remembered.map_or_else(|| fastrand::u64(..), |(random, _)| random)
    }

    /// A pod is no longer served. To be called before it is drained.
    pub(crate) fn remove(&self, pod: &Arc<Pod>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(pod);
        // One of the same name may have taken its place.
        if pods.get(&key).is_some_and(|found| Arc::ptr_eq(&found.pod, pod)) {
            pods.remove(&key);
        }
    }

    /// Whether a pod that is served here has this address.
    fn is_address(&self, ip: IpAddr) -> bool {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.values().any(|near| near.own.read().unwrap_or_else(PoisonError::into_inner).list.contains(&ip))
    }

    fn get(&self, workload: &Workload) -> Option<Arc<Neighbour>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        if self.mode == SameNode::Tunnel || pods.is_empty() {
            return None;
        }
        pods.get(&(workload.namespace.as_str().into(), (*workload.name).into())).cloned()
    }
}

/// The pod at the end of `plan`, if it is certain that it is served here and that the tunnel would reach it as the same client. In every
/// other case the connection is the tunnel's, and so is the refusal when there is something to refuse.
pub(crate) async fn find(
    proxy: &Proxy,
    client: &Pod,
    source: &Workload,
    from: SocketAddr,
    plan: &Hbone,
) -> Option<Arc<Neighbour>> {
    let near = certain(proxy, source, from, plan)?;
    // Who is not given a certificate, for the authority does not believe in it or it has expired, has no identity here either.
    proxy.certificates.get(&client.identity).await.ok()?;
    proxy.certificates.get(&near.pod.identity).await.ok()?;
    Some(near)
}

/// As [`find`], but for the certificates.
fn certain(proxy: &Proxy, source: &Workload, from: SocketAddr, plan: &Hbone) -> Option<Arc<Neighbour>> {
    let workload = plan.target.workload.as_ref().filter(|workload| plan.hop == Hop::Endpoint && !workload.host_network)?;
    let near = proxy.near.get(workload)?;
    let same_workload = || {
        let found = proxy.state.read(|mesh| proxy.workload_of(mesh, &near.pod));
        found.is_some_and(|found| found.uid == workload.uid)
    };
    // By another address than the pod's own a tunnel would not show: a client may bind what it likes, a tunnel may not.
    let honest = source.addresses.contains(&from.ip()) && from.is_ipv4() == plan.dial.is_ipv4();
    let certain = honest
        && plan.expected.contains(&near.pod.identity)
        && !near.watch.is_draining()
        && same_workload()
        && near.holds(plan.dial.ip());
    certain.then_some(near)
}

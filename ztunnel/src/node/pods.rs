//! The pods of this node whose traffic the proxy carries: listeners in their namespaces, and the connections behind them.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_identity::{SpiffeId, TrustDomain};
use ambit_model::address::port;
use ambit_runtime::{
    drain::{self, Trigger, Watch},
    netns::NetNs,
    socket::{ListenOptions, PROXY_MARK, listen},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::protocol::PodInfo;
use crate::{
    Error, inbound, outbound,
    proxy::{Pod, Proxy},
};

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the connections of a pod that is gone may still go on.
const POD_DRAIN: Duration = Duration::from_secs(5);

/// The pods of this node.
pub struct Pods {
    proxy: Arc<Proxy>,
    trust_domain: TrustDomain,
    running: Mutex<BTreeMap<String, Running>>,
    ending: TaskTracker,
}

/// A pod with the tasks that serve it.
struct Running {
    pod: Arc<Pod>,
    trigger: Trigger,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Pods {
    /// No pods yet.
    #[must_use]
    pub fn new(proxy: Arc<Proxy>, trust_domain: TrustDomain) -> Self {
        Self { proxy, trust_domain, running: Mutex::default(), ending: TaskTracker::new() }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a pod: opens its listeners and asks for its certificate. A pod that is served already in that namespace stays as it is.
    ///
    /// # Errors
    /// When the descriptor is no network namespace or a port in it is taken.
    pub fn add(&self, info: PodInfo, netns: OwnedFd) -> Result<(), Error> {
        let place = format!("pod {}/{}", info.namespace, info.name);
        let netns =
            NetNs::from_fd(netns).map_err(|source| Error::Listen { address: "-".to_owned(), place: place.clone(), source })?;
        let identity = SpiffeId::new(self.trust_domain.clone(), info.namespace, info.service_account);
        let known =
            self.running().get(&info.uid).is_some_and(|running| running.pod.netns == netns && running.pod.identity == identity);
        if known {
            return Ok(());
        }
        let places = Arc::new(Semaphore::new(self.proxy.limits.connections_per_pod));
        let pod = Arc::new(Pod { uid: info.uid.clone(), name: info.name, identity, netns, places });
        let started = self.start(Arc::clone(&pod), &place)?;
        self.proxy.certificates.prefetch(&pod.identity);
        tracing::info!(uid = info.uid, identity = %pod.identity, "{place} is captured");
        let before = self.running().insert(info.uid, started);
        if let Some(before) = before {
            self.end(before, POD_DRAIN);
        }
        Ok(())
    }

    fn start(&self, pod: Arc<Pod>, place: &str) -> Result<Running, Error> {
        let outbound = open(&pod, port::OUTBOUND, place)?;
        let plaintext = open(&pod, port::INBOUND_PLAINTEXT, place)?;
        let hbone = open(&pod, port::HBONE, place)?;
        let (trigger, watch) = drain::channel();
        let acceptor = Acceptor { watch, cut: CancellationToken::new(), tasks: TaskTracker::new() };
        let proxy = || (Arc::clone(&self.proxy), Arc::clone(&pod));
        let (shared, own) = proxy();
        acceptor.run(outbound, move |io, _| outbound::handle(Arc::clone(&shared), Arc::clone(&own), io));
        let (shared, own) = proxy();
        acceptor.run(plaintext, move |io, _| inbound::plaintext::handle(Arc::clone(&shared), Arc::clone(&own), io));
        let (shared, own) = proxy();
        acceptor.run(hbone, move |io, watch| inbound::hbone::handle(Arc::clone(&shared), Arc::clone(&own), io, watch));
        self.proxy.near.add(Arc::clone(&pod), acceptor.watch.clone(), acceptor.cut.clone());
        Ok(Running { pod, trigger, cut: acceptor.cut, tasks: acceptor.tasks })
    }

    /// Stops serving a pod. Unknown pods are no error.
    pub fn remove(&self, uid: &str) {
        let removed = self.running().remove(uid);
        if let Some(running) = removed {
            tracing::info!(uid, "pod {} is no longer captured", running.pod.name);
            self.proxy.pool.forget(&running.pod.identity);
            self.end(running, POD_DRAIN);
            self.forget_keys();
        }
    }

    /// Stops serving every pod that is not in `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        let gone: Vec<String> = self.running().keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.remove(uid));
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

    fn end(&self, running: Running, deadline: Duration) {
        self.proxy.near.remove(&running.pod);
        self.ending.spawn(async move {
            running.trigger.drain(deadline).await;
            running.cut.cancel();
            running.tasks.close();
            running.tasks.wait().await;
        });
    }

    /// Stops serving all pods; their connections have `deadline` to finish.
    pub async fn shutdown(&self, deadline: Duration) {
        let all = std::mem::take(&mut *self.running());
        for running in all.into_values() {
            self.end(running, deadline);
        }
        self.ending.close();
        self.ending.wait().await;
    }
}

/// Listens in the pod on both address families; on IPv4 alone where there is no IPv6.
fn open(pod: &Pod, port: u16, place: &str) -> Result<TcpListener, Error> {
    let options = ListenOptions { mark: Some(PROXY_MARK), reuse_port: true, netns: Some(&pod.netns), ..ListenOptions::default() };
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

/// Accepts connections of one pod and owns the tasks that carry them.
struct Acceptor {
    watch: Watch,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    fn run<H, F>(&self, listener: TcpListener, handle: H)
    where
        H: Fn(TcpStream, Watch) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (watch, cut, tasks) = (self.watch.clone(), self.cut.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = watch.draining() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((io, _)) => {
                        // The watch lives as long as the connection, so that a drain waits for it.
                        let (watch, cut) = (watch.clone(), cut.clone());
                        let work = Box::pin(handle(io, watch.clone()));
                        tasks.spawn(async move {
                            let _until_the_end = watch;
                            tokio::select! {
                                () = work => {}
                                () = cut.cancelled() => {}
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }
}

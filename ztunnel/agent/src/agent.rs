//! The agent: captures pods, keeps them captured, hands them to the node proxies, lets them go.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ambit_runtime::netns::NetNs;
use ambit_zds::seqpacket::Listener;
use tokio::{sync::watch, task::JoinHandle};

pub use ambit_zds::protocol::PodInfo;

use crate::{
    Error,
    keeper::{self, Kept},
    proxies::{self, Handed, Proxies},
    rules::Rules,
    status::{self, PodStatus, State, Statuses},
    verdict::Offer,
};

/// What became of a pod that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// A proxy serves it.
    Accepted,
    /// No proxy is connected. The rules are in force, so that its connections are refused until one comes and takes it.
    Waiting,
}

/// The agent. Dropping it closes its socket; pods keep their rules.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What the agent and the keepers of its pods share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) proxies: Arc<Proxies>,
    pods: Mutex<BTreeMap<String, Held>>,
    statuses: watch::Sender<Statuses>,
}

#[derive(Debug)]
struct Held {
    kept: Arc<Kept>,
    keeper: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.pods().values().for_each(|held| held.keeper.abort());
    }
}

impl Shared {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what is known of a pod, if it is news and the pod is still ours.
    pub(crate) fn tell(&self, status: PodStatus) {
        let pods = self.pods();
        if pods.get(&status.uid).is_none_or(|held| held.kept.pod.netns.inode() != status.netns) {
            return;
        }
        self.statuses.send_if_modified(|statuses| {
            let news = statuses.get(&status.uid) != Some(&status);
            if news {
                statuses.insert(status.uid.clone(), status);
                status::count(statuses);
            }
            news
        });
    }

    /// Forgets a pod, if it still is `kept` where that is given: its namespace is gone or about to be. The rules stay in it.
    pub(crate) async fn gone(&self, uid: &str, kept: Option<&Arc<Kept>>) {
        let known = {
            let mut pods = self.pods();
            let it = pods.get(uid).is_some_and(|held| kept.is_none_or(|kept| Arc::ptr_eq(kept, &held.kept)));
            if it { pods.remove(uid) } else { None }
        };
        let Some(held) = known else { return };
        self.forget(uid);
        if kept.is_none() {
            // To its end: it would hand the pod over again.
            held.keeper.abort();
            let _aborted = held.keeper.await;
        }
        if let Err(error) = self.proxies.remove(uid).await {
            tracing::debug!(uid, %error, "a proxy was not told that a pod is gone");
        }
    }

    fn forget(&self, uid: &str) {
        self.statuses.send_modify(|statuses| {
            statuses.remove(uid);
            status::count(statuses);
        });
    }
}

impl Agent {
    /// Listens for proxies at `path`. Rules are written as `rules` says.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path, rules: Rules) -> Result<Self, Error> {
        let listener = Listener::bind(path).map_err(Error::path("listen at", path))?;
        let proxies = Arc::new(Proxies::new());
        let shared =
            Arc::new(Shared { rules, proxies: Arc::clone(&proxies), pods: Mutex::default(), statuses: watch::Sender::default() });
        let accepting = tokio::spawn(proxies::accept(listener, proxies));
        Ok(Self { shared, accepting })
    }

    /// How many proxies are connected and have been told of all pods.
    #[must_use]
    pub fn proxies(&self) -> watch::Receiver<usize> {
        self.shared.proxies.ready()
    }

    /// The capture of all pods, as it changes.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Statuses> {
        self.shared.statuses.subscribe()
    }

    /// The rules that it writes.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Captures a pod: writes the rules into its namespace, then hands it to the newest proxy and waits for the answer.
    ///
    /// # Errors
    /// When the rules cannot be written, or the proxy refuses the pod or goes away. With rules the pod stays captured and is offered
    /// again; without, it is cut off and not kept.
    pub async fn add(&self, info: PodInfo, netns: NetNs) -> Result<Handover, Error> {
        self.add_at(info, netns, None).await
    }

    /// As [`Agent::add`], for a pod whose namespace the runtime shows at `path`: when another one shows there, the pod is gone.
    ///
    /// # Errors
    /// As [`Agent::add`].
    pub async fn add_at(&self, info: PodInfo, netns: NetNs, path: Option<PathBuf>) -> Result<Handover, Error> {
        self.leave(&netns, &info.uid).await;
        if let Err(error) = self.shared.rules.ensure(&netns).await {
            if let Err(cut) = self.shared.rules.cut(&netns).await {
                tracing::error!(uid = info.uid, %cut, "a pod that cannot be captured cannot be cut off either");
            }
            return Err(error);
        }
        let pod = Handed { info, netns };
        let kept = self.keep(pod.clone(), path).await;
        let accepted = self.shared.proxies.add(pod).await;
        kept.look.notify_one();
        Ok(if accepted? { Handover::Accepted } else { Handover::Waiting })
    }

    /// Sees that a namespace is as without a mesh: for a pod that is not in it, and starts in a namespace that another one left behind.
    ///
    /// # Errors
    /// When rules that are there cannot be removed.
    pub async fn free(&self, netns: &NetNs) -> Result<(), Error> {
        self.leave(netns, "").await;
        self.shared.rules.remove(netns).await
    }

    /// Forgets the pods that left this namespace behind, but for `uid`: they are gone, and must not lend their identity to the new one.
    async fn leave(&self, netns: &NetNs, uid: &str) {
        let before: Vec<String> = {
            let pods = self.shared.pods();
            let same = pods.iter().filter(|(other, held)| *other != uid && held.kept.pod.netns == *netns);
            same.map(|(uid, _)| uid.clone()).collect()
        };
        for uid in before {
            tracing::warn!(uid, "a pod's namespace is reused by another pod");
            self.shared.gone(&uid, None).await;
        }
    }

    /// What the newest proxy says of a pod.
    #[must_use]
    pub fn offer(&self, uid: &str) -> Offer {
        self.shared.proxies.offer(uid)
    }

    /// The namespaces of the pods that are captured.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NetNs> {
        self.shared.pods().values().map(|held| held.kept.pod.netns.clone()).collect()
    }

    async fn keep(&self, pod: Handed, path: Option<PathBuf>) -> Arc<Kept> {
        let uid = pod.info.uid.clone();
        let known = self.shared.pods().get(&uid).map(|held| Arc::clone(&held.kept));
        if let Some(known) = known {
            if known.pod.netns == pod.netns && known.pod.info == pod.info && known.path == path {
                return known;
            }
            // The keeper of the namespace before ends at its next look.
            known.phase.lock().await.let_go = true;
        }
        let kept = Arc::new(Kept::new(pod, path));
        let pending = keeper::status(&kept, &*kept.phase.lock().await, State::Pending, "the pod is being captured".to_owned());
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&self.shared), Arc::clone(&kept)));
        let before = self.shared.pods().insert(uid, Held { kept: Arc::clone(&kept), keeper });
        if let Some(before) = before {
            before.keeper.abort();
        }
        self.shared.tell(pending);
        kept
    }

    /// Lets a pod go that is no longer in the mesh: removes its rules, so that its traffic is as without a mesh, and tells every proxy.
    ///
    /// # Errors
    /// When the rules cannot be removed, or a proxy does not answer. The pod is let go all the same.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        let Some(held) = self.shared.pods().remove(uid) else { return Ok(()) };
        let removed = {
            let mut phase = held.kept.phase.lock().await;
            phase.let_go = true;
            self.shared.rules.remove(&held.kept.pod.netns).await
        };
        self.shared.forget(uid);
        self.shared.proxies.remove(uid).await.and(removed)
    }

    /// Forgets a pod whose namespace is about to go: the proxies are told, the rules stay, so that what still runs in it does not go in
    /// clear.
    pub async fn gone(&self, uid: &str) {
        self.shared.gone(uid, None).await;
    }

    /// The UIDs of the pods that are captured.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        self.shared.pods().keys().cloned().collect()
    }
}

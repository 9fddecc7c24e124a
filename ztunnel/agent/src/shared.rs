//! What is known of the pods that the agent keeps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ambit_runtime::netns::NetNs;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    keeper::Kept,
    proxies::Proxies,
    rules::Rules,
    status::{self, PodStatus, Statuses},
};

/// What the agent and the keepers of its pods share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) proxies: Arc<Proxies>,
    pods: Mutex<BTreeMap<String, Held>>,
    /// Namespaces that pods left to others, with their UIDs, until no proxy listens there for them.
    left: Mutex<Vec<(NetNs, String)>>,
    statuses: watch::Sender<Statuses>,
}

/// A pod and the task that keeps it captured.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) kept: Arc<Kept>,
    pub(crate) keeper: JoinHandle<()>,
}

impl Shared {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            proxies: Arc::new(Proxies::new()),
            pods: Mutex::default(),
            left: Mutex::default(),
            statuses: watch::Sender::default(),
        }
    }

    fn left(&self) -> MutexGuard<'_, Vec<(NetNs, String)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a pod whose namespace is another one's by now.
    pub(crate) fn leaves(&self, netns: &NetNs, uid: String) {
        self.left().push((netns.clone(), uid));
    }

    /// Forgets the pods that had this namespace.
    pub(crate) fn has_left(&self, netns: &NetNs) {
        self.left().retain(|(left, _)| left != netns);
    }

    /// A pod that had this namespace and may still be served in it.
    pub(crate) fn left_by(&self, netns: &NetNs) -> Option<String> {
        self.left().iter().find(|(left, _)| left == netns).map(|(_, uid)| uid.clone())
    }

    /// The capture of all pods, as it changes.
    pub(crate) fn statuses(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    /// Whether this is the pod that is kept under its UID.
    pub(crate) fn holds(&self, kept: &Arc<Kept>) -> bool {
        self.pods().get(&kept.pod.info.uid).is_some_and(|held| Arc::ptr_eq(&held.kept, kept))
    }

    /// Keeps a pod no longer; whether it was kept until now.
    pub(crate) fn release(&self, kept: &Arc<Kept>) -> bool {
        let mut pods = self.pods();
        let uid = &kept.pod.info.uid;
        let it = pods.get(uid).is_some_and(|held| Arc::ptr_eq(&held.kept, kept));
        it && pods.remove(uid).is_some()
    }

    /// The pods that are kept, by UID.
    pub(crate) fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
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
            // And whoever is just writing its rules sees that it is no longer wanted.
            held.kept.phase.lock().await.let_go = true;
        }
        if let Err(error) = self.proxies.remove(&held.kept.pod).await {
            tracing::debug!(uid, %error, "a proxy was not told that a pod is gone");
        }
    }

    /// Nothing is said of a pod any more.
    pub(crate) fn forget(&self, uid: &str) {
        self.statuses.send_modify(|statuses| {
            statuses.remove(uid);
            status::count(statuses);
        });
    }
}

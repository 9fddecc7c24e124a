//! The agent: captures pods, keeps them captured, hands them to the node proxies, lets them go.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use ambit_zds::seqpacket::Listener;
use tokio::{
    sync::{OwnedMutexGuard, watch},
    task::JoinHandle,
    time::Instant,
};

pub use ambit_zds::protocol::PodInfo;

use crate::{
    Error,
    keeper::{self, Kept, Phase},
    listeners::Listeners,
    proxies::{self, Handed},
    rules::Rules,
    shared::{Held, Shared},
    status::{State, Statuses},
    verdict::Offer,
};

/// How long proxies may take to close the listeners of a pod that left its namespace to another one, and the pause between two looks.
const LEFT: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_millis(20);

/// What became of a pod that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// A proxy serves it.
    Accepted,
    /// No proxy is connected, or the one that was has not answered. The rules are in force, so that the pod's connections are refused until
    /// one takes it: it is offered again by itself.
    Waiting,
}

/// The agent. Dropping it closes its socket; pods keep their rules.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    /// Until proxies are let in.
    listener: Mutex<Option<Listener>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take().inspect(JoinHandle::abort);
        self.shared.pods().values().for_each(|held| held.keeper.abort());
    }
}

impl Agent {
    /// Listens for proxies at `path`. Rules are written as `rules` says.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path, rules: Rules) -> Result<Self, Error> {
        let agent = Self::bind(path, rules)?;
        agent.accept();
        Ok(agent)
    }

    /// As [`Agent::listen`], but proxies that connect wait until [`Agent::accept`]: what they are told first they take for all pods there
    /// are, and close the connections of others.
    ///
    /// # Errors
    /// As [`Agent::listen`].
    pub fn bind(path: &Path, rules: Rules) -> Result<Self, Error> {
        let listener = Listener::bind(path).map_err(Error::path("listen at", path))?;
        Ok(Self { shared: Arc::new(Shared::new(rules)), listener: Mutex::new(Some(listener)), accepting: Mutex::default() })
    }

    /// Lets the proxies in. More than once is no error.
    pub fn accept(&self) {
        let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let accepting = tokio::spawn(proxies::accept(listener, Arc::clone(&self.shared.proxies)));
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepting);
    }

    /// How many proxies are connected and have been told of all pods.
    #[must_use]
    pub fn proxies(&self) -> watch::Receiver<usize> {
        self.shared.proxies.ready()
    }

    /// The capture of all pods, as it changes.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Statuses> {
        self.shared.statuses()
    }

    /// The rules that it writes.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Captures a pod: writes the rules into its namespace, then hands it to the newest proxy and waits for the answer.
    ///
    /// # Errors
    /// When the rules cannot be written, or the proxy refuses the pod. It is kept all the same, offered to the proxy again, and cut off as
    /// long as it has no rules; whoever does not want that says [`Agent::gone`].
    pub async fn add(&self, info: PodInfo, netns: NetNs) -> Result<Handover, Error> {
        self.add_at(info, netns, None).await
    }

    /// As [`Agent::add`], for a pod whose namespace the runtime shows at `path`: when another one shows there, the pod is gone.
    ///
    /// # Errors
    /// As [`Agent::add`].
    pub async fn add_at(&self, info: PodInfo, netns: NetNs, path: Option<PathBuf>) -> Result<Handover, Error> {
        self.leave(&netns, &info.uid).await?;
        let pod = Handed { info, netns };
        let (kept, mut phase, before) = self.keep(&pod, path).await;
        self.shared.proxies.know(&pod);
        let secured = keeper::secure(&self.shared, &kept, &mut phase).await;
        drop(phase);
        let given = async {
            secured?;
            Ok::<_, Error>(self.shared.proxies.add(pod.clone()).await)
        };
        let (given, ()) = tokio::join!(given, self.leave_proxies(before));
        let accepted = given?;
        kept.look.notify_one();
        if !self.shared.holds(&kept) {
            let _those_that_are_there = self.shared.proxies.remove(&pod).await;
            return Err(Error::Refused(format!("pod {} ended while it was captured", pod.info.uid)));
        }
        match accepted {
            Ok(true) => Ok(Handover::Accepted),
            Ok(false) | Err(Error::ProxyGone(_) | Error::Handover(_)) => Ok(Handover::Waiting),
            Err(error) => Err(error),
        }
    }

    /// Sees that a namespace is as without a mesh: for a pod that is not in it, and starts in a namespace that another one left behind.
    ///
    /// # Errors
    /// When rules that are there cannot be removed, or a proxy still serves the pod before.
    pub async fn free(&self, netns: &NetNs) -> Result<(), Error> {
        self.leave(netns, "").await?;
        self.shared.rules.remove(netns).await
    }

    /// Forgets the pods that left this namespace behind, but for `uid`: they are gone, and must not lend their identity to the new one.
    /// Waits until no proxy accepts connections for them any more.
    async fn leave(&self, netns: &NetNs, uid: &str) -> Result<(), Error> {
        let before: Vec<String> = {
            let pods = self.shared.pods();
            let same = pods.iter().filter(|(other, held)| *other != uid && held.kept.pod.netns == *netns);
            same.map(|(uid, _)| uid.clone()).collect()
        };
        for uid in before {
            tracing::warn!(uid, "a pod's namespace is reused by another pod");
            self.shared.gone(&uid, None).await;
            self.shared.leaves(netns, uid);
        }
        // A proxy that hangs has the listeners still, and would accept for the wrong pod when it goes on.
        let until = Instant::now() + LEFT;
        while let Some(uid) = self.shared.left_by(netns) {
            match Listeners::look(netns) {
                Ok(listeners) if listeners.none() => self.shared.has_left(netns),
                Ok(_) if Instant::now() < until => tokio::time::sleep(SOON).await,
                Ok(_) => return Err(Error::Refused(format!("a proxy still serves pod {uid}, whose network namespace this was"))),
                Err(error) => return Err(Error::Rules(format!("the listeners of pod {uid} cannot be looked at: {error}"))),
            }
        }
        Ok(())
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

    /// Takes the pod that had a UID before from the proxies that do not get the one that has it now.
    async fn leave_proxies(&self, before: Option<Handed>) {
        if let Some(before) = before
            && let Err(error) = self.shared.proxies.remove(&before).await
        {
            tracing::debug!(uid = before.info.uid, %error, "a proxy was not told that a pod has another sandbox");
        }
    }

    /// The keeper of a pod, with a new one if there is none for it as it is now, and the right to do something with it. And the pod that
    /// had its UID until now, if that was another one.
    async fn keep(&self, pod: &Handed, path: Option<PathBuf>) -> (Arc<Kept>, OwnedMutexGuard<Phase>, Option<Handed>) {
        let uid = &pod.info.uid;
        let mut replaced = None;
        loop {
            let known = self.shared.pods().get(uid).map(|held| Arc::clone(&held.kept));
            if let Some(known) = known {
                let mut phase = Arc::clone(&known.phase).lock_owned().await;
                if !self.shared.holds(&known) {
                    continue;
                }
                if known.pod == *pod && known.path == path {
                    return (known, phase, replaced);
                }
                phase.let_go = true;
                replaced = Some(known.pod.clone()).filter(|before| before != pod).or(replaced);
                if let Some(before) = self.shared.pods().remove(uid) {
                    before.keeper.abort();
                }
            }
            let kept = Arc::new(Kept::new(pod.clone(), path.clone()));
            // Nobody else has it yet.
            let Ok(phase) = Arc::clone(&kept.phase).try_lock_owned() else { continue };
            let pending = keeper::status(&kept, &phase, State::Pending, "the pod is being captured".to_owned());
            {
                let mut pods = self.shared.pods();
                if pods.contains_key(uid) {
                    continue;
                }
                let keeper = tokio::spawn(keeper::keep(Arc::clone(&self.shared), Arc::clone(&kept)));
                pods.insert(uid.clone(), Held { kept: Arc::clone(&kept), keeper });
            }
            self.shared.tell(pending);
            return (kept, phase, replaced);
        }
    }

    /// Lets a pod go that is no longer in the mesh: removes its rules, so that its traffic is as without a mesh, and tells every proxy.
    ///
    /// # Errors
    /// When the rules cannot be removed, or a proxy does not answer. The pod is let go all the same.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        loop {
            let Some(known) = self.shared.pods().get(uid).map(|held| Arc::clone(&held.kept)) else { return Ok(()) };
            // Until all is done: who captures the pod anew meanwhile begins when nothing of this is under way any more.
            let mut phase = known.phase.lock().await;
            if !self.shared.holds(&known) {
                continue;
            }
            phase.let_go = true;
            let removed = self.shared.rules.remove(&known.pod.netns).await;
            let told = self.shared.proxies.remove(&known.pod).await;
            // Forgotten while it was let go, it is another one by now.
            if self.shared.release(&known) {
                self.shared.forget(uid);
            }
            return told.and(removed);
        }
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

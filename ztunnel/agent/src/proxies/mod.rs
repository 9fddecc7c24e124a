//! The agent's side of the handover: hands pods to the node proxies that connect, to several at once while one replaces the other.
//!
//! A pod is added to the newest proxy only and taken away from all. When the newest goes, the one before it is given what it lacks.

mod session;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use ambit_zds::{
    protocol::{self, PodInfo},
    seqpacket::Connection,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{Error, verdict::Offer};
pub(crate) use session::accept;

/// How long a proxy may take to answer a request.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it is waited for all proxies to let a pod go. One that is still being told of the pods there are answers later, and one that
/// hangs is given up.
const LET_GO: Duration = Duration::from_secs(12);
/// Pods that were taken away and are remembered, with the inodes of their namespaces.
const REMEMBERED: usize = 256;
/// Proxies that leave and are told of them. There is one while another takes its place.
const LEAVING: usize = 4;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);

/// A pod as it is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) info: PodInfo,
    pub(crate) netns: NetNs,
}

type Requests = mpsc::Sender<(Request, oneshot::Sender<Result<(), Error>>)>;

#[derive(Debug)]
enum Request {
    Add(Handed),
    Delete(String),
}

/// The proxies that are connected.
#[derive(Debug)]
pub(crate) struct Proxies {
    state: Mutex<State>,
    ready: watch::Sender<usize>,
    /// Told when another proxy has become the newest.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Handed>,
    /// The newest last.
    proxies: Vec<Proxy>,
    next: u64,
    /// Pods that were taken away, by the inodes of their namespaces, which are not held for that; the last one last.
    left: Vec<(u64, PodInfo)>,
    /// Proxies that take no pods any more, and have connections of some still.
    leaving: Vec<Connection>,
}

#[derive(Debug)]
struct Proxy {
    number: u64,
    requests: Requests,
    /// It has been told of all pods.
    ready: bool,
    /// Pods that it was asked to take and has not answered for.
    asked: HashSet<String>,
    /// Pods that it took, as it took them.
    accepted: HashMap<String, Handed>,
    refused: BTreeMap<String, String>,
}

impl Proxies {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), ready: watch::Sender::new(0), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many proxies have been told of all pods.
    pub(crate) fn ready(&self) -> watch::Receiver<usize> {
        self.ready.subscribe()
    }

    /// What the newest proxy says of a pod; while it is still being told of the pods there are, the one before it.
    pub(crate) fn offer(&self, uid: &str) -> Offer {
        let state = self.state();
        let newest = state.proxies.iter().rev().find(|proxy| proxy.ready).or(state.proxies.last());
        match newest {
            None => Offer::Nobody,
            Some(proxy) if proxy.has(state.pods.get(uid)) => Offer::Accepted,
            Some(proxy) => proxy.refused.get(uid).map_or(Offer::Asked, |reason| Offer::Refused(reason.clone())),
        }
    }

    fn has(&self, number: u64, pod: &Handed) -> bool {
        self.state().proxies.iter().any(|proxy| proxy.number == number && proxy.has(Some(pod)))
    }

    /// From now on whoever comes gets this pod.
    pub(crate) fn know(&self, pod: &Handed) {
        let mut state = self.state();
        if state.pods.insert(pod.info.uid.clone(), pod.clone()).as_ref() != Some(pod) {
            state.tell_leaving(pod);
        }
    }

    /// A proxy has ended its side, and closes the other when its last connections have ended.
    fn leaves(&self, connection: Connection) {
        let mut state = self.state();
        // What has happened while it was here it heard as that pods were taken away, and not who came in their place.
        let packets: Vec<Vec<u8>> = state.pods.values().flat_map(|pod| state.replaced_by(pod)).collect();
        if packets.iter().all(|packet| connection.send_at_once(packet).is_ok()) {
            if state.leaving.len() >= LEAVING {
                // One that was killed has ended its side as well, and is known by a packet that names nobody.
                let nobody = protocol::delete("");
                state.leaving.retain(|proxy| proxy.send_at_once(&nobody).is_ok());
            }
            if state.leaving.len() >= LEAVING {
                state.leaving.remove(0);
            }
            state.leaving.push(connection);
        }
    }

    /// Gives a pod to the newest proxy; `false` when there is none. Whoever comes next gets it too.
    pub(crate) async fn add(&self, pod: Handed) -> Result<bool, Error> {
        self.know(&pod);
        let newest = self.state().proxies.last().map(Proxy::line);
        match newest {
            None => Ok(false),
            Some((number, requests)) => self.ask(number, &requests, Request::Add(pod)).await.map(|()| true),
        }
    }

    /// As [`Proxies::add`], but the newest proxy is not asked once more while it owes the answer, nor before it has been told of all pods.
    pub(crate) async fn remind(&self, pod: Handed) -> Result<bool, Error> {
        let owed = {
            let state = self.state();
            state.proxies.last().is_some_and(|proxy| !proxy.ready || proxy.asked.contains(&pod.info.uid))
        };
        if owed { Ok(false) } else { self.add(pod).await }
    }

    /// Takes a pod away from all proxies. If another one has its UID by now, only from the older ones: the newest is given that one in its
    /// place, they would go on serving the one before. Those that go away meanwhile do not serve it either.
    pub(crate) async fn remove(&self, pod: &Handed) -> Result<(), Error> {
        let uid = &pod.info.uid;
        let proxies = {
            let mut state = self.state();
            state.remember(pod);
            if state.pods.get(uid).is_none_or(|now| now == pod) {
                state.pods.remove(uid);
                state.proxies.iter().map(Proxy::line).collect()
            } else {
                let older = state.proxies.split_last().map(|(_, older)| older).unwrap_or_default();
                let serving = older.iter().filter(|proxy| proxy.asked.contains(uid) || proxy.has(Some(pod)));
                serving.map(Proxy::line).collect()
            }
        };
        self.delete(uid, proxies, LET_GO).await
    }

    /// Takes a pod away from all proxies; it stays one that is handed over.
    pub(crate) async fn take_back(&self, uid: &str) -> Result<(), Error> {
        let proxies = self.state().proxies.iter().map(Proxy::line).collect();
        self.delete(uid, proxies, LET_GO).await
    }

    async fn delete(&self, uid: &str, proxies: Vec<(u64, Requests)>, patience: Duration) -> Result<(), Error> {
        let asked = proxies.iter().map(|(number, requests)| self.ask(*number, requests, Request::Delete(uid.to_owned())));
        // What they were asked they do all the same, when they come to it.
        let answers = tokio::time::timeout(patience, futures::future::join_all(asked)).await;
        let mut outcome = Ok(());
        for answer in answers.map_err(|_| Error::Unanswered(uid.to_owned()))? {
            match answer {
                Ok(()) | Err(Error::ProxyGone(_)) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Ends the connection of a proxy, which is told of all pods anew when it comes back.
    fn give_up(&self, number: u64) {
        tracing::warn!("a node proxy does not take what it is asked, and is given up");
        self.state().proxies.retain(|proxy| proxy.number != number);
    }

    /// Whether a proxy is connected and has not been given up.
    fn is_listed(&self, number: u64) -> bool {
        self.state().proxies.iter().any(|proxy| proxy.number == number)
    }

    async fn ask(&self, number: u64, requests: &Requests, request: Request) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let uid = request.uid().to_owned();
        let gone = || Error::ProxyGone(uid.clone());
        // Whoever lets it wait so long would never hear of this.
        let place = match tokio::time::timeout(ANSWER, requests.reserve()).await {
            Ok(place) => place.map_err(|_| gone())?,
            Err(_) => {
                self.give_up(number);
                return Err(gone());
            }
        };
        if matches!(request, Request::Add(_)) {
            let mut state = self.state();
            state.proxies.iter_mut().filter(|proxy| proxy.number == number).for_each(|proxy| _ = proxy.asked.insert(uid.clone()));
        }
        place.send((request, reply));
        // Before it come the pods of the snapshot; each has its own limit.
        while self.state().proxies.iter().any(|proxy| proxy.number == number && !proxy.ready) {
            tokio::time::sleep(PAUSE).await;
        }
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(gone()),
        }
    }

    /// Notes what a proxy answered.
    fn note(&self, number: u64, request: &Noted, answer: &Result<(), Error>) {
        let mut state = self.state();
        let Some(proxy) = state.proxies.iter_mut().find(|proxy| proxy.number == number) else { return };
        let uid = &request.uid;
        proxy.accepted.remove(uid);
        proxy.refused.remove(uid);
        let Some(pod) = &request.adds else { return };
        proxy.asked.remove(uid);
        match answer {
            Ok(()) => _ = proxy.accepted.insert(uid.clone(), pod.clone()),
            Err(Error::PodRefused { reason, .. }) => _ = proxy.refused.insert(uid.clone(), reason.clone()),
            // It is gone, and about to be taken off the list.
            Err(_) => {}
        }
    }
}

/// Whether connections of one are not the other's.
fn is_other(one: &PodInfo, other: &PodInfo) -> bool {
    one.uid != other.uid || one.namespace != other.namespace || one.service_account != other.service_account
}

impl State {
    fn remember(&mut self, pod: &Handed) {
        if self.left.len() >= REMEMBERED {
            self.left.remove(0);
        }
        self.left.push((pod.netns.inode(), pod.info.clone()));
    }

    /// What proxies that leave are told for each other pod that was in the namespace of this one. Should that be another namespace with the same
    /// inode, the pod has left all the same.
    fn replaced_by<'a>(&'a self, now: &'a Handed) -> impl Iterator<Item = Vec<u8>> + 'a {
        let inode = now.netns.inode();
        let before = self.left.iter().filter(move |(netns, before)| *netns == inode && is_other(before, &now.info));
        before.map(|(_, before)| protocol::delete(&before.uid))
    }

    /// Those that cannot be told are gone.
    fn tell_leaving(&mut self, now: &Handed) {
        let packets: Vec<Vec<u8>> = self.replaced_by(now).collect();
        self.leaving.retain(|proxy| packets.iter().all(|packet| proxy.send_at_once(packet).is_ok()));
    }
}

impl Proxy {
    /// How it is asked.
    fn line(&self) -> (u64, Requests) {
        (self.number, self.requests.clone())
    }

    /// Whether it took this pod as it is now.
    fn has(&self, pod: Option<&Handed>) -> bool {
        pod.is_some_and(|pod| self.accepted.get(&pod.info.uid) == Some(pod))
    }
}

/// What remains of a request after it was sent.
struct Noted {
    uid: String,
    /// The pod that it adds.
    adds: Option<Handed>,
}

impl Request {
    fn uid(&self) -> &str {
        match self {
            Self::Add(pod) => &pod.info.uid,
            Self::Delete(uid) => uid,
        }
    }

    fn noted(&self) -> Noted {
        let adds = match self {
            Self::Add(pod) => Some(pod.clone()),
            Self::Delete(_) => None,
        };
        Noted { uid: self.uid().to_owned(), adds }
    }
}

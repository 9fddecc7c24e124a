//! The agent's side of the handover: hands pods to the node proxies that connect, to several at once while one replaces the other.
//!
//! A pod is added to the newest proxy only and taken away from all. When the newest goes, the one before it is given what it lacks.

use std::{
    collections::{BTreeMap, HashSet},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use ambit_zds::{
    protocol::{self, PodInfo},
    seqpacket::{Connection, Listener, Packet},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{Error, verdict::Offer};

/// How long a proxy may take to answer a request.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);
/// Requests to one proxy that wait for it.
const QUEUE: usize = 256;

/// A pod as it is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) info: PodInfo,
    pub(crate) netns: NetNs,
}

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
}

#[derive(Debug)]
struct Proxy {
    number: u64,
    requests: mpsc::Sender<(Request, oneshot::Sender<Result<(), Error>>)>,
    ready: bool,
    accepted: HashSet<String>,
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

    /// What the newest proxy says of a pod.
    pub(crate) fn offer(&self, uid: &str) -> Offer {
        let state = self.state();
        match state.proxies.last() {
            None => Offer::Nobody,
            Some(proxy) if proxy.accepted.contains(uid) => Offer::Accepted,
            Some(proxy) => proxy.refused.get(uid).map_or(Offer::Asked, |reason| Offer::Refused(reason.clone())),
        }
    }

    fn has(&self, number: u64, uid: &str) -> bool {
        self.state().proxies.iter().any(|proxy| proxy.number == number && proxy.accepted.contains(uid))
    }

    /// Gives a pod to the newest proxy; `false` when there is none. Whoever comes next gets it too.
    pub(crate) async fn add(&self, pod: Handed) -> Result<bool, Error> {
        let newest = {
            let mut state = self.state();
            let uid = pod.info.uid.clone();
            if state.pods.insert(uid.clone(), pod.clone()).is_some_and(|before| before != pod) {
                state.proxies.iter_mut().for_each(|proxy| _ = proxy.accepted.remove(&uid));
            }
            state.proxies.last().map(|proxy| (proxy.number, proxy.requests.clone()))
        };
        match newest {
            None => Ok(false),
            Some((number, requests)) => self.ask(number, &requests, Request::Add(pod)).await.map(|()| true),
        }
    }

    /// Takes a pod away from all proxies. Those that go away meanwhile do not serve it either.
    pub(crate) async fn remove(&self, uid: &str) -> Result<(), Error> {
        self.state().pods.remove(uid);
        self.take_back(uid).await
    }

    /// Takes a pod away from all proxies; it stays one that is handed over.
    pub(crate) async fn take_back(&self, uid: &str) -> Result<(), Error> {
        let proxies: Vec<_> = self.state().proxies.iter().map(|proxy| (proxy.number, proxy.requests.clone())).collect();
        let asked = proxies.iter().map(|(number, requests)| self.ask(*number, requests, Request::Delete(uid.to_owned())));
        let mut outcome = Ok(());
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(()) | Err(Error::ProxyGone(_)) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn ask(
        &self,
        number: u64,
        requests: &mpsc::Sender<(Request, oneshot::Sender<Result<(), Error>>)>,
        request: Request,
    ) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let uid = request.uid().to_owned();
        let gone = || Error::ProxyGone(uid.clone());
        requests.send((request, reply)).await.map_err(|_| gone())?;
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
        match answer {
            Ok(()) if request.adds => _ = proxy.accepted.insert(uid.clone()),
            Err(error) if request.adds => _ = proxy.refused.insert(uid.clone(), error.to_string()),
            _ => {}
        }
    }
}

/// What remains of a request after it was sent.
struct Noted {
    uid: String,
    adds: bool,
}

impl Request {
    fn uid(&self) -> &str {
        match self {
            Self::Add(pod) => &pod.info.uid,
            Self::Delete(uid) => uid,
        }
    }

    fn noted(&self) -> Noted {
        Noted { uid: self.uid().to_owned(), adds: matches!(self, Self::Add(_)) }
    }
}

/// Accepts proxies for ever.
pub(crate) async fn accept(listener: Listener, proxies: Arc<Proxies>) {
    let mut serving = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    let proxies = Arc::clone(&proxies);
                    serving.spawn(async move {
                        if let Err(error) = serve(&connection, &proxies).await {
                            tracing::info!(%error, "a node proxy went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a node proxy");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = serving.join_next() => {}
        }
    }
}

/// Takes the proxy off the list however its connection ends.
struct Registered<'a> {
    proxies: &'a Proxies,
    number: u64,
    ready: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.proxies.state().proxies.retain(|proxy| proxy.number != self.number);
        if self.ready {
            self.proxies.ready.send_modify(|ready| *ready -= 1);
        }
        self.proxies.changed.notify_waiters();
    }
}

async fn serve(connection: &Connection, proxies: &Proxies) -> Result<(), Error> {
    let hello = tokio::time::timeout(ANSWER, receive(connection)).await.map_err(|_| Error::ProxyGone("-".to_owned()))??;
    protocol::read_hello(&hello)?;
    let (requests, mut queue) = mpsc::channel(QUEUE);
    // Listed and copied under one lock: what is added later comes through the queue.
    let (snapshot, mut registered) = {
        let mut state = proxies.state();
        let number = state.next;
        state.next += 1;
        let proxy = Proxy { number, requests, ready: false, accepted: HashSet::new(), refused: BTreeMap::new() };
        state.proxies.push(proxy);
        (state.pods.values().cloned().collect::<Vec<_>>(), Registered { proxies, number, ready: false })
    };
    let number = registered.number;
    for pod in snapshot {
        let uid = pod.info.uid.clone();
        match request(connection, proxies, number, Request::Add(pod)).await {
            Err(error @ Error::PodRefused { .. }) => tracing::error!(uid, %error, "a pod is not served"),
            other => other?,
        }
    }
    exchange(connection, &protocol::snapshot_sent(), None, "-").await?;
    registered.ready = true;
    proxies.state().proxies.iter_mut().filter(|proxy| proxy.number == number).for_each(|proxy| proxy.ready = true);
    proxies.ready.send_modify(|ready| *ready += 1);
    proxies.changed.notify_waiters();
    loop {
        let (asked, reply) = tokio::select! {
            asked = queue.recv() => match asked {
                Some(asked) => asked,
                None => return Ok(()),
            },
            // Between requests a proxy says nothing; that something comes means that it is gone.
            _ = receive(connection) => return Err(Error::ProxyGone("-".to_owned())),
        };
        // It came with the snapshot, to which it was added while the proxy took that.
        let has = matches!(&asked, Request::Add(pod) if proxies.has(number, &pod.info.uid));
        let answer = if has { Ok(()) } else { request(connection, proxies, number, asked).await };
        let broken = matches!(answer, Err(Error::Handover(_) | Error::ProxyGone(_)));
        // Whoever asked may have given up.
        let _given_up = reply.send(answer);
        if broken {
            return Err(Error::ProxyGone("-".to_owned()));
        }
    }
}

async fn request(connection: &Connection, proxies: &Proxies, number: u64, request: Request) -> Result<(), Error> {
    let noted = request.noted();
    let answer = match request {
        Request::Add(pod) => exchange(connection, &protocol::add(&pod.info), Some(&pod.netns), &pod.info.uid).await,
        Request::Delete(uid) => exchange(connection, &protocol::delete(&uid), None, &uid).await,
    };
    proxies.note(number, &noted, &answer);
    answer
}

async fn exchange(connection: &Connection, packet: &[u8], netns: Option<&NetNs>, uid: &str) -> Result<(), Error> {
    connection.send(packet, netns.map(AsFd::as_fd)).await.map_err(lost("send to"))?;
    let answer = tokio::time::timeout(ANSWER, receive(connection)).await.map_err(|_| Error::ProxyGone(uid.to_owned()))??;
    protocol::read_ack(&answer)?.map_err(|reason| Error::PodRefused { uid: uid.to_owned(), reason })
}

async fn receive(connection: &Connection) -> Result<Packet, Error> {
    connection.receive().await.map_err(lost("receive from"))?.ok_or_else(|| Error::ProxyGone("-".to_owned()))
}

fn lost(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| ambit_zds::Error::Socket { what, path: "proxy".into(), source }.into()
}

//! The node agent's side of the handover: keeps the pods of the node, writes their capture rules, and hands their namespaces to
//! whichever proxies connect. `ambit up` uses it; a CNI agent does the same.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_runtime::netns::NetNs;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use super::protocol::PodInfo;
use super::{
    protocol, rules,
    seqpacket::{Connection, Listener},
};
use crate::Error;

/// How long a proxy may take to answer a request.
const ANSWER: Duration = Duration::from_secs(5);
/// How often the rules of every pod are looked at: something else on the node may have flushed them.
const VERIFY: Duration = Duration::from_secs(2);
/// Requests to one proxy that wait for it.
const QUEUE: usize = 256;

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
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    connected: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Held>,
    /// Connected proxies, the newest last.
    proxies: Vec<Proxy>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Held {
    info: PodInfo,
    netns: NetNs,
}

#[derive(Debug, Clone)]
struct Proxy {
    number: u64,
    requests: mpsc::Sender<(Request, oneshot::Sender<Result<(), Error>>)>,
}

#[derive(Debug)]
enum Request {
    Add(Held),
    Delete(String),
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Listens for proxies at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self, Error> {
        let listener =
            Listener::bind(path).map_err(|source| Error::Handover { what: "listen at", path: path.to_owned(), source })?;
        let shared = Arc::new(Shared { state: Mutex::default(), connected: watch::Sender::new(0) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// How many proxies are connected and have been told of all pods.
    #[must_use]
    pub fn proxies(&self) -> watch::Receiver<usize> {
        self.shared.connected.subscribe()
    }

    /// Captures a pod: writes the rules into its namespace, then hands it to the newest proxy and waits for the answer.
    ///
    /// # Errors
    /// When the rules cannot be written, or the proxy refuses the pod or goes away. The pod stays captured and is offered to the
    /// next proxy.
    pub async fn add(&self, info: PodInfo, netns: NetNs) -> Result<Handover, Error> {
        rules::install(&netns).await?;
        let held = Held { info, netns };
        let newest = {
            let mut state = self.shared.state();
            state.pods.insert(held.info.uid.clone(), held.clone());
            state.proxies.last().cloned()
        };
        match newest {
            Some(proxy) => ask(&proxy, Request::Add(held.clone()), &held.info.uid).await.map(|()| Handover::Accepted),
            None => Ok(Handover::Waiting),
        }
    }

    /// Releases a pod: removes its rules, if its namespace still is one, and tells every proxy.
    ///
    /// # Errors
    /// When a proxy does not answer.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        let (held, proxies) = {
            let mut state = self.shared.state();
            (state.pods.remove(uid), state.proxies.clone())
        };
        let Some(held) = held else { return Ok(()) };
        if let Err(error) = rules::remove(&held.netns).await {
            tracing::debug!(uid, %error, "the capture rules were not removed");
        }
        let mut outcome = Ok(());
        for proxy in proxies {
            match ask(&proxy, Request::Delete(uid.to_owned()), uid).await {
                Ok(()) | Err(Error::ProxyGone(_)) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// The UIDs of the pods that are captured.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        self.shared.state().pods.keys().cloned().collect()
    }
}

async fn ask(proxy: &Proxy, request: Request, uid: &str) -> Result<(), Error> {
    let (reply, answer) = oneshot::channel();
    let gone = || Error::ProxyGone(uid.to_owned());
    proxy.requests.send((request, reply)).await.map_err(|_| gone())?;
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(answer)) => answer,
        _ => Err(gone()),
    }
}

async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut serving = tokio::task::JoinSet::new();
    let mut verify = tokio::time::interval(VERIFY);
    verify.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = verify.tick() => repair(&shared).await,
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    let shared = Arc::clone(&shared);
                    serving.spawn(async move {
                        if let Err(error) = serve(&connection, &shared).await {
                            tracing::info!(%error, "a node proxy went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a node proxy");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = serving.join_next() => {}
        }
    }
}

/// Writes the rules again where they are missing. A pod without them would go in clear.
async fn repair(shared: &Shared) {
    let pods: Vec<Held> = shared.state().pods.values().cloned().collect();
    for held in pods {
        let repaired = match rules::installed(&held.netns).await {
            Ok(true) => continue,
            // Released meanwhile: then they are missing for a reason.
            Ok(false) if !shared.state().pods.contains_key(&held.info.uid) => continue,
            Ok(false) => rules::install(&held.netns).await,
            Err(error) => Err(error),
        };
        let (pod, namespace) = (&held.info.name, &held.info.namespace);
        match repaired {
            Ok(()) => tracing::warn!(%namespace, pod, "the capture rules were missing and have been written again"),
            Err(error) => tracing::error!(%namespace, pod, %error, "the capture rules cannot be verified"),
        }
    }
}

/// Takes the proxy off the list however its connection ends.
struct Registered<'a> {
    shared: &'a Shared,
    number: u64,
    ready: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.state().proxies.retain(|proxy| proxy.number != self.number);
        if self.ready {
            self.shared.connected.send_modify(|connected| *connected -= 1);
        }
    }
}

async fn serve(connection: &Connection, shared: &Shared) -> Result<(), Error> {
    let hello = receive(connection).await?;
    protocol::read_hello(&hello)?;
    let (requests, mut queue) = mpsc::channel(QUEUE);
    // Listed and copied under one lock: what is added later comes through the queue.
    let (snapshot, mut registered) = {
        let mut state = shared.state();
        let number = state.next;
        state.next += 1;
        state.proxies.push(Proxy { number, requests });
        (state.pods.values().cloned().collect::<Vec<_>>(), Registered { shared, number, ready: false })
    };
    for held in snapshot {
        let uid = held.info.uid.clone();
        if let Err(error @ Error::PodRefused { .. }) = request(connection, Request::Add(held)).await {
            tracing::error!(uid, %error, "a pod is not served");
        }
    }
    exchange(connection, &protocol::snapshot_sent(), None, "-").await?;
    registered.ready = true;
    shared.connected.send_modify(|connected| *connected += 1);
    loop {
        let (asked, reply) = tokio::select! {
            asked = queue.recv() => match asked {
                Some(asked) => asked,
                None => return Ok(()),
            },
            // Between requests a proxy says nothing; that something comes means that it is gone.
            _ = receive(connection) => return Err(Error::ProxyGone("-".to_owned())),
        };
        let answer = request(connection, asked).await;
        let broken = matches!(answer, Err(Error::Handover { .. } | Error::Protocol(_) | Error::ProxyGone(_)));
        // Whoever asked may have given up.
        let _given_up = reply.send(answer);
        if broken {
            return Err(Error::ProxyGone("-".to_owned()));
        }
    }
}

async fn request(connection: &Connection, request: Request) -> Result<(), Error> {
    match request {
        Request::Add(held) => exchange(connection, &protocol::add(&held.info), Some(&held.netns), &held.info.uid).await,
        Request::Delete(uid) => exchange(connection, &protocol::delete(&uid), None, &uid).await,
    }
}

async fn exchange(connection: &Connection, packet: &[u8], netns: Option<&NetNs>, uid: &str) -> Result<(), Error> {
    let lost = |source| Error::Handover { what: "send to", path: "proxy".into(), source };
    connection.send(packet, netns.map(AsFd::as_fd)).await.map_err(lost)?;
    let answer = tokio::time::timeout(ANSWER, receive(connection)).await.map_err(|_| Error::ProxyGone(uid.to_owned()))??;
    protocol::read_ack(&answer)?.map_err(|reason| Error::PodRefused { uid: uid.to_owned(), reason })
}

async fn receive(connection: &Connection) -> Result<super::seqpacket::Packet, Error> {
    let lost = |source| Error::Handover { what: "receive from", path: "proxy".into(), source };
    connection.receive().await.map_err(lost)?.ok_or_else(|| Error::ProxyGone("-".to_owned()))
}

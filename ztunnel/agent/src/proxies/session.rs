//! One proxy at its connection: the pods there are, then one request after the other, each with its answer.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::fd::AsFd,
    sync::Arc,
};

use ambit_runtime::netns::NetNs;
use ambit_zds::{
    protocol,
    seqpacket::{Connection, Listener, Packet},
};
use futures::FutureExt;
use tokio::sync::mpsc;

use super::{ANSWER, PAUSE, Proxies, Proxy, Request};
use crate::Error;

/// Requests to one proxy that wait for it.
const QUEUE: usize = 256;

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
                        // Between requests, or instead of an answer: either way it may have connections still.
                        if has_ended(&connection) {
                            tracing::info!("a node proxy leaves");
                            proxies.leaves(connection);
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

/// Whether the proxy has ended its side, and all that it said before was received.
fn has_ended(connection: &Connection) -> bool {
    matches!(connection.receive().now_or_never(), Some(Ok(None)))
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
        let (asked, accepted, refused) = (HashSet::new(), HashMap::new(), BTreeMap::new());
        let proxy = Proxy { number, requests, ready: false, asked, accepted, refused };
        state.proxies.push(proxy);
        (state.pods.values().cloned().collect::<Vec<_>>(), Registered { proxies, number, ready: false })
    };
    let number = registered.number;
    let given_up = || Error::ProxyGone("-".to_owned());
    for pod in snapshot {
        if !proxies.is_listed(number) {
            return Err(given_up());
        }
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
            // Between requests a proxy says nothing; that something comes means that it is gone, or goes.
            said = connection.receive() => match said {
                Ok(None) => return Ok(()),
                _ => return Err(Error::ProxyGone("-".to_owned())),
            },
        };
        if !proxies.is_listed(number) {
            return Err(given_up());
        }
        // It came with the snapshot, to which it was added while the proxy took that.
        let has = matches!(&asked, Request::Add(pod) if proxies.has(number, pod));
        let answer = if has {
            proxies.note(number, &asked.noted(), &Ok(()));
            Ok(())
        } else {
            request(connection, proxies, number, asked).await
        };
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

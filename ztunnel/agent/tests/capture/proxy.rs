//! A node proxy of the test: it speaks the handover, listens in the pods, and says of each connection how it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ambit_runtime::{
    netns::NetNs,
    socket::{ConnectOptions, ListenOptions, PROXY_MARK, canonical, connect, listen, original_destination},
};
use ambit_zds::{
    protocol::{self, Request},
    seqpacket::Connection,
};
use anyhow::{Context, ensure};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::world::{PATIENCE, SOON};

/// The proxy. Dropping it is its sudden death.
pub struct Proxy {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    name: &'static str,
    /// What it was asked, in order: `add <uid>`, `del <uid>`, `snapshot`.
    heard: Mutex<Vec<String>>,
    /// Pods that it refuses.
    refused: Mutex<BTreeSet<String>>,
    /// Whether it goes on listening in pods that are taken away.
    lingers: AtomicBool,
    /// What listens in each pod.
    served: Mutex<BTreeMap<String, JoinSet<()>>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.served.lock().unwrap().clear();
    }
}

impl Proxy {
    pub async fn connect(socket: &Path, name: &'static str) -> anyhow::Result<Self> {
        let until = Instant::now() + PATIENCE;
        let connection = loop {
            match Connection::connect(socket) {
                Ok(connection) => break connection,
                Err(error) => ensure!(Instant::now() < until, "no agent at {}: {error}", socket.display()),
            }
            tokio::time::sleep(SOON).await;
        };
        connection.send(&protocol::hello(), None).await?;
        let (heard, refused, served) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { name, heard, refused, lingers: AtomicBool::new(false), served });
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok(Some(packet)) = connection.receive().await {
                let result = protocol::read_request(packet).map_err(|error| error.to_string());
                let answer = protocol::ack(result.and_then(|request| own.apply(request)));
                if connection.send(&answer, None).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { shared, task })
    }

    pub fn refuse(&self, uid: &str, refuse: bool) {
        let mut refused = self.shared.refused.lock().unwrap();
        if refuse {
            refused.insert(uid.to_owned())
        } else {
            refused.remove(uid)
        };
    }

    /// Stops listening in a pod, without being asked to.
    pub fn go_deaf(&self, uid: &str) {
        self.shared.served.lock().unwrap().remove(uid);
    }

    /// As if it hung: from now on it listens in pods that are taken away as before.
    pub fn linger(&self) {
        self.shared.lingers.store(true, Ordering::Relaxed);
    }

    pub fn heard(&self) -> Vec<String> {
        self.shared.heard.lock().unwrap().clone()
    }

    pub async fn wait_for(&self, what: &str) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.heard().iter().any(|heard| heard == what) {
            ensure!(Instant::now() < until, "{} never heard {what:?}: {:?}", self.shared.name, self.heard());
            tokio::time::sleep(SOON).await;
        }
        Ok(())
    }
}

impl Shared {
    fn apply(&self, request: Request) -> Result<(), String> {
        let mut heard = match &request {
            Request::Add { info, .. } => format!("add {}", info.uid),
            Request::Keep(uid) => format!("keep {uid}"),
            Request::Delete(uid) => format!("del {uid}"),
            Request::SnapshotSent => "snapshot".to_owned(),
        };
        let done = match request {
            Request::Add { info, .. } if self.refused.lock().unwrap().contains(&info.uid) => {
                write!(heard, " refused").unwrap();
                Err("it is refused by the test".to_owned())
            }
            Request::Add { info, netns } => {
                let mut served = self.served.lock().unwrap();
                let serve = || NetNs::from_fd(netns).and_then(|netns| open(self.name, &netns));
                // A pod that is given again in another namespace is another one.
                serve().map(|tasks| drop(served.insert(info.uid, tasks))).map_err(|error| error.to_string())
            }
            Request::Delete(_) if self.lingers.load(Ordering::Relaxed) => Ok(()),
            Request::Delete(uid) => {
                self.served.lock().unwrap().remove(&uid);
                Ok(())
            }
            Request::Keep(_) | Request::SnapshotSent => Ok(()),
        };
        self.heard.lock().unwrap().push(heard);
        done
    }
}

fn open(name: &'static str, netns: &NetNs) -> std::io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for port in [15001, 15006, 15008] {
        let options = ListenOptions { mark: Some(PROXY_MARK), reuse_port: true, netns: Some(netns), ..ListenOptions::default() };
        let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), &options)?;
        tasks.spawn(accept(listener, port, name, netns.clone()));
    }
    Ok(tasks)
}

async fn accept(listener: TcpListener, port: u16, name: &'static str, netns: NetNs) {
    let mut connections = JoinSet::new();
    while let Ok((stream, from)) = listener.accept().await {
        connections.spawn(handle(stream, canonical(from), port, name, netns.clone()));
    }
}

async fn handle(mut stream: TcpStream, from: SocketAddr, port: u16, name: &'static str, netns: NetNs) -> anyhow::Result<()> {
    match port {
        15001 => {
            let to = canonical(original_destination(&stream)?);
            stream.write_all(format!("outbound by {name} to {to}\n").as_bytes()).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
        }
        15006 => {
            let to = canonical(original_destination(&stream)?);
            stream.write_all(format!("inbound by {name} to {to}\n").as_bytes()).await?;
            // As a proxy does: to the application with the address of its client.
            let options = ConnectOptions {
                bind_source: Some(from.ip()),
                mark: Some(PROXY_MARK),
                netns: Some(&netns),
                ..ConnectOptions::default()
            };
            let mut inward = connect(to, &options).await.context("to the application")?;
            tokio::io::copy_bidirectional(&mut stream, &mut inward).await?;
        }
        _ => stream.write_all(format!("tunnel by {name}\n").as_bytes()).await?,
    }
    Ok(())
}

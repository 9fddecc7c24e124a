//! What runs in the pods: a server that says who it is, and requests that say whom they are for. Both see what went astray.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{Error, ErrorKind, Result},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Begins everything that the applications say. Whoever finds it in a packet has found something in clear.
pub const MARKER: &str = "chaos-in-clear-5e1f";
/// Whom a request is for that is for whoever has the address.
pub const ANYBODY: &str = "anybody";
/// Where applications listen.
pub const PORT: u16 = 8080;
/// How long a request may take before it counts as failed: longer than a proxy may try, which gives each of several endpoints 5 s to connect
/// and 5 s for a handshake, so that whatever fails does so with the proxy's reason.
const LIMIT: Duration = Duration::from_secs(30);
/// One in so many requests is a long one.
const LONG: u64 = 8;

/// A pod as its own application knows it.
#[derive(Debug, Clone)]
pub struct Who {
    pub uid: String,
    /// Its service account: its identity.
    pub account: Arc<str>,
    pub ips: Vec<IpAddr>,
}

/// Bytes that reached somebody else than they were meant for, or otherwise than they were sent.
#[derive(Debug, Default)]
pub struct Astray {
    bytes: AtomicU64,
    what: Mutex<Vec<String>>,
}

impl Astray {
    pub fn note(&self, bytes: usize, what: String) {
        self.bytes.fetch_add(bytes.max(1) as u64, Ordering::Relaxed);
        self.what.lock().unwrap().push(what);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What it was, as far as a person wants to read it.
    pub fn told(&self) -> String {
        self.what.lock().unwrap().iter().take(5).cloned().collect::<Vec<_>>().join("; ")
    }
}

/// The application of one pod: its server. Dropping it ends it.
#[derive(Debug)]
pub struct App {
    pub pod: Pod,
    pub node: usize,
    pub who: Who,
    _serving: AbortOnDropHandle<()>,
}

impl App {
    /// Serves in `pod`; with `admits`, a policy lets nobody but that account come. An application that ran there before may still be ending.
    pub async fn start(
        pod: Pod,
        node: usize,
        who: Who,
        admits: Option<&'static str>,
        astray: &Arc<Astray>,
    ) -> anyhow::Result<Arc<Self>> {
        let until = Instant::now() + LIMIT;
        let listener = loop {
            match pod.listen(SocketAddr::from(([0_u16; 8], PORT))) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {}
                listener => break listener?,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, who.clone(), admits, Arc::clone(astray))));
        Ok(Arc::new(Self { pod, node, who, _serving: serving }))
    }

    /// A connection to `to`, as a program of the pod opens it.
    pub async fn connect(&self, to: SocketAddr) -> Result<BufReader<TcpStream>> {
        let connected = tokio::time::timeout(LIMIT, self.pod.connect(to)).await;
        connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map(BufReader::new)
    }

    /// Sends one request that is meant for `wanted`, reads the answer, and tells the account that gave it.
    pub async fn ask(&self, stream: &mut BufReader<TcpStream>, wanted: &str, number: u64, astray: &Astray) -> Result<Arc<str>> {
        let asking = tokio::time::timeout(LIMIT, self.exchange(stream, wanted, number, astray));
        asking.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    async fn exchange(&self, stream: &mut BufReader<TcpStream>, wanted: &str, number: u64, astray: &Astray) -> Result<Arc<str>> {
        let (who, noise) = (&self.who, noise(&self.who.uid, number));
        let request = seal(&format!("{MARKER} {} {} {wanted} {number} {noise}", who.uid, who.account));
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        if stream.read_line(&mut answer).await? == 0 || !answer.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let parts = opened(&answer);
        match parts.as_deref() {
            Some([uid, account, seen, answered, back]) => {
                let own = seen.parse().is_ok_and(|seen| who.ips.contains(&seen));
                let meant = wanted == ANYBODY || *account == wanted;
                if !meant || *answered != number.to_string() || *back != noise || !own {
                    let what = format!(
                        "{} asked {wanted} number {number} at {:?}, and {uid} ({account}) answered number {answered} of {seen}",
                        who.uid,
                        stream.get_ref().peer_addr()
                    );
                    astray.note(answer.len(), what);
                    return Err(Error::other("somebody else's answer"));
                }
                Ok((*account).into())
            }
            _ => {
                astray.note(answer.len(), format!("{} got a damaged answer from {wanted}: {:.200}", who.uid, answer));
                Err(Error::other("a damaged answer"))
            }
        }
    }
}

async fn accept(listener: TcpListener, who: Who, admits: Option<&'static str>, astray: Arc<Astray>) {
    let who = Arc::new(who);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else { continue };
                let (who, astray) = (Arc::clone(&who), Arc::clone(&astray));
                connections.spawn(async move {
                    // How a connection ends shows at its client.
                    let _ended = serve(stream, from.ip().to_canonical(), &who, admits, &astray).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, from: IpAddr, who: &Who, admits: Option<&str>, astray: &Astray) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        // A request that its connection's end has cut short is no damage, but it may have come to the wrong one.
        let whole = line.ends_with('\n');
        let parts: Vec<&str> = line.trim_end().split(' ').collect();
        let [_, uid, account, wanted, number, noise, ..] = parts.as_slice() else {
            if whole {
                astray.note(line.len(), format!("{} was sent {line:.200}", who.uid));
            }
            return Ok(());
        };
        if whole && opened(&line).is_none() {
            astray.note(line.len(), format!("{} was sent a damaged request by {uid}", who.uid));
        }
        if *wanted != ANYBODY && *wanted != &*who.account {
            astray.note(line.len(), format!("{uid} wanted {wanted} and reached {} ({})", who.uid, who.account));
        }
        if admits.is_some_and(|admits| admits != *account) {
            astray.note(line.len(), format!("{uid} ({account}) was let in to {}", who.uid));
        }
        if !whole {
            return Ok(());
        }
        let answer = seal(&format!("{MARKER} {} {} {from} {number} {noise}", who.uid, who.account));
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Bytes that only this request has.
fn noise(uid: &str, number: u64) -> String {
    let blocks = if number.is_multiple_of(LONG) { 512 } else { 8 };
    let first = hash(&format!("{uid} {number}"));
    (0..blocks).map(|block| format!("{:016x}", first.rotate_left(block % 64) ^ u64::from(block))).collect()
}

/// A line with its checksum.
fn seal(text: &str) -> String {
    format!("{text} {:016x}\n", hash(text))
}

/// The parts of a line after the marker, if it is whole.
fn opened(line: &str) -> Option<Vec<&str>> {
    let (text, sum) = line.trim_end().rsplit_once(' ')?;
    if sum != format!("{:016x}", hash(text)) {
        return None;
    }
    let mut parts = text.split(' ');
    (parts.next() == Some(MARKER)).then(|| parts.collect())
}

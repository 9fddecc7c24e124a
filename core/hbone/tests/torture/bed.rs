//! A server of tunnels that plays its ends of scripts, and a pool that opens them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_hbone::{
    Authority, ConnectError, ConnectRequest, Incoming, Pool, PoolConfig, PoolKey, ServeError, ServerConfig, TunnelStream,
};
use http::{HeaderMap, HeaderValue};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    pipes::Tunnel,
    script::{Draw, Kind},
    talk::{Law, talk},
    wire::{Wire, id},
};

const PATIENCE: Duration = Duration::from_secs(50);

pub type Verdict = (Draw, Result<(), String>);

/// A listening server, and how its connections end.
pub struct Server {
    pub address: SocketAddr,
    pub ended: mpsc::UnboundedReceiver<Result<u64, ServeError>>,
    /// What handlers of scripts were asked for.
    met: Arc<Mutex<Vec<Draw>>>,
    _accepts: AbortOnDropHandle<()>,
}

impl Server {
    pub async fn start<H, F>(wire: Wire, config: ServerConfig, handler: H) -> Self
    where
        H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = wire.listen().await;
        let address = listener.local_addr().unwrap();
        let (tell, ended) = mpsc::unbounded_channel();
        let accepts = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (config, handler, tell) = (config.clone(), handler.clone(), tell.clone());
                connections.spawn(async move {
                    // Nobody may be interested any more.
                    let _gone = tell.send(wire.serve(tcp, &config, std::future::pending(), handler).await);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, ended, met: Arc::default(), _accepts: AbortOnDropHandle::new(accepts) }
    }

    /// One whose handlers play the server's end of each script, and tell how it went.
    pub async fn of_scripts(wire: Wire, config: ServerConfig, law: Law) -> (Self, mpsc::UnboundedReceiver<Verdict>) {
        let (tell, verdicts) = mpsc::unbounded_channel();
        let met = Arc::new(Mutex::new(Vec::new()));
        let meets = Arc::clone(&met);
        let handler = move |incoming: Incoming| {
            let tell = tell.clone();
            let draw: Draw = incoming.headers()["x-draw"].to_str().unwrap().parse().unwrap();
            meets.lock().unwrap().push(draw);
            async move {
                let script = draw.script();
                let verdict = match incoming.accept(HeaderMap::new()) {
                    Ok(tunnel) => {
                        let pipe = Tunnel::new(tunnel, script.server.by_chunks);
                        talk(pipe, &script.server, &script.client, law).await
                    }
                    Err(_) if law == Law::Cut => Ok(()),
                    Err(error) => Err(format!("not answered: {error}")),
                };
                let _gone = tell.send((draw, verdict));
            }
        };
        (Self { met, ..Self::start(wire, config, handler).await }, verdicts)
    }

    /// Once `connections` of them are over: what all handlers of scripts tell, none of which may have had to be stopped.
    pub async fn verdicts_after(&mut self, connections: usize, verdicts: &mut mpsc::UnboundedReceiver<Verdict>) -> Vec<Verdict> {
        for _ in 0..connections {
            // Cut connections end with errors.
            let _cut = self.end_of_connection().await;
        }
        let mut told = Vec::new();
        while let Ok(verdict) = verdicts.try_recv() {
            told.push(verdict);
        }
        let mut met = self.met.lock().unwrap().clone();
        met.retain(|draw| told.iter().all(|(other, _)| other != draw));
        let scripts: Vec<_> = met.iter().map(|draw| draw.script().server).collect();
        assert!(met.is_empty(), "{} handlers did not see the end of their connection: {met:?} {scripts:?}", met.len());
        told
    }

    pub async fn end_of_connection(&mut self) -> Result<u64, ServeError> {
        timeout(PATIENCE, self.ended.recv()).await.expect("no connection ended").unwrap()
    }
}

/// A pool with one destination, that counts its dials.
pub struct Client {
    pub wire: Wire,
    pub pool: Pool,
    pub key: PoolKey,
    dials: Arc<AtomicUsize>,
}

impl Client {
    pub fn new(wire: Wire, address: SocketAddr, config: PoolConfig) -> Self {
        let key = PoolKey { source: id("web"), destinations: vec![id("api")], address, source_ip: None, netns: None };
        Self { wire, pool: Pool::new(config), key, dials: Arc::default() }
    }

    pub async fn open(&self, headers: HeaderMap) -> Result<TunnelStream, ConnectError> {
        let request = ConnectRequest { authority: "10.0.0.1:80".parse::<Authority>().unwrap(), headers };
        let dials = Arc::clone(&self.dials);
        let dialing = move || {
            dials.fetch_add(1, Ordering::SeqCst);
        };
        self.wire.open(&self.pool, &self.key, request, dialing).await.map(|(tunnel, _)| tunnel)
    }

    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// Tunnels that hold a place now.
    pub fn tunnels(&self) -> usize {
        self.pool.status().iter().flat_map(|status| &status.tunnels).sum()
    }

    /// Opens a tunnel for `draw` and plays the client's end. `None` if it was not opened, which only a cut excuses.
    pub async fn play(&self, draw: Draw, law: Law) -> Option<Verdict> {
        let script = draw.script();
        let tunnel = match self.open(drawn(draw)).await {
            Ok(tunnel) => tunnel,
            Err(_) if law == Law::Cut => return None,
            // The reset of a server that is quick may overtake its answer.
            Err(ConnectError::Reset(_)) if script.server.resets() => return Some((draw, Ok(()))),
            Err(error) => return Some((draw, Err(format!("not opened: {error}")))),
        };
        let pipe = Tunnel::new(tunnel, script.client.by_chunks);
        Some((draw, talk(pipe, &script.client, &script.server, law).await))
    }

    /// Waits until all places have come back.
    pub async fn settled(&self) {
        let settled = async {
            while self.tunnels() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let settled = timeout(PATIENCE, settled).await;
        assert!(settled.is_ok(), "{} places of closed tunnels did not come back", self.tunnels());
    }
}

pub fn drawn(draw: Draw) -> HeaderMap {
    [("x-draw".parse().unwrap(), draw.to_string().parse().unwrap())].into_iter().collect()
}

pub fn header(name: &'static str) -> HeaderMap {
    [(name.parse().unwrap(), HeaderValue::from_static("1"))].into_iter().collect()
}

pub fn draws(seed: u64, count: u64, kind: Kind) -> impl Iterator<Item = Draw> {
    (0..count).map(move |n| Draw { seed: seed.wrapping_add(n), kind })
}

/// Plays `draws` at once, and waits until both ends of each have told how it went.
pub async fn play_all(client: &Client, verdicts: &mut mpsc::UnboundedReceiver<Verdict>, draws: impl IntoIterator<Item = Draw>) {
    let told: Vec<_> = draws.into_iter().map(|draw| async move { client.play(draw, Law::Intact).await.unwrap() }).collect();
    let count = told.len() as u64;
    // One task for each would need clones; the ends of one pool in one task suffice, as those of the server have their own.
    sound(futures::future::join_all(told).await, client.wire);
    sound(told_by(verdicts, count).await, client.wire);
    client.settled().await;
}

/// What `count` servers tell.
pub async fn told_by(verdicts: &mut mpsc::UnboundedReceiver<Verdict>, count: u64) -> Vec<Verdict> {
    let mut all = Vec::new();
    for n in 0..count {
        let next = timeout(PATIENCE, verdicts.recv()).await;
        all.push(next.unwrap_or_else(|_| panic!("only {n} of {count} servers told how it went")).unwrap());
    }
    all
}

/// Checks that nothing was wrong with any.
pub fn sound(verdicts: impl IntoIterator<Item = Verdict>, wire: Wire) {
    let mut wrong = Vec::new();
    for (draw, verdict) in verdicts {
        if let Err(why) = verdict {
            wrong.push(format!("{draw}: {why}\n    {:?}", draw.script()));
        }
    }
    assert!(wrong.is_empty(), "over {wire}, {} ends went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Checks that a connection to `address` still does its work: one calm script of `most` bytes.
pub async fn still_works(client: &Client, verdicts: &mut mpsc::UnboundedReceiver<Verdict>, seed: u64, most: usize) {
    play_all(client, verdicts, draws(seed, 1, Kind::calm(most))).await;
}

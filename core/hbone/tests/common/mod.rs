//! A server of tunnels on loopback, and a client of it.

#![allow(dead_code, missing_docs)]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ambit_hbone::{
    Authority, ConnectError, ConnectRequest, Incoming, Plain, Pool, PoolConfig, PoolKey, ServeError, ServerConfig, TunnelStream,
    server,
};
use http::{HeaderMap, StatusCode};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// A running server: where it listens, how its connections ended, and the way to drain it.
pub struct Server {
    pub address: SocketAddr,
    pub ended: mpsc::UnboundedReceiver<Result<u64, ServeError>>,
    pub drain: CancellationToken,
    pub task: JoinHandle<()>,
}

pub async fn server<H, F>(config: ServerConfig, handler: H) -> Server
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, ended) = mpsc::unbounded_channel();
    let drain = CancellationToken::new();
    let draining = drain.clone();
    let task = tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            io.set_nodelay(true).unwrap();
            let (config, handler, tell, drain) = (config.clone(), handler.clone(), tell.clone(), draining.clone());
            tokio::spawn(async move {
                let _ = tell.send(server::serve(Plain::new(io), &config, drain.cancelled_owned(), handler).await);
            });
        }
    });
    Server { address, ended, drain, task }
}

/// Sends back what comes, and its end.
pub async fn echo(incoming: Incoming) {
    let Ok(authority) = incoming.authority().map(ToString::to_string) else {
        incoming.refuse(StatusCode::BAD_REQUEST, HeaderMap::new()).unwrap();
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-target", authority.parse().unwrap());
    if let Some(value) = incoming.headers().get("x-asked") {
        headers.insert("x-heard", value.clone());
    }
    let Ok(tunnel) = incoming.accept(headers) else { return };
    let (mut read, mut write) = tokio::io::split(tunnel);
    // The test on the other side sees what goes wrong.
    let _ = tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(64 << 10, &mut read), &mut write).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
}

/// A pool with one destination, that counts its dials.
pub struct Client {
    pub pool: Pool,
    pub key: PoolKey,
    pub dials: Arc<AtomicUsize>,
}

impl Client {
    pub fn new(address: SocketAddr, config: PoolConfig) -> Self {
        let key = PoolKey {
            source: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
            destinations: vec!["spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()],
            address,
            source_ip: None,
            netns: None,
        };
        Self { pool: Pool::new(config), key, dials: Arc::default() }
    }

    pub async fn open(&self, target: &str) -> Result<(TunnelStream, HeaderMap), ConnectError> {
        self.open_with(target, HeaderMap::new()).await
    }

    pub async fn open_with(&self, target: &str, headers: HeaderMap) -> Result<(TunnelStream, HeaderMap), ConnectError> {
        let request = ConnectRequest { authority: target.parse::<Authority>().unwrap(), headers };
        let (dials, address) = (Arc::clone(&self.dials), self.key.address);
        let dial = || async move {
            dials.fetch_add(1, Ordering::SeqCst);
            tcp(address).await.map(Plain::new)
        };
        self.pool.connect(&self.key, dial, request).await
    }

    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// Open tunnels of each connection.
    pub fn tunnels(&self) -> Vec<usize> {
        self.pool.status().into_iter().flat_map(|s| s.tunnels).collect()
    }
}

pub async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Two ends of one TCP connection.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(tcp(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Bytes that differ at every place, so that none can be lost, doubled or moved unseen.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

//! A tunnel pair on one thread: what two node proxies do between their sockets, with real TLS over loopback. The applications at both
//! ends are threads of their own with blocking sockets that allocate nothing once they run.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use ambit_hbone::{
    ConnectRequest, Incoming, Pool, PoolConfig, PoolKey, ServerConfig, Transport,
    copy::{Counters, pump},
    server,
};
use ambit_identity::SpiffeId;
use ambit_tls::{
    StoreConfig, SvidStore,
    authority::{Authority, LocalSource},
    client_config, handshake,
};
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use crate::{count::Counted, handler};

/// Bytes of a request and of its answer.
pub const REQUEST: usize = 80;
pub const ANSWER: usize = 1100;

/// Where tunnels lead to, for a far end that does not ask.
pub const ANYWHERE: &str = "10.0.0.1:80";

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The pair: what connects to `near` reaches the application at the other end.
pub struct Line {
    pub near: SocketAddr,
    pub runtime: Handle,
    /// The one thread that it runs on.
    pub thread: nix::unistd::Pid,
}

pub fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// An authority for both ends.
pub fn source() -> LocalSource {
    LocalSource::new(Arc::new(Authority::create(&"cluster.local".parse().unwrap()).unwrap()), LIMIT * 360)
}

/// What tunnels to a proxy at the server's end share.
pub fn key(far: SocketAddr) -> PoolKey {
    PoolKey { source: id("web"), destinations: vec![id("api")], address: far, source_ip: None, netns: None }
}

/// What serves the tunnels.
#[derive(Clone, Copy)]
enum FarEnd {
    /// [`serve`].
    Pump,
    /// [`handler::inbound`].
    Ztunnel,
}

/// Starts the pair; `application` serves each connection at the far end on a thread of its own.
pub fn line(application: fn(StdStream)) -> Line {
    begin(application, FarEnd::Pump)
}

/// The same, with ztunnel's own handler at the far end, whose reads and writes are not counted one by one.
pub fn line_into_ztunnel(application: fn(StdStream)) -> Line {
    begin(application, FarEnd::Ztunnel)
}

fn begin(application: fn(StdStream), far_end: FarEnd) -> Line {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let application_address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || application(stream));
        }
    });
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let source = source();
            let (far, authority) = match far_end {
                FarEnd::Pump => (far(source.clone(), application_address).await, ANYWHERE.to_owned()),
                FarEnd::Ztunnel => (handler::inbound(source.clone()).await, application_address.to_string()),
            };
            let near = near(source, far, authority, PoolConfig::default()).await;
            tell.send(Line { near, runtime: Handle::current(), thread: nix::unistd::gettid() }).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv_timeout(LIMIT).unwrap()
}

/// The proxy at the server's end.
async fn far(source: LocalSource, application: SocketAddr) -> SocketAddr {
    let store = SvidStore::new(Arc::new(source), StoreConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(serve(Counted(tcp), store.clone(), application));
        }
    });
    address
}

/// Serves a connection of tunnels, each of which leads to `application`.
pub async fn serve<T>(io: T, store: SvidStore, application: SocketAddr)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = store.server_config(&id("api")).await.unwrap();
    let (io, _) = handshake::accept(io, config, LIMIT).await.unwrap();
    let handler = move |incoming: Incoming| async move {
        let tcp = TcpStream::connect(application).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        pump(incoming.accept(HeaderMap::new()).unwrap(), tcp, Counters::default()).await;
    };
    let _ended = server::serve(io, &ServerConfig::default(), std::future::pending(), handler).await;
}

/// The proxy at the client's end, whose tunnels lead to `authority`.
pub async fn near(source: LocalSource, far: SocketAddr, authority: String, pool: PoolConfig) -> SocketAddr {
    let svid = source.svid(&id("web")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = key(far);
    tokio::spawn(async move {
        let pool = Pool::new(pool);
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let config = client_config(&svid, &[id("api")]).unwrap();
            let dial = move || async move {
                let tcp = TcpStream::connect(far).await?;
                tcp.set_nodelay(true)?;
                handshake::connect(Counted(tcp), config, LIMIT).await
            };
            tokio::spawn(carry(tcp, pool.clone(), key.clone(), to(&authority), dial));
        }
    });
    address
}

/// The request for a tunnel to there.
pub fn to(authority: &str) -> ConnectRequest {
    ConnectRequest { authority: authority.parse().unwrap(), headers: HeaderMap::new() }
}

/// Carries a client's connection in a tunnel.
pub async fn carry<D, F, T>(tcp: TcpStream, pool: Pool, key: PoolKey, request: ConnectRequest, dial: D)
where
    D: FnOnce() -> F,
    F: Future<Output = io::Result<T>>,
    T: Transport,
{
    let (tunnel, _) = pool.connect_for(&key, dial, request, &tcp).await.unwrap();
    pump(tunnel, tcp, Counters::default()).await;
}

/// Answers requests.
pub fn answer(mut stream: StdStream) {
    let (mut request, answer) = ([0; REQUEST], [7; ANSWER]);
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&answer).is_ok() {}
}

/// Sends without end.
pub fn pour(mut stream: StdStream) {
    let chunk = vec![7; 256 << 10];
    while stream.write_all(&chunk).is_ok() {}
}

/// A client's connection.
pub struct Client(pub StdStream);

impl Client {
    pub fn open(line: &Line) -> Self {
        let stream = StdStream::connect(line.near).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    pub fn ask(&mut self) {
        self.0.write_all(&[1; REQUEST]).unwrap();
    }

    pub fn hear(&mut self) {
        self.0.read_exact(&mut [0; ANSWER]).unwrap();
    }
}

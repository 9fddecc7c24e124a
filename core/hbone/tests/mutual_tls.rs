//! Tunnels under mutual TLS, as the proxies use them: what each end learns when the other is not who it should be.

#![allow(missing_docs)]

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ambit_hbone::{ConnectError, ConnectRequest, Incoming, Pool, PoolConfig, PoolKey, ServerConfig, TunnelStream, server};
use ambit_identity::SpiffeId;
use ambit_tls::{
    PeerError, StoreConfig, Svid, SvidStore,
    authority::{Authority, LocalSource},
    client_config, handshake,
};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const LIMIT: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn source() -> LocalSource {
    LocalSource::new(Arc::new(Authority::create(&"cluster.local".parse().unwrap()).unwrap()), HOUR)
}

/// Says who calls, then sends back what comes.
async fn greet_and_echo(peer: SpiffeId, incoming: Incoming) {
    let headers = [("x-peer".parse().unwrap(), peer.to_string().parse().unwrap())].into_iter().collect();
    let (mut read, mut write) = tokio::io::split(incoming.accept(headers).unwrap());
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// A pod of `api` that takes tunnels; each refused peer is told to the test.
async fn api(source: LocalSource) -> (SocketAddr, mpsc::UnboundedReceiver<PeerError>) {
    let store = SvidStore::new(Arc::new(source), StoreConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, refused) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (store, tell) = (store.clone(), tell.clone());
            tokio::spawn(async move {
                let config = store.server_config(&id("api")).await.unwrap();
                match handshake::accept(tcp, config, LIMIT).await {
                    Err(error) => tell.send(PeerError::from_io(&error).unwrap()).unwrap(),
                    Ok((io, peer)) => {
                        let handler = move |incoming| greet_and_echo(peer.clone(), incoming);
                        let _ = server::serve(io, &ServerConfig::default(), std::future::pending(), handler).await;
                    }
                }
            });
        }
    });
    (address, refused)
}

async fn dial(address: SocketAddr, svid: &Svid, expected: &[SpiffeId]) -> io::Result<handshake::ClientStream<TcpStream>> {
    let config = client_config(svid, expected).unwrap();
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    handshake::connect(tcp, config, LIMIT).await
}

async fn open(
    pool: &Pool,
    address: SocketAddr,
    svid: &Svid,
    expected: SpiffeId,
) -> Result<(TunnelStream, HeaderMap), ConnectError> {
    let key = PoolKey { source: svid.id().clone(), destinations: vec![expected.clone()], address, source_ip: None, netns: None };
    let request = ConnectRequest { authority: "10.0.0.1:80".parse().unwrap(), headers: HeaderMap::new() };
    pool.connect(&key, || dial(address, svid, std::slice::from_ref(&expected)), request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_under_tls_carries_a_large_transfer_and_the_peer_is_known() {
    let source = source();
    let (address, _refused) = api(source.clone()).await;
    let pool = Pool::new(PoolConfig::default());
    let (tunnel, headers) = open(&pool, address, &source.svid(&id("web")).unwrap(), id("api")).await.unwrap();
    assert_eq!(headers["x-peer"], id("web").to_string());
    let mut sent = vec![0; 32 << 20];
    fastrand::Rng::with_seed(1).fill(&mut sent);
    let (mut read, mut write) = tokio::io::split(tunnel);
    let mut received = Vec::new();
    tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        },
        async { read.read_to_end(&mut received).await.unwrap() },
    );
    assert!(received == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_tunnels_are_open_at_once() {
    let source = source();
    let (address, _refused) = api(source.clone()).await;
    let pool = Pool::new(PoolConfig::default());
    let svid = source.svid(&id("web")).unwrap();
    let opened = futures::future::join_all((0..1000).map(|_| open(&pool, address, &svid, id("api")))).await;
    let mut tunnels: Vec<_> = opened.into_iter().map(|r| r.unwrap().0).collect();
    assert_eq!(pool.status()[0].tunnels.len(), 10);
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.write_all(&number.to_be_bytes()).await.unwrap();
    }
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        let mut answer = [0; 8];
        tunnel.read_exact(&mut answer).await.unwrap();
        assert_eq!(usize::from_be_bytes(answer), number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_whose_certificate_is_refused_learns_why_and_so_does_the_server() {
    let ours = source();
    let (address, mut refused) = api(ours.clone()).await;
    let stranger = ours.svid(&"spiffe://other.example/ns/shop/sa/web".parse().unwrap()).unwrap();
    let pool = Pool::new(PoolConfig::default());
    for _ in 0..20 {
        let error = open(&pool, address, &stranger, id("api")).await.unwrap_err();
        let seen = error.io().and_then(PeerError::from_io).unwrap_or_else(|| panic!("{error:?} does not tell the reason"));
        assert!(matches!(seen, PeerError::Refused(_)), "{seen}");
        let reason = refused.recv().await.unwrap();
        assert_eq!(reason.to_string(), "trust domain \"other.example\" is not \"cluster.local\"");
    }
    assert!(pool.status().is_empty(), "a refused connection stayed in the pool");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_somebody_else_is_never_sent_a_request() {
    let source = source();
    let (address, mut refused) = api(source.clone()).await;
    let pool = Pool::new(PoolConfig::default());
    let error = open(&pool, address, &source.svid(&id("web")).unwrap(), id("billing")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(_)), "{error}");
    assert!(matches!(error.io().and_then(PeerError::from_io), Some(PeerError::UnexpectedIdentity { .. })));
    assert!(matches!(refused.recv().await.unwrap(), PeerError::Refused(_)));
}

//! The pool: one dial at a time, roll-over, retries, idle release, drain.

#![allow(missing_docs)]

mod common;

use std::{io, sync::Arc, time::Duration};

use ambit_hbone::{ConnectError, ConnectRequest, Plain, PoolConfig, PoolKey, ServerConfig, Settings};
use common::{Client, Server, echo, server};
use futures::future::join_all;
use http::{HeaderMap, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};

const TARGET: &str = "10.0.0.1:80";

async fn works(tunnel: &mut ambit_hbone::TunnelStream) {
    tunnel.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    tunnel.read_exact(&mut answer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_come_at_once_share_one_dial() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let opened = join_all((0..60).map(|_| client.open(TARGET))).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(client.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_connection_is_followed_by_another_and_all_places_come_back() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let mut tunnels: Vec<_> = join_all((0..250).map(|_| client.open(TARGET))).await.into_iter().map(|r| r.unwrap().0).collect();
    let mut taken = client.tunnels();
    taken.sort_unstable();
    assert_eq!(taken, [50, 100, 100]);
    assert_eq!(client.dials(), 3);
    for tunnel in &mut tunnels {
        works(tunnel).await;
    }
    drop(tunnels);
    assert_eq!(client.tunnels(), [0, 0, 0]);
    client.open(TARGET).await.unwrap();
    assert_eq!(client.dials(), 3, "a place that came back is used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_allows_fewer_tunnels_gets_fewer_in_each_connection() {
    let server = server(ServerConfig { max_streams: 3, ..ServerConfig::default() }, echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let mut tunnels = Vec::new();
    for _ in 0..7 {
        let (mut tunnel, _) = client.open(TARGET).await.unwrap();
        works(&mut tunnel).await;
        tunnels.push(tunnel);
    }
    let mut taken = client.tunnels();
    taken.sort_unstable();
    assert_eq!(taken, [1, 3, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_dial_is_shared_by_those_who_wait_and_tried_anew_by_those_who_come_later() {
    let client = Client::new("127.0.0.1:1".parse().unwrap(), PoolConfig::default());
    let request = || ConnectRequest { authority: TARGET.parse().unwrap(), headers: HeaderMap::new() };
    let dial = || async {
        client.dials.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err::<Plain<TcpStream>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    };
    let outcomes = join_all((0..10).map(|_| client.pool.connect(&client.key, dial, request()))).await;
    for outcome in outcomes {
        assert!(matches!(outcome.unwrap_err(), ConnectError::Dial(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    }
    assert_eq!(client.dials(), 1);
    client.pool.connect(&client.key, dial, request()).await.unwrap_err();
    assert_eq!(client.dials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn when_the_one_who_dials_gives_up_another_takes_over() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Arc::new(Client::new(server.address, PoolConfig::default()));
    let request = ConnectRequest { authority: TARGET.parse().unwrap(), headers: HeaderMap::new() };
    let (pool, key) = (client.pool.clone(), client.key.clone());
    let first = tokio::spawn(async move {
        let never = || std::future::pending::<io::Result<Plain<TcpStream>>>();
        pool.connect(&key, never, request).await.map(drop)
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let waiting = Arc::clone(&client);
    let second = tokio::spawn(async move { waiting.open(TARGET).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(client.dials(), 0);
    first.abort();
    timeout(Duration::from_secs(5), second).await.unwrap().unwrap().unwrap();
    assert_eq!(client.dials(), 1);
}

/// An HTTP/2 server under the test's own hand: each connection is handed over after its handshake.
async fn bare_server() -> (std::net::SocketAddr, tokio::sync::mpsc::Receiver<h2::server::Connection<TcpStream, bytes::Bytes>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, receive) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let connection = h2::server::handshake(io).await.unwrap();
            if send.send(connection).await.is_err() {
                return;
            }
        }
    });
    (address, receive)
}

/// Accepts one request with 200, keeps it open, and returns the connection with what holds the request.
async fn accept_one(connection: &mut h2::server::Connection<TcpStream, bytes::Bytes>) -> h2::SendStream<bytes::Bytes> {
    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
    respond.send_response(Response::new(()), false).unwrap()
}

/// Opens a first tunnel, lets `mistreat` deal with the second request on that connection, and serves the second connection well.
async fn second_request_meets<M, F>(mistreat: M) -> (Client, Result<(), ConnectError>)
where
    M: FnOnce(h2::server::Connection<TcpStream, bytes::Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let (address, mut connections) = bare_server().await;
    tokio::spawn(async move {
        let mut first = connections.recv().await.unwrap();
        let _held = accept_one(&mut first).await;
        mistreat(first).await;
        let mut second = connections.recv().await.unwrap();
        let _held = accept_one(&mut second).await;
        while second.accept().await.is_some() {}
    });
    let client = Client::new(address, PoolConfig::default());
    let (_first, _) = client.open(TARGET).await.unwrap();
    let outcome = timeout(Duration::from_secs(5), client.open(TARGET)).await.unwrap().map(drop);
    (client, outcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_the_peer_refuses_to_process_is_sent_again_on_a_new_connection() {
    let (client, outcome) = second_request_meets(|mut connection| async move {
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
    })
    .await;
    outcome.unwrap();
    assert_eq!(client.dials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_on_a_connection_that_dies_before_the_answer_is_sent_again_on_a_new_connection() {
    let (client, outcome) = second_request_meets(|mut connection| async move {
        let _request = connection.accept().await.unwrap().unwrap();
    })
    .await;
    outcome.unwrap();
    assert_eq!(client.dials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_the_peer_cancels_is_not_sent_again() {
    let (client, outcome) = second_request_meets(|mut connection| async move {
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::CANCEL);
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
    })
    .await;
    assert!(matches!(outcome.unwrap_err(), ConnectError::Reset(_)));
    assert_eq!(client.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_is_going_away_finishes_its_tunnels_and_gets_no_new_ones() {
    let Server { address, drain, .. } = server(ServerConfig::default(), echo).await;
    let client = Client::new(address, PoolConfig::default());
    let (mut old, _) = client.open(TARGET).await.unwrap();
    works(&mut old).await;
    drain.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    works(&mut old).await;

    let fresh = server(ServerConfig::default(), echo).await;
    // The address of a key stands for the peer; that the test dials elsewhere plays a peer that has been restarted.
    let request = ConnectRequest { authority: TARGET.parse().unwrap(), headers: HeaderMap::new() };
    let (mut new, _) =
        client.pool.connect(&client.key, || async { common::tcp(fresh.address).await.map(Plain::new) }, request).await.unwrap();
    works(&mut new).await;
    works(&mut old).await;
    old.shutdown().await.unwrap();
    assert_eq!(old.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_of_one_network_namespace_are_not_used_in_another_and_are_retired_by_themselves() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let key = |netns| PoolKey { netns: Some(netns), ..client.key.clone() };
    let open = async |netns| {
        let request = ConnectRequest { authority: TARGET.parse().unwrap(), headers: HeaderMap::new() };
        let dial = || async {
            client.dials.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            common::tcp(client.key.address).await.map(Plain::new)
        };
        client.pool.connect(&key(netns), dial, request).await.unwrap().0
    };
    let (mut first, mut second) = (open(1).await, open(2).await);
    assert_eq!(client.dials(), 2);
    client.pool.retire(|key| key.netns == Some(1));
    let (mut third, mut fourth) = (open(1).await, open(2).await);
    assert_eq!(client.dials(), 3, "one that is retired takes no more tunnels, others do");
    works(&mut first).await;
    for tunnel in [&mut second, &mut third, &mut fourth] {
        works(tunnel).await;
    }
    // Also the connection that takes no more.
    assert_eq!(client.pool.cut(|peer| peer.is_none()), 3);
    for tunnel in [&mut first, &mut second, &mut third, &mut fourth] {
        assert!(timeout(Duration::from_secs(10), tunnel.read(&mut [0])).await.unwrap().is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_is_being_made_when_its_key_is_retired_takes_no_tunnel_but_its_own() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let request = || ConnectRequest { authority: TARGET.parse().unwrap(), headers: HeaderMap::new() };
    let (begin, begun) = oneshot::channel::<()>();
    let (go_on, wait) = oneshot::channel::<()>();
    let address = client.key.address;
    let slow = move || async move {
        begin.send(()).unwrap();
        wait.await.unwrap();
        common::tcp(address).await.map(Plain::new)
    };
    let quick = || async { common::tcp(address).await.map(Plain::new) };
    let first = client.pool.connect(&client.key, slow, request());
    let second = async {
        begun.await.unwrap();
        client.pool.retire(|_| true);
        let (second, _) = client.pool.connect(&client.key, quick, request()).await.unwrap();
        go_on.send(()).unwrap();
        second
    };
    let (first, mut second) = tokio::join!(first, second);
    let (mut first, _) = first.unwrap();
    for tunnel in [&mut first, &mut second] {
        works(tunnel).await;
    }
    assert_eq!(client.pool.status().iter().map(|status| status.tunnels.len()).collect::<Vec<_>>(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_connection_is_released_and_a_used_one_is_not() {
    let mut server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig { idle_timeout: Duration::from_millis(200), ..PoolConfig::default() });
    let (mut tunnel, _) = client.open(TARGET).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    works(&mut tunnel).await;
    drop(tunnel);
    assert_eq!(timeout(Duration::from_secs(5), server.ended.recv()).await.unwrap().unwrap().unwrap(), 1);
    assert!(client.pool.status().is_empty());
    client.open(TARGET).await.unwrap();
    assert_eq!(client.dials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings =
        Settings { ping_interval: Duration::from_millis(50), ping_timeout: Duration::from_millis(100), ..Settings::default() };
    let client = Client::new(listener.local_addr().unwrap(), PoolConfig { settings, ..PoolConfig::default() });
    let (outcome, _silent) = tokio::join!(timeout(Duration::from_secs(5), client.open(TARGET)), listener.accept());
    assert_eq!(outcome.unwrap().unwrap_err().to_string(), "the connection ended before an answer: the peer answers no ping");
    assert!(client.pool.status().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drained_pool_lets_tunnels_finish_until_the_deadline_and_then_cuts_them() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut short, _) = client.open(TARGET).await.unwrap();
    let (mut long, _) = client.open(TARGET).await.unwrap();
    let pool = client.pool.clone();
    let drained = tokio::spawn(async move { pool.drain(Duration::from_secs(2)).await });
    // It begins when its task does.
    let refused = async {
        loop {
            match client.open(TARGET).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => break error,
            }
        }
    };
    assert!(matches!(timeout(Duration::from_secs(10), refused).await.unwrap(), ConnectError::Shutdown));
    works(&mut short).await;
    short.shutdown().await.unwrap();
    assert_eq!(short.read(&mut [0; 1]).await.unwrap(), 0);
    drop(short);
    timeout(Duration::from_secs(10), drained).await.unwrap().unwrap();
    assert!(long.read(&mut [0; 1]).await.is_err(), "a tunnel outlived the pool's deadline");
}

/// Resets with megabytes under way are ordinary life for a shared connection: they must not count as misbehaviour of the peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_resets_with_bytes_in_flight_cost_no_neighbour_its_connection() {
    let server = server(ServerConfig::default(), |incoming| async move {
        let stays = incoming.headers().contains_key("x-stays");
        let sends = incoming.headers().contains_key("x-sends");
        let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
        let chunk = [7; 64 << 10];
        if stays {
            let mut byte = [0];
            while tunnel.read_exact(&mut byte).await.is_ok() && tunnel.write_all(&byte).await.is_ok() {}
        } else if sends {
            while tunnel.write_all(&chunk).await.is_ok() {}
        } else {
            // Resets while the client still sends.
            let _ = tunnel.read(&mut [0; 1]).await;
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let named = |name: &'static str| [(name.parse().unwrap(), "1".parse().unwrap())].into_iter().collect::<HeaderMap>();
    let (mut neighbour, _) = client.open_with(TARGET, named("x-stays")).await.unwrap();
    for round in 0..40 {
        let opened =
            join_all((0..90).map(|n| client.open_with(TARGET, named(if n % 2 == 0 { "x-sends" } else { "x-reads" })))).await;
        let talks = opened.into_iter().enumerate().map(|(n, tunnel)| async move {
            let (mut tunnel, _) = tunnel.unwrap();
            if n % 2 == 0 {
                tunnel.read_exact(&mut [0; 1000]).await.unwrap();
            } else {
                while tunnel.write_all(&[7; 64 << 10]).await.is_ok() {}
            }
        });
        join_all(talks).await;
        neighbour.write_all(b"!").await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        neighbour.read_exact(&mut [0]).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    assert_eq!(client.dials(), 1);
}

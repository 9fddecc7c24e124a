//! Pings while a connection is busy.

use std::time::Duration;

use ambit_hbone::{PoolConfig, ServerConfig, Settings};
use bytes::Bytes;
use h2::Ping;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::{
    bed::{Client, Server, draws, play_all},
    noise::{noise, seed},
    pipes::H2Stream,
    script::Kind,
    talk::Law,
    wire::{V4, V4_TLS, V6, tcp},
};

/// How long an answer may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(5);
const ROUNDS: usize = 20;

/// Pings until there were `ROUNDS` answers.
async fn ping(mut pings: h2::PingPong) {
    for round in 0..ROUNDS {
        let answer = timeout(LIMIT, pings.ping(Ping::opaque())).await;
        answer.unwrap_or_else(|_| panic!("ping {round} was not answered")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_flooded_both_ways_answers_pings() {
    let server = Server::start(V6, ServerConfig::default(), |incoming| async move {
        let (mut read, mut write) = tokio::io::split(incoming.accept(http::HeaderMap::new()).unwrap());
        let flood = async { while write.write_all(noise(0, 1 << 20)).await.is_ok() {} };
        let mut sink = tokio::io::sink();
        let drain = tokio::io::copy(&mut read, &mut sink);
        // The client ends it.
        let _cut = tokio::join!(flood, drain);
    })
    .await;
    let (send, mut connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(tcp(server.address).await.unwrap())
        .await
        .unwrap();
    let pings = connection.ping_pong().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let carried = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..8 {
        let request = http::Request::builder().method("CONNECT").uri("10.0.0.1:80").body(()).unwrap();
        let (response, body) = send.clone().ready().await.unwrap().send_request(request, false).unwrap();
        let (mut read, mut write) = tokio::io::split(H2Stream::new(body, response.await.unwrap().into_body()));
        tasks.spawn(async move { while write.write_all(noise(0, 1 << 20)).await.is_ok() {} });
        let carried = std::sync::Arc::clone(&carried);
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                carried.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    ping(pings).await;
    assert!(carried.load(std::sync::atomic::Ordering::Relaxed) > 1 << 20, "there was no load");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_flooded_answers_pings() {
    let listener = V4.listen().await;
    let client = Client::new(V4, listener.local_addr().unwrap(), PoolConfig::default());
    let mut tasks = JoinSet::new();
    let (tell, pings) = tokio::sync::oneshot::channel();
    tasks.spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        tell.send(connection.ping_pong().unwrap()).unwrap();
        let mut streams = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let send = respond.send_response(Response::new(()), false).unwrap();
            streams.spawn(async move {
                let (_read, mut write) = tokio::io::split(H2Stream::new(send, request.into_body()));
                while write.write_all(noise(0, 1 << 20)).await.is_ok() {}
            });
        }
    });
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(client.open(http::HeaderMap::new()).await.unwrap());
    }
    // One of them is never read, which must not matter.
    let _stalled = tunnels.pop();
    for mut tunnel in tunnels {
        tasks.spawn(async move { while let Ok(1..) = tunnel.read(&mut [0; 8192]).await {} });
    }
    ping(pings.await.unwrap()).await;
}

/// Both sides look for a dead peer more often than is reasonable. A busy one is not dead.
#[tokio::test]
async fn a_busy_peer_is_not_taken_for_a_dead_one() {
    let settings = Settings { ping_interval: Duration::from_millis(5), ping_timeout: LIMIT, ..Settings::default() };
    let config = ServerConfig { settings: settings.clone(), ..ServerConfig::default() };
    let (server, mut verdicts) = Server::of_scripts(V4_TLS, config, Law::Intact).await;
    let client = Client::new(V4_TLS, server.address, PoolConfig { settings, ..PoolConfig::default() });
    play_all(&client, &mut verdicts, draws(seed(), 40, Kind::wild(1 << 20))).await;
    assert_eq!(client.dials(), 1);
}

//! Thousands of tunnels that are opened and reset.

use std::time::Duration;

use ambit_hbone::{Incoming, PoolConfig, ServerConfig};
use fastrand::Rng;
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    bed::{Client, Server, header},
    noise::{noise, seed},
    wire::{V4, V6_TLS, Wire},
};

/// At every moment of its life a tunnel is reset by either side: before its answer, at once, with bytes under way, at its end.
async fn handler(incoming: Incoming) {
    let headers = incoming.headers().clone();
    if headers.contains_key("x-unanswered") {
        let mut incoming = incoming;
        incoming.abandoned().await;
        return;
    }
    let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else { return };
    if headers.contains_key("x-cut") {
        let _some = tunnel.write(noise(0, 3000)).await;
        tunnel.reset();
    } else if headers.contains_key("x-drop") {
        let _some = tunnel.write(noise(0, 3000)).await;
    } else {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = tunnel.read(&mut buffer).await {
            if tunnel.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _end = tunnel.shutdown().await;
    }
}

/// One tunnel that comes to a bad end.
async fn ruin(client: &Client, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let what = random.u8(..5);
    match what {
        0 => {
            // The request is given up, at once or after it was written.
            let asked = client.open(header("x-unanswered"));
            let limit = Duration::from_micros(random.u64(..3000));
            assert!(timeout(limit, asked).await.is_err(), "nobody answers this one");
        }
        1 | 2 => {
            let named = header(if what == 1 { "x-cut" } else { "x-drop" });
            // The reset may overtake the answer.
            if let Ok(mut tunnel) = client.open(named).await {
                let mut read = Vec::new();
                let ended = tunnel.read_to_end(&mut read).await;
                assert!(ended.is_err() && noise(0, 3000).starts_with(&read), "{ended:?} after {} bytes", read.len());
            }
        }
        3 => drop(client.open(HeaderMap::new()).await.unwrap()),
        _ => {
            let mut tunnel = client.open(HeaderMap::new()).await.unwrap();
            tunnel.write_all(noise(0, random.usize(1..20_000))).await.unwrap();
            if random.bool() {
                tunnel.read_exact(&mut [0]).await.unwrap();
            }
            tunnel.reset();
        }
    }
}

/// Ruins `count` tunnels, 50 at a time, beside one that stays.
pub async fn ruin_many(client: &Client, seed: u64, count: u64) {
    let mut neighbour = client.open(HeaderMap::new()).await.unwrap();
    for round in 0..count / 50 {
        let ruins = (0..50).map(|n| ruin(client, seed.wrapping_add(round * 50 + n)));
        futures::future::join_all(ruins).await;
        let mut answer = [0; 100];
        let exchange = async {
            neighbour.write_all(noise(0, 100)).await?;
            neighbour.read_exact(&mut answer).await
        };
        exchange.await.unwrap_or_else(|error| panic!("after {} resets: {error}", (round + 1) * 50));
        assert!(answer == noise(0, 100));
    }
}

async fn ten_thousand(wire: Wire) {
    let mut server = Server::start(wire, ServerConfig::default(), handler).await;
    let client = Client::new(wire, server.address, PoolConfig::default());
    ruin_many(&client, seed(), 10_000).await;
    client.settled().await;
    let (mut read, mut write) = tokio::io::split(client.open(HeaderMap::new()).await.unwrap());
    let mut received = Vec::new();
    let (_, wrote) = tokio::join!(read.read_to_end(&mut received), async {
        write.write_all(noise(1, 10 << 20)).await?;
        write.shutdown().await
    });
    wrote.unwrap();
    assert!(received == noise(1, 10 << 20));
    assert_eq!(client.dials(), 1, "resets are no reason to end a connection");
    drop((read, write));
    client.pool.drain(Duration::from_secs(5)).await;
    let requests = server.end_of_connection().await.unwrap();
    assert!((8000..=10_002).contains(&requests), "{requests} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tunnels_are_opened_and_reset_and_the_next_one_works_over_ipv4() {
    ten_thousand(V4).await;
}

#[tokio::test]
async fn ten_thousand_tunnels_are_opened_and_reset_and_the_next_one_works_over_ipv6_with_tls() {
    ten_thousand(V6_TLS).await;
}

pub async fn server(wire: Wire) -> Server {
    Server::start(wire, ServerConfig::default(), handler).await
}

//! Tunnels end to end: pool, server, both directions.

#![allow(missing_docs)]

mod common;

use std::{sync::Arc, time::Duration};

use ambit_hbone::{ConnectError, PoolConfig, ServerConfig};
use common::{Client, echo, noise, server};
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_leads_to_an_ipv4_an_ipv6_or_a_named_target_and_carries_headers_both_ways() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    for target in ["10.0.0.1:80", "[fd00::1]:80", "orders.shop.svc:9000"] {
        let asked: HeaderMap = [("x-asked".parse().unwrap(), "yes".parse().unwrap())].into_iter().collect();
        let (mut tunnel, headers) = client.open_with(target, asked).await.unwrap();
        assert_eq!(headers["x-target"], target);
        assert_eq!(headers["x-heard"], "yes");
        tunnel.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        tunnel.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
    assert_eq!(client.dials(), 1, "tunnels to one destination share a connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_client_may_end_its_direction_and_go_on_reading() {
    let server = server(ServerConfig::default(), |incoming| async move {
        let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
        let mut all = Vec::new();
        tunnel.read_to_end(&mut all).await.unwrap();
        tunnel.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
        tunnel.shutdown().await.unwrap();
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut tunnel, _) = client.open("10.0.0.1:80").await.unwrap();
    tunnel.write_all(&noise(1, 100_000)).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "100000 bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_server_may_end_its_direction_and_go_on_reading() {
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let server = server(ServerConfig::default(), move |incoming| {
        let tell = tell.clone();
        async move {
            let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
            tunnel.write_all(b"that is all").await.unwrap();
            tunnel.shutdown().await.unwrap();
            let mut all = Vec::new();
            tunnel.read_to_end(&mut all).await.unwrap();
            tell.send(all).unwrap();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut tunnel, _) = client.open("10.0.0.1:80").await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "that is all");
    let sent = noise(2, 300_000);
    tunnel.write_all(&sent).await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert!(heard.recv().await.unwrap() == sent, "bytes sent after the other direction's end were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_megabytes_arrive_unchanged_both_ways_at_once() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let mut transfers = Vec::new();
    for seed in 0..4 {
        let (tunnel, _) = client.open("10.0.0.1:80").await.unwrap();
        transfers.push(tokio::spawn(async move {
            let sent = noise(seed, 12 << 20);
            let (mut read, mut write) = tokio::io::split(tunnel);
            let mut received = Vec::new();
            let (_, _) = tokio::join!(
                async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                },
                async { read.read_to_end(&mut received).await.unwrap() },
            );
            assert!(received == sent, "the bytes of transfer {seed} changed on the way");
        }));
    }
    for transfer in transfers {
        transfer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_comes_with_its_status_and_headers() {
    let server = server(ServerConfig::default(), |incoming| async move {
        let headers = [("x-ambit-reason".parse().unwrap(), "policy_denied".parse().unwrap())].into_iter().collect();
        incoming.refuse(StatusCode::UNAUTHORIZED, headers).unwrap();
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    match client.open("10.0.0.1:80").await.unwrap_err() {
        ConnectError::Refused { status, headers } => {
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert_eq!(headers["x-ambit-reason"], "policy_denied");
        }
        other => panic!("{other}"),
    }
    assert_eq!(client.tunnels(), [0], "a refused request gives its place back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_does_not_read_holds_one_window_and_not_its_neighbours() {
    let server = server(ServerConfig::default(), |incoming| async move {
        if incoming.headers().contains_key("x-stall") {
            let _tunnel = incoming.accept(HeaderMap::new()).unwrap();
            std::future::pending::<()>().await;
        } else {
            echo(incoming).await;
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let stall: HeaderMap = [("x-stall".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let (mut stalled, _) = client.open_with("10.0.0.1:80", stall).await.unwrap();
    let chunk = noise(3, 64 << 10);
    let mut accepted = 0;
    // What is to be taken may take its time; only then a pause says that nothing more is.
    let pause = |accepted: usize| if accepted < 4 << 20 { Duration::from_secs(10) } else { Duration::from_millis(300) };
    while let Ok(count) = timeout(pause(accepted), stalled.write(&chunk)).await {
        accepted += count.unwrap();
        assert!(accepted <= (4 << 20) + (256 << 10), "{accepted} bytes taken for a reader that reads none");
    }
    assert!(accepted >= 4 << 20, "only {accepted} bytes of a 4 MiB window were used");

    let (mut lively, _) = client.open("10.0.0.1:80").await.unwrap();
    let sent = noise(4, 3 << 20);
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(&mut lively);
    let (wrote, heard) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
    wrote.unwrap();
    heard.unwrap();
    assert!(received == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_that_is_dropped_before_its_end_is_a_reset_for_the_peer() {
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let server = server(ServerConfig::default(), move |incoming| {
        let tell = tell.clone();
        async move {
            let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
            tell.send(tunnel.read_to_end(&mut Vec::new()).await.map_err(|e| e.kind())).unwrap();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut tunnel, _) = client.open("10.0.0.1:80").await.unwrap();
    tunnel.write_all(b"half a sent").await.unwrap();
    drop(tunnel);
    assert_eq!(heard.recv().await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_learns_that_the_client_gave_up_waiting() {
    let abandoned = Arc::new(tokio::sync::Notify::new());
    let notice = Arc::clone(&abandoned);
    let server = server(ServerConfig::default(), move |mut incoming| {
        let notice = Arc::clone(&notice);
        async move {
            incoming.abandoned().await;
            notice.notify_one();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    assert!(timeout(Duration::from_millis(100), client.open("10.0.0.1:80")).await.is_err());
    timeout(Duration::from_secs(5), abandoned.notified()).await.unwrap();
    assert_eq!(client.tunnels(), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_does_not_come_is_given_up_in_time() {
    let server = server(ServerConfig::default(), |incoming| async move {
        let _incoming = incoming;
        std::future::pending::<()>().await;
    })
    .await;
    let client = Client::new(server.address, PoolConfig { answer_timeout: Duration::from_millis(100), ..PoolConfig::default() });
    assert!(matches!(client.open("10.0.0.1:80").await.unwrap_err(), ConnectError::TimedOut(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tunnel_that_is_closed_after_its_end_still_delivers_all_of_it() {
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let server = server(ServerConfig::default(), move |incoming| {
        let tell = tell.clone();
        async move {
            let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut all = Vec::new();
            let read = tunnel.read_to_end(&mut all).await.map_err(|e| e.to_string());
            tell.send(read.map(|_| all)).unwrap();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let (mut tunnel, _) = client.open("10.0.0.1:80").await.unwrap();
    let sent = noise(6, (4 << 20) + (100 << 10));
    tunnel.write_all(&sent).await.unwrap();
    tunnel.shutdown().await.unwrap();
    drop(tunnel);
    let received = timeout(Duration::from_secs(5), heard.recv()).await.unwrap().unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes came", received.len(), sent.len());
    for _ in 0..100 {
        if client.tunnels() == [0] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of a closed tunnel did not come back");
}

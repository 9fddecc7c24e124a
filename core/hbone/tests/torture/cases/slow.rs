//! Readers that stop, beside others that do not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_hbone::{Incoming, PoolConfig, ServerConfig, Settings, TunnelStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    bed::{Client, Server, draws, header, sound, told_by},
    noise::{noise, seed},
    pipes::Tunnel,
    script::{Draw, Kind},
    talk::{Law, talk},
    wire::{V4, V6_TLS, Wire},
};

const WINDOW: usize = 1 << 20;
const MESSAGE: usize = 5 << 20;
const STALLED: usize = 4;

/// Writes a message in pieces, counting what was taken.
async fn write(mut tunnel: TunnelStream, piece: usize, taken: Arc<AtomicUsize>) {
    for part in noise(7, MESSAGE).chunks(piece) {
        tunnel.write_all(part).await.unwrap();
        taken.fetch_add(part.len(), Ordering::SeqCst);
    }
    tunnel.shutdown().await.unwrap();
    assert_eq!(tunnel.read(&mut [0]).await.unwrap(), 0);
}

/// Reads nothing until it may, then everything.
async fn read(mut tunnel: TunnelStream, mut may: watch::Receiver<bool>) {
    may.wait_for(|may| *may).await.unwrap();
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.unwrap();
    assert!(all == noise(7, MESSAGE), "what waited for a slow reader changed");
    tunnel.shutdown().await.unwrap();
}

async fn a_slow_reader_holds_its_window(wire: Wire, stalled_at_client: bool) {
    let settings = Settings { stream_window: u32::try_from(WINDOW).unwrap(), connection_window: 2 << 20, ..Settings::default() };
    let (hand, mut slow) = mpsc::unbounded_channel();
    let (tell, mut verdicts) = mpsc::unbounded_channel();
    let handler = move |incoming: Incoming| {
        let (hand, tell) = (hand.clone(), tell.clone());
        async move {
            let draw = incoming.headers().get("x-draw").map(|value| value.to_str().unwrap().parse::<Draw>().unwrap());
            let tunnel = incoming.accept(http::HeaderMap::new()).unwrap();
            let Some(draw) = draw else { return hand.send(tunnel).unwrap() };
            let script = draw.script();
            let pipe = Tunnel::new(tunnel, script.server.by_chunks);
            tell.send((draw, talk(pipe, &script.server, &script.client, Law::Intact).await)).unwrap();
        }
    };
    let server = Server::start(wire, ServerConfig { settings: settings.clone(), ..ServerConfig::default() }, handler).await;
    let client = Client::new(wire, server.address, PoolConfig { settings: settings.clone(), ..PoolConfig::default() });
    let (may, wait) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut taken = Vec::new();
    for n in 0..STALLED {
        let near = client.open(header("x-slow")).await.unwrap();
        let far = slow.recv().await.unwrap();
        let (reader, writer) = if stalled_at_client { (near, far) } else { (far, near) };
        let count = Arc::new(AtomicUsize::new(0));
        // Pieces of any size, since small ones wait differently from large ones.
        tasks.spawn(write(writer, [300, 5000, 70_000, MESSAGE][n], Arc::clone(&count)));
        tasks.spawn(read(reader, wait.clone()));
        taken.push(count);
    }
    // The others do their work meanwhile: far more than the windows that are left of the connection's.
    let seed = seed();
    for round in 0..4 {
        let plays = draws(seed.wrapping_add(round << 20), 30, Kind::wild(400_000)).map(|draw| client.play(draw, Law::Intact));
        sound(futures::future::join_all(plays).await.into_iter().flatten(), wire);
        sound(told_by(&mut verdicts, 30).await, wire);
        for taken in &taken {
            let taken = taken.load(Ordering::SeqCst);
            assert!(taken <= WINDOW + settings.send_buffer, "{taken} bytes were taken for a reader that reads none");
        }
    }
    may.send_replace(true);
    tasks.join_all().await;
    client.settled().await;
    assert_eq!(client.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_at_the_server_hold_their_windows_and_no_neighbour() {
    a_slow_reader_holds_its_window(V6_TLS, false).await;
}

#[tokio::test]
async fn slow_readers_at_the_client_hold_their_windows_and_no_neighbour() {
    a_slow_reader_holds_its_window(V4, true).await;
}

/// What lies unread in a tunnel counts for its connection only as long as the tunnel is there. Dropped here: ten windows of the
/// connection in bytes, and more than it may leave unread at once.
#[tokio::test]
async fn what_dropped_tunnels_left_unread_holds_nobody_up() {
    const LEFT: usize = 3 << 20;
    let (tell, mut said) = mpsc::unbounded_channel();
    let handler = move |incoming: Incoming| {
        let tell = tell.clone();
        async move {
            let (writes, echoes) = (incoming.headers().contains_key("x-writes"), incoming.headers().contains_key("x-echoes"));
            let mut tunnel = incoming.accept(http::HeaderMap::new()).unwrap();
            if echoes {
                let (mut read, mut write) = tokio::io::split(tunnel);
                // The client cuts it when it has seen enough.
                let _cut = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
            if writes {
                tunnel.write_all(noise(0, LEFT)).await.unwrap();
            }
            tell.send(tunnel).unwrap();
        }
    };
    let server = Server::start(V4, ServerConfig::default(), handler).await;
    let client = Client::new(V4, server.address, PoolConfig::default());
    let mut neighbour = client.open(header("x-echoes")).await.unwrap();
    for n in 0..100 {
        let mut near = client.open(header(if n % 2 == 0 { "x-writes" } else { "x-reads" })).await.unwrap();
        let far = tokio::time::timeout(Duration::from_secs(20), said.recv()).await;
        let far = far.unwrap_or_else(|_| panic!("the window is used up after {n} tunnels")).unwrap();
        if n % 2 == 1 {
            let written = tokio::time::timeout(Duration::from_secs(20), near.write_all(noise(0, LEFT))).await;
            written.unwrap_or_else(|_| panic!("the window is used up after {n} tunnels")).unwrap();
        }
        // What is written before in the same connection has arrived when this has come back.
        neighbour.write_all(b"!").await.unwrap();
        neighbour.read_exact(&mut [0]).await.unwrap();
        drop((near, far));
    }
    drop(neighbour);
    client.settled().await;
    assert_eq!(client.dials(), 1);
}

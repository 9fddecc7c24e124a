//! What peers can make this side keep. Each test is a process of its own, because it is the process that is measured.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_hbone::{Incoming, PoolConfig, ServerConfig, Settings};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::resets;
use crate::{
    alone::{alone, resident},
    bed::{Client, Server, header},
    noise::{noise, seed},
    raw::{DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, Raw, connect_block, frame},
    wire::{V4, V6, V6_TLS, tcp},
};

const MIB: usize = 1 << 10;

/// Runs `load` and says by how many KiB the process has grown with it, at its largest.
async fn growth(load: impl Future<Output = ()>) -> usize {
    // The noise is there before.
    assert_ne!(noise(0, 100), noise(100, 100));
    let before = resident("VmRSS");
    load.await;
    resident("VmHWM").saturating_sub(before)
}

/// Echoes, or reads nothing if asked to.
async fn stall_or_echo(incoming: Incoming, done: Arc<Notify>) {
    let stalls = incoming.headers().contains_key("x-stall");
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else { return };
    if stalls {
        done.notified().await;
        drop(tunnel);
        return;
    }
    let (mut read, mut write) = tokio::io::split(tunnel);
    let _end = tokio::io::copy(&mut read, &mut write).await;
    let _end = write.shutdown().await;
}

async fn stalling(config: ServerConfig) -> Server {
    let never = Arc::new(Notify::new());
    Server::start(V6, config, move |incoming| stall_or_echo(incoming, Arc::clone(&never))).await
}

async fn echoes(client: &Client) {
    let mut tunnel = client.open(HeaderMap::new()).await.unwrap();
    tunnel.write_all(noise(0, 10_000)).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut received = Vec::new();
    tunnel.read_to_end(&mut received).await.unwrap();
    assert!(received == noise(0, 10_000));
}

#[test]
fn streams_that_are_opened_and_reset_leave_nothing() {
    alone("cases::memory::streams_that_are_opened_and_reset_leave_nothing", async {
        let server = resets::server(V4).await;
        let client = Client::new(V4, server.address, PoolConfig::default());
        resets::ruin_many(&client, seed(), 3000).await;
        client.settled().await;
        let before = resident("VmRSS");
        resets::ruin_many(&client, seed(), 10_000).await;
        client.settled().await;
        let after = resident("VmRSS");
        assert!(after < before + 3 * MIB, "{before} KiB before, {after} KiB after");
        assert_eq!(client.dials(), 1);
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    alone("cases::memory::connections_that_come_and_go_leave_nothing", async {
        let never = Arc::new(Notify::new());
        let server = Server::start(V6_TLS, ServerConfig::default(), move |i| stall_or_echo(i, Arc::clone(&never))).await;
        let one = async |n: u32| {
            let client = Client::new(V6_TLS, server.address, PoolConfig::default());
            if n.is_multiple_of(3) {
                drop(client.open(header("x-stall")).await.unwrap());
            } else {
                echoes(&client).await;
            }
        };
        let mut before = 0;
        for n in 0..500 {
            if n == 150 {
                before = resident("VmRSS");
            }
            one(n).await;
        }
        let after = resident("VmRSS");
        assert!(after < before + 3 * MIB, "{before} KiB before, {after} KiB after");
    });
}

#[test]
fn readers_that_stop_hold_their_windows_and_no_more() {
    alone("cases::memory::readers_that_stop_hold_their_windows_and_no_more", async {
        const WINDOW: usize = 1 << 20;
        let settings = Settings { stream_window: 1 << 20, ..Settings::default() };
        let server = stalling(ServerConfig { settings: settings.clone(), ..ServerConfig::default() }).await;
        let client = Client::new(V6, server.address, PoolConfig { settings, ..PoolConfig::default() });
        let grown = growth(async {
            let stalled = (0..30).map(async |n| {
                let mut tunnel = client.open(header("x-stall")).await.unwrap();
                // Until nothing more is taken; small pieces cost more than large ones.
                let piece = noise(0, [700, 20_000, 1 << 20][n % 3]);
                while timeout(Duration::from_millis(500), tunnel.write_all(piece)).await.is_ok() {}
                tunnel
            });
            let stalled = futures::future::join_all(stalled).await;
            echoes(&client).await;
            drop(stalled);
        })
        .await;
        // Windows at the reader, and what the writers keep for sending; half as much again for what holds it.
        let most = 30 * (WINDOW + (256 << 10)) * 3 / 2 / 1024 + 8 * MIB;
        assert!(grown < most, "grown by {grown} KiB, {most} KiB would be the windows");
    });
}

/// Windows alone would allow each connection megabytes, and a client may open many connections.
#[test]
fn many_connections_that_nobody_reads_hold_no_more_than_the_process_may() {
    alone("cases::memory::many_connections_that_nobody_reads_hold_no_more_than_the_process_may", async {
        ambit_hbone::limit_unread(16 << 20);
        let server = stalling(ServerConfig::default()).await;
        let reset = AtomicUsize::new(0);
        let grown = growth(async {
            let send = async |_| {
                let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
                raw.open(1, Some("x-stall")).await;
                // Until the window is used up or the tunnel is cut.
                let mut cut = false;
                for _ in 0..200 {
                    match timeout(Duration::from_millis(500), raw.data(1, 0, noise(0, 16_000))).await {
                        Ok(true) => {}
                        Ok(false) => cut = true,
                        Err(_) => break,
                    }
                    if cut {
                        break;
                    }
                }
                if !cut {
                    raw.write(&frame(PING, 0, 0, &[3; 8])).await.unwrap();
                    let end = raw.until(|frame| frame.kind == PING || frame.kind == RESET).await;
                    cut = end.kind == RESET;
                    assert!(!cut || end.payload == [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
                }
                reset.fetch_add(usize::from(cut), Ordering::Relaxed);
                raw
            };
            let _stalled = futures::future::join_all((0..60).map(send)).await;
            // Who is read goes on.
            echoes(&Client::new(V6, server.address, PoolConfig::default())).await;
        })
        .await;
        // 60 times 3 MiB were sent.
        assert!(grown < 56 * MIB, "grown by {grown} KiB");
        assert!(reset.load(Ordering::Relaxed) > 20, "{reset:?} tunnels were cut");
    });
}

/// Reads slowly until it is told that it need not, and says how much there was; or reads nothing, and tells how that ends.
async fn stall_or_read_slowly(incoming: Incoming, slowly: Arc<AtomicBool>, ends: mpsc::UnboundedSender<io::ErrorKind>) {
    let stalls = incoming.headers().contains_key("x-stall");
    let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else { return };
    if stalls {
        let _over = ends.send(poll_fn(|cx| tunnel.poll_reset(cx)).await.kind());
        return;
    }
    let (mut piece, mut all) = (vec![0; 64 << 10], 0);
    while let Ok(count @ 1..) = tunnel.read(&mut piece).await {
        all += count;
        if slowly.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let _told = tunnel.write_all(all.to_string().as_bytes()).await;
    let _told = tunnel.shutdown().await;
}

/// Those that nobody reads are sent nothing more, as their windows are used up, and yet it is they who are in the way.
#[test]
fn at_the_limit_tunnels_that_nobody_reads_are_cut_and_one_that_is_read_slowly_goes_on() {
    alone("cases::memory::at_the_limit_tunnels_that_nobody_reads_are_cut_and_one_that_is_read_slowly_goes_on", async {
        // An eighth of it is more than the 4 MiB that wait in the one that is read.
        ambit_hbone::limit_unread(64 << 20);
        let (tell, mut ends) = mpsc::unbounded_channel();
        let slowly = Arc::new(AtomicBool::new(true));
        let quickly = Arc::clone(&slowly);
        // The stalled ones do not answer pings.
        let settings = Settings { ping_timeout: Duration::from_mins(5), ..Settings::default() };
        let patient = ServerConfig { settings, ..ServerConfig::default() };
        let server = Server::start(V6, patient, move |i| stall_or_read_slowly(i, Arc::clone(&slowly), tell.clone())).await;
        let mut stalled = Vec::new();
        for _ in 0..19 {
            let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
            raw.open(1, Some("x-stall")).await;
            for _ in 0..220 {
                assert!(raw.data(1, 0, noise(0, 16_000)).await, "cut below the limit");
            }
            stalled.push(raw);
        }
        let client = Client::new(V6, server.address, PoolConfig::default());
        let (mut read, mut write) = tokio::io::split(client.open(header("x-slow")).await.unwrap());
        let (mut sent, mut reasons) = (0, Vec::new());
        let until = Instant::now() + Duration::from_secs(120);
        while reasons.is_empty() || sent < 16 << 20 {
            assert!(Instant::now() < until, "nobody was cut, {sent} bytes were carried");
            sent += write.write(noise(0, 100_000)).await.expect("the tunnel that is read was cut");
            reasons.extend(std::iter::from_fn(|| ends.try_recv().ok()));
        }
        quickly.store(false, Ordering::Relaxed);
        write.shutdown().await.unwrap();
        let mut told = String::new();
        read.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, sent.to_string());
        reasons.extend(std::iter::from_fn(|| ends.try_recv().ok()));
        assert!(reasons.iter().all(|kind| *kind == io::ErrorKind::OutOfMemory), "{reasons:?}");
        assert!(reasons.len() < 19, "more were cut than needed");
    });
}

/// A byte that waits must not keep the large buffer it came in.
#[test]
fn single_bytes_that_wait_do_not_hold_the_buffers_they_came_in() {
    alone("cases::memory::single_bytes_that_wait_do_not_hold_the_buffers_they_came_in", async {
        let server = stalling(ServerConfig::default()).await;
        let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
        raw.open(1, Some("x-stall")).await;
        raw.open(3, None).await;
        // What comes back is read and dropped meanwhile, so that the echo goes on.
        let batch = [frame(DATA, 0, 1, b"?"), frame(DATA, 0, 3, noise(0, 8000)), frame(DATA, 0, 3, noise(0, 8000))].concat();
        let grown = growth(async {
            for _ in 0..5000 {
                raw.flow(3, 16_000).await;
                raw.write(&batch).await.unwrap();
            }
        })
        .await;
        assert!(grown < 24 * MIB, "grown by {grown} KiB for 5000 bytes that wait");
    });
}

#[test]
fn one_byte_frames_that_wait_cost_little_more_than_their_bytes() {
    alone("cases::memory::one_byte_frames_that_wait_cost_little_more_than_their_bytes", async {
        let server = stalling(ServerConfig::default()).await;
        let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
        raw.open(1, Some("x-stall")).await;
        let grown = growth(async {
            let batch = frame(DATA, 0, 1, b"?").repeat(1000);
            for _ in 0..100 {
                if raw.write(&batch).await.is_err() {
                    break;
                }
            }
            // The answer comes after all of it; a connection that was ended for this is ended, which is as well.
            if raw.write(&frame(PING, 0, 0, &[1; 8])).await.is_ok() {
                while raw.next().await.is_ok_and(|frame| frame.kind != PING) {}
            }
        })
        .await;
        assert!(grown < 24 * MIB, "grown by {grown} KiB for 100,000 bytes that wait");
    });
}

/// Whatever is sent, its sender is ended or held back, and what is kept of it stays small.
async fn flood(what: &str, first: Vec<u8>, batch: impl Fn(u32) -> Vec<u8>, rounds: u32) {
    let server = stalling(ServerConfig::default()).await;
    let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
    let grown = growth(async {
        raw.write(&first).await.unwrap();
        for round in 0..rounds {
            // Nothing is read, so that answers pile up on the server's side if it lets them.
            if !matches!(timeout(Duration::from_secs(2), raw.write(&batch(round))).await, Ok(Ok(()))) {
                break;
            }
        }
        echoes(&Client::new(V6, server.address, PoolConfig::default())).await;
    })
    .await;
    assert!(grown < 24 * MIB, "{what}: grown by {grown} KiB");
}

#[test]
fn pings_whose_answers_nobody_reads_pile_up_nowhere() {
    alone("cases::memory::pings_whose_answers_nobody_reads_pile_up_nowhere", async {
        flood("pings", Vec::new(), |_| frame(PING, 0, 0, &[7; 8]).repeat(4000), 1500).await;
    });
}

#[test]
fn settings_whose_answers_nobody_reads_pile_up_nowhere() {
    alone("cases::memory::settings_whose_answers_nobody_reads_pile_up_nowhere", async {
        flood("settings", Vec::new(), |_| frame(crate::raw::SETTINGS, 0, 0, &[0, 4, 0, 0, 0x40, 0]).repeat(4000), 1500).await;
    });
}

#[test]
fn a_header_list_without_end_is_not_kept() {
    alone("cases::memory::a_header_list_without_end_is_not_kept", async {
        // CONTINUATION frames, each one literal header of 16,000 bytes, or nothing at all.
        let mut block = b"\x00\x03x-a\x7f\x81\x7c".to_vec();
        block.resize(16_000 + block.len(), b'a');
        let first = frame(HEADERS, 0, 1, &connect_block(None));
        flood("large continuations", first.clone(), |_| frame(9, 0, 1, &block).repeat(10), 400).await;
        flood("empty continuations", first, |_| frame(9, 0, 1, &[]).repeat(10_000), 400).await;
    });
}

#[test]
fn streams_that_a_hostile_client_opens_and_resets_pile_up_nowhere() {
    alone("cases::memory::streams_that_a_hostile_client_opens_and_resets_pile_up_nowhere", async {
        let of = |ended: u8, then: fn(u32) -> Vec<u8>| {
            move |round: u32| {
                let stream = |n| {
                    let stream = 1 + 2 * (round * 100 + n);
                    let block = connect_block(Some("x-stall"));
                    [frame(HEADERS, END_HEADERS | ended, stream, &block), then(stream)].concat()
                };
                (0..100).map(stream).collect::<Vec<_>>().concat()
            }
        };
        flood("resets", Vec::new(), of(0, |stream| frame(RESET, 0, stream, &[0, 0, 0, 8])), 300).await;
        flood("requests", Vec::new(), of(END_STREAM, |_| Vec::new()), 300).await;
        flood("requests with bytes", Vec::new(), of(0, |stream| frame(DATA, 0, stream, b"some")), 300).await;
    });
}

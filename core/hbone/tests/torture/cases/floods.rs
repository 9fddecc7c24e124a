//! Clients that send what costs them little and a server much, and read all that comes back: each is ended with GOAWAY, and the server says why.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ambit_hbone::{Incoming, OnRefused, PoolConfig, Refused, ServeError, ServerConfig, Settings};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

use crate::{
    bed::{Client, Server},
    noise::noise,
    raw::{DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, RESET, Raw, SETTINGS, WINDOW_UPDATE, connect_block, frame},
    wire::{V6, tcp},
};

const PATIENCE: Duration = Duration::from_secs(20);
const CONTINUATION: u8 = 9;
const PRIORITY: u8 = 2;

/// RFC 9113, section 7.
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

const NOTHING_MOVES: &str = "too many frames that move nothing";

/// Echoes; requests with `x-hold` get no answer.
async fn echo_or_hold(mut incoming: Incoming) {
    if incoming.headers().contains_key("x-hold") {
        return incoming.abandoned().await;
    }
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else { return };
    let (mut read, mut write) = tokio::io::split(tunnel);
    let _end = tokio::io::copy(&mut read, &mut write).await;
    let _end = write.shutdown().await;
}

/// A header field that is not indexed.
fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127);
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value].concat()
}

fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &connect_block(Some("x-hold")))
}

/// The code of the GOAWAY, once the connection has ended.
async fn goaway(mut read: OwnedReadHalf) -> Option<u32> {
    let mut said = None;
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == GOAWAY {
            said = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            break;
        }
    }
    said
}

/// Sends `first`, then one batch after the other until the connection ends, which it must with this code and for this reason.
async fn ends(what: &str, config: ServerConfig, first: Vec<u8>, mut batch: impl FnMut(u32) -> Vec<u8>, code: u32, why: &str) {
    let mut server = Server::start(V6, config, echo_or_hold).await;
    let stream: TcpStream = tcp(server.address).await.unwrap();
    let (read, mut write) = stream.into_split();
    let hear = tokio::spawn(goaway(read));
    let send = async {
        write.write_all(PREFACE).await?;
        write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        write.write_all(&first).await?;
        for round in 0.. {
            let bytes = batch(round);
            write.write_all(&bytes).await?;
            if bytes.is_empty() {
                std::future::pending::<()>().await;
            }
        }
        std::io::Result::Ok(())
    };
    let heard = tokio::select! {
        biased;
        heard = hear => heard.unwrap(),
        sent = async { drop(send.await); tokio::time::sleep(PATIENCE).await } => unreachable!("{sent:?}: the flood had no end"),
        () = tokio::time::sleep(2 * PATIENCE) => panic!("{what}: taken without end"),
    };
    drop(write);
    // A reset may overtake the word of the server; what the server says of it counts.
    assert!(heard.is_none_or(|heard| heard == code), "{what}: {heard:?}");
    match server.end_of_connection().await {
        Err(ServeError::Protocol(text)) => assert!(text.contains(why), "{what}: {text}"),
        other => panic!("{what}: {other:?}"),
    }
    // Others go on.
    let client = Client::new(V6, server.address, PoolConfig::default());
    let mut tunnel = client.open(HeaderMap::new()).await.unwrap();
    tunnel.write_all(noise(0, 1000)).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.unwrap();
    assert!(all == noise(0, 1000));
}

async fn calms(what: &str, first: Vec<u8>, batch: impl FnMut(u32) -> Vec<u8>, why: &str) {
    ends(what, ServerConfig::default(), first, batch, ENHANCE_YOUR_CALM, why).await;
}

#[tokio::test]
async fn streams_that_are_opened_to_be_reset_end_their_connection() {
    let number = |round: u32, n: u32| 1 + 2 * (round * 100 + n);
    let rapid = move |round| {
        (0..100).flat_map(|n| [open(number(round, n)), frame(RESET, 0, number(round, n), &[0, 0, 0, 8])].concat()).collect()
    };
    calms("rapid reset (CVE-2023-44487)", Vec::new(), rapid, NOTHING_MOVES).await;
    // The server is made to reset what it has begun to work on.
    let made = move |round| {
        (0..100).flat_map(|n| [open(number(round, n)), frame(WINDOW_UPDATE, 0, number(round, n), &[0; 4])].concat()).collect()
    };
    calms("made to reset (CVE-2025-8671)", Vec::new(), made, NOTHING_MOVES).await;
    let again = |_| frame(RESET, 0, 1, &[0, 0, 0, 8]).repeat(1000);
    calms("one reset again and again", open(1), again, NOTHING_MOVES).await;
}

#[tokio::test]
async fn frames_that_move_nothing_end_their_connection() {
    let floods: [(&str, Vec<u8>); 9] = [
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x40, 0])),
        ("answers to no settings", frame(SETTINGS, 1, 0, &[])),
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("answers to no ping", frame(PING, 1, 0, &[7; 8])),
        ("priorities", frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 1])),
        ("frames of an unknown kind", frame(0xbe, 0xff, 9, b"what")),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("empty DATA", frame(DATA, 0, 1, &[])),
        ("padding and nothing else", frame(DATA, 8, 1, &[1, 0])),
    ];
    for (what, one) in floods {
        let many = one.repeat(500);
        calms(what, frame(HEADERS, END_HEADERS, 1, &connect_block(None)), |_| many.clone(), NOTHING_MOVES).await;
    }
    let goaways = frame(GOAWAY, 0, 0, &[0; 8]).repeat(500);
    calms("goodbyes", open(1), |_| goaways.clone(), NOTHING_MOVES).await;
}

#[tokio::test]
async fn header_blocks_that_are_too_much_end_their_connection() {
    let begin = || frame(HEADERS, 0, 1, &connect_block(None));
    let pieces = |_| frame(CONTINUATION, 0, 1, &[]).repeat(10);
    calms("empty CONTINUATIONs (CVE-2024-27316)", begin(), pieces, "far too many pieces").await;
    let large = literal("x-long", &[b'a'; 120]).repeat(100);
    let large = frame(CONTINUATION, 0, 1, &large);
    calms("CONTINUATIONs without end", begin(), |_| large.clone(), "far too long").await;
    // One field of 4,000 bytes in the table, which each byte of the block stands for again.
    let mut bomb = connect_block(None);
    bomb.extend(b"\x40\x01a\x7f\xa1\x1e");
    bomb.extend([b'b'; 4000]);
    bomb.extend([0xbe; 10_000]);
    let bomb = frame(HEADERS, END_HEADERS, 1, &bomb);
    calms("a block that stands for megabytes", bomb, |_| Vec::new(), "far too long").await;
    let table = [&[0x3f, 0xe1, 0xff, 0x03][..], &connect_block(None)].concat();
    let table = frame(HEADERS, END_HEADERS, 1, &table);
    ends("a table beyond its size", ServerConfig::default(), table, |_| Vec::new(), COMPRESSION_ERROR, "larger than allowed")
        .await;
    let many = frame(SETTINGS, 0, 0, &[0, 0x7f, 0, 0, 0, 1].repeat(129));
    calms("settings of 129 entries", many, |_| Vec::new(), "far too many entries").await;
}

#[tokio::test]
async fn a_header_block_that_takes_too_long_ends_its_connection() {
    let settings = Settings { header_timeout: Duration::from_millis(300), ..Settings::default() };
    let config = ServerConfig { settings, ..ServerConfig::default() };
    let begun = frame(HEADERS, 0, 1, &connect_block(None));
    let cut = frame(HEADERS, END_HEADERS, 1, &connect_block(None))[..12].to_vec();
    for (what, first) in [("a block without its end", begun), ("a frame without its end", cut)] {
        ends(what, config.clone(), first, |_| Vec::new(), ENHANCE_YOUR_CALM, "takes too long").await;
    }
    // Byte by byte is no better, as long as it is one block.
    let server = Server::start(V6, config, echo_or_hold).await;
    let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
    let slow = frame(HEADERS, END_HEADERS, 1, &connect_block(None));
    let trickle = async {
        for byte in slow.iter().cycle() {
            if raw.write(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, trickle).await.expect("it was waited for as long as there was one more byte");
}

#[tokio::test]
async fn what_is_refused_without_a_handler_is_told() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let on_refused = OnRefused::new(move |refused, count| tell.lock().unwrap().push((refused, count)));
    let config = ServerConfig { max_streams: 3, on_refused: Some(on_refused), ..ServerConfig::default() };
    let server = Server::start(V6, config, echo_or_hold).await;
    let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
    let get =
        [literal(":method", b"GET"), literal(":scheme", b"http"), literal(":path", b"/"), literal(":authority", b"a:1")].concat();
    let large = [connect_block(None), literal("x-long", &[b'a'; 120]).repeat(150)].concat();
    let wrong = [connect_block(None), literal("Upper", b"case")].concat();
    let requests = [get, large, wrong].map(|block| block);
    for (n, block) in requests.iter().enumerate() {
        raw.write(&frame(HEADERS, END_HEADERS, 1 + 2 * n as u32, block)).await.unwrap();
    }
    for stream in [7, 9, 11, 13, 15] {
        raw.write(&open(stream)).await.unwrap();
    }
    raw.write(&frame(PING, 0, 0, &[1; 8])).await.unwrap();
    raw.until(|frame| frame.kind == PING).await;
    let mut counts = std::collections::HashMap::new();
    told.lock().unwrap().iter().for_each(|(refused, count)| *counts.entry(*refused).or_insert(0) += count);
    let expected = [(Refused::NotConnect, 1), (Refused::HeadersTooLarge, 1), (Refused::Broken, 1), (Refused::TooMany, 2)];
    assert_eq!(counts, expected.into_iter().collect());
}

/// A client that gives no leave to send, then one byte after the other.
#[tokio::test]
async fn a_window_of_nothing_holds_its_tunnel_and_nothing_else() {
    let server = Server::start(V6, ServerConfig::default(), echo_or_hold).await;
    let mut raw = Raw::start(tcp(server.address).await.unwrap()).await;
    raw.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    raw.open(1, None).await;
    assert!(raw.data(1, 0, b"echo").await);
    raw.write(&frame(PING, 0, 0, &[2; 8])).await.unwrap();
    let first = raw.until(|frame| matches!(frame.kind, DATA | PING)).await;
    assert_eq!(first.kind, PING, "bytes came without leave");
    for byte in b"echo" {
        raw.write(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.unwrap();
        assert_eq!(raw.until(|frame| frame.kind == DATA).await.payload, [*byte]);
    }
}

//! Frames that no well-behaved implementation sends, and credit that must not leak with them.

use std::time::{Duration, Instant};

use ambit_hbone::{Incoming, PoolConfig, ServerConfig, Settings};
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use crate::{
    bed::{Client, Server},
    noise::noise,
    raw::{
        DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, RESET, Raw, SETTINGS, WINDOW_UPDATE, connect_block, frame,
    },
    wire::{V6, tcp},
};

/// RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;

type Heard = Result<Vec<u8>, std::io::ErrorKind>;

fn small() -> ServerConfig {
    let settings = Settings { stream_window: 65_535, connection_window: 65_535, max_frame_size: 16_384, ..Settings::default() };
    ServerConfig { settings, ..ServerConfig::default() }
}

/// A server that tells what each tunnel brought, and how it ended; tunnels with `x-reset` are reset at their first byte, and those
/// with `x-stall` are not read.
async fn listener(config: ServerConfig) -> (Server, mpsc::UnboundedReceiver<Heard>) {
    let (tell, heard) = mpsc::unbounded_channel();
    let handler = move |incoming: Incoming| {
        let tell = tell.clone();
        async move {
            let (resets, stalls) = (incoming.headers().contains_key("x-reset"), incoming.headers().contains_key("x-stall"));
            let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else { return };
            if stalls {
                // Completes when the connection or the tunnel is over.
                let _over = std::future::poll_fn(|cx| tunnel.poll_reset(cx)).await;
            } else if resets {
                let _first = tunnel.read(&mut [0]).await;
                tunnel.reset();
            } else {
                let mut all = Vec::new();
                let read = tunnel.read_to_end(&mut all).await.map(|_| all).map_err(|e| e.kind());
                // The test may have seen enough.
                let _gone = tell.send(read);
                let _gone = tunnel.shutdown().await;
            }
        }
    };
    (Server::start(V6, config, handler).await, heard)
}

async fn raw(server: &Server) -> Raw {
    Raw::start(tcp(server.address).await.unwrap()).await
}

/// Other connections of the server go on.
async fn others_go_on(server: &Server, heard: &mut mpsc::UnboundedReceiver<Heard>) {
    let client = Client::new(V6, server.address, PoolConfig::default());
    let mut tunnel = client.open(HeaderMap::new()).await.unwrap();
    tunnel.write_all(noise(0, 300_000)).await.unwrap();
    tunnel.shutdown().await.unwrap();
    // What the test before left may come first.
    while heard.recv().await.unwrap().is_ok_and(|message| message != noise(0, 300_000)) {}
}

#[tokio::test]
async fn padding_counts_for_the_windows_and_is_given_back() {
    let (server, mut heard) = listener(small()).await;
    let mut raw = raw(&server).await;
    raw.open(1, None).await;
    let mut sent = Vec::new();
    // Seven times the window in padding, with one byte of content in each frame.
    for n in 0..1800_u32 {
        let content = noise(n as usize, 1);
        let payload = [&[255], content, &[0; 255]].concat();
        assert!(raw.data(1, PADDED, &payload).await);
        sent.extend(content);
    }
    assert!(raw.data(1, END_STREAM, b"!").await);
    sent.push(b'!');
    assert!(heard.recv().await.unwrap().unwrap() == sent);
}

#[tokio::test]
async fn trailers_are_an_end() {
    let (server, mut heard) = listener(small()).await;
    let mut raw = raw(&server).await;
    raw.open(1, None).await;
    assert!(raw.data(1, 0, b"content").await);
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x00\x05x-end\x011")).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().unwrap(), b"content");
}

#[tokio::test]
async fn a_request_that_is_ended_at_once_is_an_empty_message() {
    let (server, mut heard) = listener(small()).await;
    let mut raw = raw(&server).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &connect_block(None))).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().unwrap(), b"");
    let answer = raw.until(|frame| frame.stream == 1).await;
    assert_eq!((answer.kind, answer.payload[0]), (HEADERS, 0x88));
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_of_a_frame_is_an_error_in_its_tunnels() {
    let (mut server, mut heard) = listener(ServerConfig::default()).await;
    let whole = frame(DATA, END_STREAM, 1, noise(0, 10_000));
    // In the head, right after it, in the content, before its last byte, and between two frames.
    for cut in [1, 8, 9, 10, 5000, whole.len() - 1, 0] {
        let mut raw = raw(&server).await;
        raw.open(1, None).await;
        assert!(raw.data(1, 0, b"before").await);
        raw.write(&whole[..cut]).await.unwrap();
        raw.close().await;
        assert!(heard.recv().await.unwrap().is_err(), "an end was seen that nobody made, with {cut} bytes of a frame");
        // However that is reported, the connection is over.
        let _ended = server.end_of_connection().await;
    }
    others_go_on(&server, &mut heard).await;
}

/// Bytes for a tunnel that was reset meanwhile are nobody's, but they took their part of the connection's window.
#[tokio::test]
async fn bytes_that_come_after_a_reset_give_their_credit_back() {
    let (server, mut heard) = listener(small()).await;
    let mut raw = raw(&server).await;
    for n in 0..150 {
        let stream = 1 + 2 * n;
        raw.open(stream, Some("x-reset")).await;
        // The reset comes while these are sent.
        for _ in 0..4 {
            raw.data(stream, 0, noise(0, 5000)).await;
        }
    }
    raw.open(1001, None).await;
    for part in noise(0, 1 << 20).chunks(16_000) {
        assert!(raw.data(1001, 0, part).await);
    }
    assert!(raw.data(1001, END_STREAM, &[]).await);
    assert!(heard.recv().await.unwrap().unwrap() == noise(0, 1 << 20));
}

#[tokio::test]
async fn bytes_beyond_the_stream_window_end_the_tunnel_or_its_connection_and_nothing_else() {
    let settings = Settings { stream_window: 10_000, ..Settings::default() };
    let (server, mut heard) = listener(ServerConfig { settings, ..ServerConfig::default() }).await;
    let mut raw = raw(&server).await;
    raw.open(1, Some("x-stall")).await;
    // This one is opened after the settings were acknowledged, so that their window holds for it (RFC 9113, section 6.9.2).
    raw.open(3, Some("x-stall")).await;
    for _ in 0..20 {
        // Without regard to the window.
        if raw.write(&frame(DATA, 0, 3, noise(0, 1000))).await.is_err() {
            break;
        }
    }
    let code = loop {
        match raw.next().await.expect("an end without a reason") {
            frame if frame.kind == RESET => break u32::from_be_bytes(frame.payload[..].try_into().unwrap()),
            frame if frame.kind == GOAWAY => break u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()),
            _ => {}
        }
    };
    assert_eq!(code, FLOW_CONTROL_ERROR);
    others_go_on(&server, &mut heard).await;
}

#[tokio::test]
async fn windows_that_are_widened_beyond_what_is_allowed_end_what_they_belong_to() {
    let (server, mut heard) = listener(ServerConfig::default()).await;
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let mut of_stream = raw(&server).await;
    of_stream.open(1, Some("x-stall")).await;
    of_stream.write(&frame(WINDOW_UPDATE, 0, 1, &most)).await.unwrap();
    let reset = of_stream.until(|frame| frame.kind == RESET && frame.stream == 1).await;
    assert_eq!(reset.payload, FLOW_CONTROL_ERROR.to_be_bytes());
    of_stream.open(3, Some("x-stall")).await;
    let mut of_connection = raw(&server).await;
    of_connection.open(1, Some("x-stall")).await;
    of_connection.write(&frame(WINDOW_UPDATE, 0, 0, &most)).await.unwrap();
    assert_eq!(of_connection.goaway().await, Some(FLOW_CONTROL_ERROR));
    others_go_on(&server, &mut heard).await;
}

/// RFC 9113, section 6.9.2: a change of the initial window that takes a window beyond 2^31-1 ends the connection.
#[tokio::test]
async fn settings_that_widen_a_stream_beyond_what_is_allowed_end_the_connection() {
    let (server, mut heard) = listener(ServerConfig::default()).await;
    let mut raw = raw(&server).await;
    raw.open(1, Some("x-stall")).await;
    raw.write(&frame(WINDOW_UPDATE, 0, 1, &0x7000_0000_u32.to_be_bytes())).await.unwrap();
    raw.write(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).await.unwrap();
    assert_eq!(raw.goaway().await, Some(FLOW_CONTROL_ERROR));
    others_go_on(&server, &mut heard).await;
}

/// Frames without content cost their reader work and their sender nothing: the connection is ended, or held back until its client reads.
#[tokio::test]
async fn empty_frames_without_end_are_answered_with_calm() {
    let (server, mut heard) = listener(ServerConfig::default()).await;
    for kind in [DATA, SETTINGS, PING] {
        let mut raw = raw(&server).await;
        raw.open(1, None).await;
        let content = if kind == PING { &[0; 8][..] } else { &[] };
        let flood = frame(kind, 0, u32::from(kind == DATA), content).repeat(1000);
        let begun = Instant::now();
        let ended = loop {
            match timeout(Duration::from_secs(2), raw.write(&flood)).await {
                // What comes after the end is thrown away for a moment, so that the reason can be read.
                Ok(Ok(())) => assert!(begun.elapsed() < Duration::from_secs(10), "frames of type {kind} are taken without end"),
                Ok(Err(_)) => break true,
                Err(_) => break false,
            }
        };
        if ended {
            // The reason may be lost with the connection.
            let code = raw.goaway().await;
            assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
        } else {
            assert_ne!(kind, DATA, "nothing holds the sender of DATA back but the end of the connection");
        }
    }
    others_go_on(&server, &mut heard).await;
}

#[tokio::test]
async fn frames_of_streams_that_were_never_opened_end_the_connection() {
    let (server, mut heard) = listener(ServerConfig::default()).await;
    for bytes in [frame(RESET, 0, 7, &[0; 4]), frame(DATA, 0, 7, b"?"), frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1])] {
        let mut raw = raw(&server).await;
        raw.open(1, Some("x-stall")).await;
        raw.write(&bytes).await.unwrap();
        assert_eq!(raw.goaway().await, Some(PROTOCOL_ERROR), "{bytes:?}");
    }
    others_go_on(&server, &mut heard).await;
}

//! Each rule of RFC 9113 that is checked without the state of streams.

use http::{HeaderMap, HeaderValue, StatusCode};

use super::{LIMITS, after_opening, decode, decode_with, frame, opening};
use crate::{
    frame::{
        Decoder, Frame, FrameError, Parameters, code, encode,
        head::{ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE},
        head::{RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY},
    },
    hpack::{Encoder, Indexing},
};

/// A request's block: CONNECT to a:1.
fn block() -> Vec<u8> {
    fields(&[(":method", "CONNECT"), (":authority", "a:1")])
}

fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    for (name, value) in fields {
        encoder.field(&mut out, name, value.as_bytes(), Indexing::Once);
    }
    out
}

/// These frames end the connection with this code.
#[track_caller]
fn ends(bytes: &[u8], expected: u32) {
    match after_opening(bytes).1 {
        Some(FrameError::Connection { code, .. }) if code == expected => {}
        other => panic!("{other:?} in place of {}", code::name(expected)),
    }
}

/// These frames are accepted, and say this many things.
#[track_caller]
fn says(bytes: &[u8], frames: usize) {
    let (decoded, end) = after_opening(bytes);
    assert_eq!((decoded.len(), end), (frames, None), "{decoded:?}");
}

/// Whether the fields are a request, and whether they are an answer.
fn judged(list: &[(&str, &str)]) -> (Result<(), &'static str>, Result<StatusCode, &'static str>) {
    let mut decoder = Decoder::server(LIMITS);
    decoder.push(opening().into());
    decoder.push(frame(HEADERS, END_HEADERS, 1, &fields(list)).into());
    decoder.next().unwrap();
    let Some(Frame::Headers { fields, .. }) = decoder.next().unwrap() else { panic!("no headers") };
    (fields.request(), fields.answer())
}

#[test]
fn a_client_begins_with_its_preface_and_both_with_settings() {
    let bad = |bytes: &[u8]| matches!(decode([bytes]).1, Some(FrameError::Connection { code: code::PROTOCOL_ERROR, .. }));
    assert!(bad(b"GET / HTTP/1.1\r\n"));
    assert!(bad(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"));
    assert!(bad(&[&opening()[..24], &frame(PING, 0, 0, &[0; 8])].concat()));
    assert!(bad(&[&opening()[..24], &frame(SETTINGS, ACK, 0, &[])].concat()));
    let mut decoder = Decoder::client(LIMITS);
    decoder.push(frame(PING, 0, 0, &[0; 8]).into());
    assert!(!decoder.begun());
    decoder.next().unwrap_err();
    assert_eq!(decode_with(Decoder::client(LIMITS), [frame(SETTINGS, 0, 0, &[]).as_slice()]).1, None);
}

#[test]
fn frames_that_belong_to_a_stream_have_one_and_those_of_the_connection_have_none() {
    for (kind, payload) in [(DATA, vec![0; 3]), (HEADERS, block()), (RST_STREAM, vec![0; 4]), (PRIORITY, vec![0; 5])] {
        ends(&frame(kind, END_HEADERS, 0, &payload), code::PROTOCOL_ERROR);
    }
    for (kind, payload) in [(SETTINGS, vec![]), (PING, vec![0; 8]), (GOAWAY, vec![0; 8])] {
        ends(&frame(kind, 0, 1, &payload), code::PROTOCOL_ERROR);
    }
    for (kind, payload) in [(DATA, vec![0; 3]), (HEADERS, block()), (RST_STREAM, vec![0; 4]), (WINDOW_UPDATE, vec![0, 0, 0, 1])] {
        ends(&frame(kind, END_HEADERS, 2, &payload), code::PROTOCOL_ERROR);
    }
    says(&frame(PRIORITY, 0, 2, &[0; 5]), 0);
}

#[test]
fn each_kind_of_frame_has_its_lengths() {
    for (kind, flags, stream, length) in [
        (PRIORITY, 0, 1, 4),
        (PRIORITY, 0, 1, 6),
        (RST_STREAM, 0, 1, 3),
        (RST_STREAM, 0, 1, 5),
        (SETTINGS, 0, 0, 5),
        (SETTINGS, ACK, 0, 6),
        (PING, 0, 0, 7),
        (PING, ACK, 0, 9),
        (GOAWAY, 0, 0, 7),
        (WINDOW_UPDATE, 0, 0, 3),
        (WINDOW_UPDATE, 0, 1, 5),
        (DATA, PADDED, 1, 0),
        (HEADERS, PADDED, 1, 0),
        (HEADERS, WITH_PRIORITY, 1, 4),
        (DATA, 0, 1, (1 << 20) + 1),
        (0xfa, 0, 1, (1 << 20) + 1),
    ] {
        ends(&frame(kind, flags, stream, &vec![0; length]), code::FRAME_SIZE_ERROR);
    }
    says(&frame(GOAWAY, 0, 0, &[0; 100]), 1);
    says(&frame(DATA, 0, 1, &[0; 1 << 20]), 1);
}

#[test]
fn settings_are_checked_one_by_one_and_unknown_ones_ignored() {
    let entry = |kind: u16, value: u32| [kind.to_be_bytes().as_slice(), &value.to_be_bytes()].concat();
    for (kind, value, expected) in [
        (2, 2, code::PROTOCOL_ERROR),
        (4, 1 << 31, code::FLOW_CONTROL_ERROR),
        (5, (1 << 14) - 1, code::PROTOCOL_ERROR),
        (5, 1 << 24, code::PROTOCOL_ERROR),
        (8, 2, code::PROTOCOL_ERROR),
    ] {
        ends(&frame(SETTINGS, 0, 0, &entry(kind, value)), expected);
    }
    ends(&frame(SETTINGS, 0, 0, &entry(9, 0).repeat(200)), code::ENHANCE_YOUR_CALM);
    let good =
        [entry(1, 0), entry(2, 0), entry(3, 7), entry(4, 5), entry(4, 6), entry(5, 1 << 14), entry(6, 9), entry(77, 9)].concat();
    let mut decoder = Decoder::client(LIMITS);
    decoder.push(frame(SETTINGS, 0, 0, &good).into());
    let Some(Frame::Settings(read)) = decoder.next().unwrap() else { panic!("no settings") };
    assert!(decoder.begun());
    let expected = Parameters {
        header_table_size: Some(0),
        enable_push: Some(false),
        max_concurrent_streams: Some(7),
        initial_window_size: Some(6),
        max_frame_size: Some(1 << 14),
        max_header_list_size: Some(9),
    };
    assert_eq!(read, expected);
    decoder.push(frame(SETTINGS, 0, 0, &entry(2, 1)).into());
    decoder.next().expect_err("a server takes no pushes");
    let mut out = Vec::new();
    encode::settings(&mut out, &expected);
    assert_eq!(decode_with(Decoder::client(LIMITS), [out.as_slice()]).0, [format!("Settings({expected:?})")]);
}

#[test]
fn a_window_update_by_nothing_is_an_error_of_its_stream_or_of_the_connection() {
    ends(&frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0]), code::PROTOCOL_ERROR);
    let (frames, end) = after_opening(&frame(WINDOW_UPDATE, 0, 5, &[0; 4]));
    assert_eq!((frames.len(), end), (1, None));
    assert!(frames[0].contains("PROTOCOL_ERROR"));
    let (frames, _) = after_opening(&frame(WINDOW_UPDATE, 0, 5, &[0xff; 4]));
    assert_eq!(frames, ["WindowUpdate { stream: 5, increment: 2147483647 }"]);
}

#[test]
fn padding_is_taken_off_and_counts_for_the_windows() {
    let (frames, _) = after_opening(&frame(DATA, PADDED | END_STREAM, 1, &[3, b'a', b'b', 0, 0, 0]));
    assert_eq!(frames, ["data 1 end 6 6162"]);
    let (frames, _) = after_opening(&frame(DATA, PADDED, 1, &[2, 0, 0]));
    assert_eq!(frames, ["data 1 open 3 "]);
    ends(&frame(DATA, PADDED, 1, &[3, 0, 0]), code::PROTOCOL_ERROR);
    ends(&frame(HEADERS, PADDED | END_HEADERS, 1, &[3, 0, 0]), code::PROTOCOL_ERROR);
    let padded = [&[2, 0, 0, 0, 0, 0], block().as_slice(), &[0, 0]].concat();
    says(&frame(HEADERS, PADDED | WITH_PRIORITY | END_HEADERS, 1, &padded), 1);
}

#[test]
fn a_header_block_is_not_interrupted_and_is_bounded() {
    let start = frame(HEADERS, 0, 1, &block()[..1]);
    let rest = frame(CONTINUATION, END_HEADERS, 1, &block()[1..]);
    says(&[start.clone(), rest.clone()].concat(), 1);
    says(&[start.clone(), frame(CONTINUATION, 0, 1, &[]), rest.clone()].concat(), 1);
    ends(&rest, code::PROTOCOL_ERROR);
    let other = frame(CONTINUATION, END_HEADERS, 3, &block()[1..]);
    for between in [frame(PING, 0, 0, &[0; 8]), frame(0xfa, 0, 0, &[]), frame(PRIORITY, 0, 1, &[0; 5]), start.clone(), other] {
        ends(&[start.clone(), between].concat(), code::PROTOCOL_ERROR);
    }
    ends(&[start.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(40)].concat(), code::ENHANCE_YOUR_CALM);
    ends(&[start, frame(CONTINUATION, 0, 1, &[0; 16 << 10]).repeat(5)].concat(), code::ENHANCE_YOUR_CALM);
    ends(&frame(HEADERS, 0, 1, &[0; 65 << 10]), code::ENHANCE_YOUR_CALM);
    ends(&frame(HEADERS, END_HEADERS, 1, &[0x80]), code::COMPRESSION_ERROR);
}

#[test]
fn pushes_are_refused_and_unknown_frames_ignored() {
    ends(&frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 10]), code::PROTOCOL_ERROR);
    says(&frame(0xfa, 0xff, 2, &[0; 100]), 0);
}

#[test]
fn a_list_beyond_the_limit_is_dropped_and_compression_goes_on() {
    let (mut encoder, mut bytes) = (Encoder::new(), Vec::new());
    let list = |name: &'static str, length: usize| -> HeaderMap {
        [(name.parse().unwrap(), "a".repeat(length).parse().unwrap())].into_iter().collect()
    };
    for (stream, headers) in [(1, list("x-long", 17 << 10)), (3, list("baggage", 100)), (5, list("baggage", 100))] {
        encode::headers(&mut bytes, &mut encoder, stream, encode::Opening::Connect("a:1"), &headers, false, 1 << 20);
    }
    let mut decoder = Decoder::server(LIMITS);
    decoder.push(opening().into());
    decoder.push(bytes.into());
    decoder.next().unwrap();
    for oversized in [true, false, false] {
        let Some(Frame::Headers { fields, .. }) = decoder.next().unwrap() else { panic!("no headers") };
        assert_eq!(fields.request(), Ok(()));
        assert_eq!(fields.oversized, oversized);
        assert_eq!(fields.headers.contains_key("baggage"), !oversized);
    }
}

#[test]
fn a_short_block_that_stands_for_megabytes_ends_the_connection() {
    let (mut encoder, mut block) = (Encoder::new(), Vec::new());
    encoder.field(&mut block, "x-a", &[b'a'; 4000], Indexing::Keep);
    block.extend([0x80 | 62; 3]);
    says(&frame(HEADERS, END_HEADERS, 1, &block), 1);
    block.extend([0x80 | 62; 80]);
    ends(&frame(HEADERS, END_HEADERS, 1, &block), code::ENHANCE_YOUR_CALM);
}

#[test]
fn a_request_and_an_answer_have_their_own_fields_in_order() {
    let connect = [(":method", "CONNECT"), (":authority", "a:1")];
    let with = |more: &[(&'static str, &'static str)]| judged(&[&connect[..], more].concat()).0;
    assert_eq!(with(&[("te", "trailers"), ("x-a", "b"), ("cookie", "a"), ("cookie", "b")]), Ok(()));
    assert_eq!(judged(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]).0, Ok(()));
    for bad in [
        &[(":path", "/")][..],
        &[(":scheme", "http")],
        &[(":protocol", "websocket")],
        &[(":status", "200")],
        &[(":other", "a")],
        &[(":method", "CONNECT")],
        &[(":authority", "b:1")],
        &[("x-a", "b"), (":scheme", "http")],
        &[("X-A", "b")],
        &[("x a", "b")],
        &[("", "b")],
        &[("x-a", "b\n")],
        &[("x-a", "\0")],
        &[("x-a", " b")],
        &[("x-a", "b\t")],
        &[("connection", "close")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
    ] {
        with(bad).unwrap_err();
    }
    for bad in [
        &[][..],
        &[(":method", "CONNECT")],
        &[(":authority", "a:1")],
        &[(":method", "CONNECT"), (":authority", "a :1")],
        &[(":method", "CON NECT"), (":authority", "a:1")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "")],
        &[(":method", "GET"), (":path", "/")],
    ] {
        judged(bad).0.unwrap_err();
    }
    assert_eq!(judged(&[(":status", "200"), ("x-a", "b")]).1, Ok(StatusCode::OK));
    for bad in [
        &[][..],
        &[("x-a", "b")],
        &[(":status", "20")],
        &[(":status", "2000")],
        &[(":status", "101")],
        &[(":status", "200"), (":status", "200")],
        &[(":status", "200"), (":path", "/")],
        &[("x-a", "b"), (":status", "200")],
    ] {
        judged(bad).1.unwrap_err();
    }
}

#[test]
fn fields_that_http2_must_not_carry_are_not_sent() {
    let mut headers = HeaderMap::new();
    for name in ["connection", "upgrade", "te", "keep-alive", "transfer-encoding", "x-kept"] {
        headers.insert(name, HeaderValue::from_static(" close "));
    }
    let mut out = opening();
    encode::headers(&mut out, &mut Encoder::new(), 1, encode::Opening::Connect("a:1"), &headers, true, 1 << 14);
    let (frames, end) = decode([out.as_slice()]);
    assert_eq!(end, None);
    assert!(frames[1].contains(r#"Ok(()), Err("an answer with a request's fields"), Err("#), "{}", frames[1]);
    assert!(frames[1].contains(r#"{"x-kept": "close"} false true"#), "{}", frames[1]);
}

#[test]
fn frames_for_nothing_end_the_connection_unless_something_moves() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    for nothing in [&ping, &frame(DATA, 0, 1, &[]), &frame(RST_STREAM, 0, 1, &[0; 4]), &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]
    {
        says(&nothing.repeat(1000), if nothing[3] == DATA { 1 } else { 1000 });
        ends(&nothing.repeat(10_001), code::ENHANCE_YOUR_CALM);
    }
    ends(&frame(DATA, PADDED, 1, &[0]).repeat(10_001), code::ENHANCE_YOUR_CALM);
    ends(&frame(0xfa, 0, 0, &[]).repeat(10_001), code::ENHANCE_YOUR_CALM);
    ends(&frame(SETTINGS, 0, 0, &[]).repeat(700), code::ENHANCE_YOUR_CALM);
    ends(&frame(WINDOW_UPDATE, 0, 1, &[0; 4]).repeat(700), code::ENHANCE_YOUR_CALM);
    assert_eq!(after_opening(&[ping.clone(), frame(DATA, 0, 1, &[7; 1024])].concat().repeat(20_000)).1, None);
    ends(&[ping.clone(), frame(DATA, 0, 1, b"a")].concat().repeat(10_001), code::ENHANCE_YOUR_CALM);
    let mut decoder = Decoder::server(LIMITS);
    decoder.push(opening().into());
    for round in 0..10 {
        decoder.push(ping.repeat(6000).into());
        while decoder.next().unwrap().is_some() {}
        if round % 2 == 0 { decoder.renew() } else { decoder.progress(1500) }
    }
}

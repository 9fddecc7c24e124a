//! Whatever the chunks in which bytes arrive, the frames are the same.

use std::ops::Range;

use fastrand::Rng;
use http::HeaderMap;

use super::{decode, frame, noise, opening, word};
use crate::{
    frame::{
        Parameters, encode,
        head::{CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PRIORITY, WINDOW_UPDATE, WITH_PRIORITY},
    },
    hpack::Encoder,
};

/// One of each kind, padded and not, empty and not, with a block in one frame and in three.
pub(crate) fn of_each_kind() -> Vec<u8> {
    let (mut hpack, mut out) = (Encoder::new(), opening());
    let headers: HeaderMap =
        [("baggage".parse().unwrap(), "a=b".parse().unwrap()), ("x-some".parse().unwrap(), "b".parse().unwrap())]
            .into_iter()
            .collect();
    encode::headers(&mut out, &mut hpack, 1, encode::Opening::Connect("10.0.0.1:80"), &headers, false, 1 << 14);
    let mut block = Vec::new();
    encode::headers(&mut block, &mut hpack, 3, encode::Opening::Connect("10.0.0.2:80"), &headers, false, 1 << 14);
    let block = &block[9..];
    let first = [&[1, 0, 0, 0, 0, 0], &block[..3], &[0]].concat();
    out.extend(frame(HEADERS, PADDED | WITH_PRIORITY | END_STREAM, 3, &first));
    out.extend(frame(CONTINUATION, 0, 3, &[]));
    out.extend(frame(CONTINUATION, END_HEADERS, 3, &block[3..]));
    out.extend(frame(DATA, 0, 1, b"hello"));
    out.extend(frame(DATA, PADDED, 1, &[4, b'x', 0, 0, 0, 0]));
    out.extend(frame(DATA, PADDED, 1, &[1, 0]));
    out.extend(frame(DATA, 0, 1, &[]));
    out.extend(frame(PRIORITY, 0, 4, &[0; 5]));
    out.extend(frame(WINDOW_UPDATE, 0, 5, &[0; 4]));
    out.extend(frame(0xab, 7, 8, b"unknown"));
    let says = Parameters { initial_window_size: Some(77), max_frame_size: Some(1 << 14), ..Parameters::default() };
    encode::settings(&mut out, &says);
    encode::settings_ack(&mut out);
    encode::ping(&mut out, *b"12345678");
    encode::pong(&mut out, *b"87654321");
    encode::window_update(&mut out, 0, 9);
    encode::window_update(&mut out, 1, 1 << 30);
    encode::reset(&mut out, 3, 8);
    encode::goaway(&mut out, 1, 0);
    out.extend(frame(GOAWAY, 0, 0, b"........and why"));
    out.extend(encode::data_head(1, 3, true));
    out.extend(b"end");
    out
}

#[test]
fn a_border_anywhere_changes_nothing() {
    let bytes = of_each_kind();
    let whole = decode([bytes.as_slice()]);
    assert_eq!((whole.0.len(), whole.1), (15, None), "{:#?}", whole.0);
    assert_eq!(decode(bytes.chunks(1)), whole);
    for at in 0..bytes.len() {
        let (before, after) = bytes.split_at(at);
        assert_eq!(decode([before, after]), whole, "at {at}");
        for width in [1, 2, 9] {
            let (piece, rest) = after.split_at(width.min(after.len()));
            assert_eq!(decode([before, piece, rest]), whole, "at {at}");
        }
    }
}

#[test]
fn an_error_is_the_same_whatever_the_chunks() {
    let mut bytes = of_each_kind();
    bytes.extend(frame(DATA, PADDED, 1, &[9, 1, 2]));
    let whole = decode([bytes.as_slice()]);
    assert!(whole.1.is_some());
    assert_eq!(decode(bytes.chunks(1)), whole);
    assert_eq!(decode(bytes.chunks(7)), whole);
}

/// Random frames that keep to the protocol.
fn some_frames(random: &mut Rng, count: Range<usize>) -> Vec<u8> {
    let (mut hpack, mut out) = (Encoder::new(), opening());
    for _ in 0..random.usize(count) {
        let stream = random.u32(..50) * 2 + 1;
        let payload = noise(random, 300);
        match random.u8(..8) {
            0 => {
                let value = word(random, 40_000);
                let name = ["baggage", "x-any"][random.usize(..2)];
                let headers = [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect();
                let end = random.bool();
                encode::headers(&mut out, &mut hpack, stream, encode::Opening::Connect("a:1"), &headers, end, 1 << 14);
            }
            1 => {
                let padding = random.u8(..);
                let mut padded = vec![padding];
                padded.extend(payload);
                padded.extend(vec![0; padding.into()]);
                out.extend(frame(DATA, PADDED | random.u8(..2), stream, &padded));
            }
            2 => encode::ping(&mut out, random.u64(..).to_be_bytes()),
            3 => encode::window_update(&mut out, stream, random.u32(1..1 << 31)),
            4 => out.extend(frame(random.u8(10..), random.u8(..), random.u32(..), &payload)),
            _ => out.extend(frame(DATA, random.u8(..2), stream, &payload)),
        }
    }
    out
}

#[test]
fn random_frames_in_random_chunks_are_those_of_one_chunk() {
    for seed in 0..20 {
        let mut random = Rng::with_seed(seed);
        let bytes = some_frames(&mut random, 1..60);
        let whole = decode([bytes.as_slice()]);
        assert_eq!(whole.1, None);
        for _ in 0..4 {
            let longest = [3, 50, 20_000][random.usize(..3)];
            let mut chunks = Vec::new();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(random.usize(..longest).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            assert_eq!(decode(chunks), whole, "seed {seed}");
        }
    }
}

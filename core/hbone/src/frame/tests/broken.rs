//! Frames with a few bytes changed, cut out, doubled: never a panic, and no more memory than the limits say.

use bytes::Bytes;
use fastrand::Rng;

use super::{LIMITS, frame, noise, of_each_kind};
use crate::frame::{Decoder, Frame, FrameError, Limits, PREFACE, head};

/// Changes a few bytes, mostly in a way that leaves something to decode.
fn mutate(random: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.u8(1..6) {
        let at = random.usize(PREFACE.len()..bytes.len());
        match random.u8(..6) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(..8),
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => {
                bytes.remove(at);
            }
            4 => bytes.insert(at, random.u8(..)),
            _ => {
                let end = (at + random.usize(..30)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// Decodes all, and checks what it may cost. Returns how many frames there were.
fn survive(mut decoder: Decoder, limits: &Limits, chunks: &[Bytes]) -> usize {
    let (mut arrived, mut delivered, mut frames) = (0, 0, 0);
    for chunk in chunks {
        arrived += chunk.len();
        decoder.push(chunk.clone());
        loop {
            match decoder.next() {
                Ok(None) => break,
                Ok(Some(Frame::Data { data, credit, .. })) => {
                    delivered += data.len();
                    assert!(u32::try_from(data.len()).unwrap() <= credit);
                }
                Ok(Some(Frame::Headers { fields, stream, .. })) => {
                    assert!(!stream.is_multiple_of(2));
                    let kept: usize = fields.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
                    assert!(kept <= limits.max_header_bytes as usize);
                }
                Ok(Some(_)) | Err(FrameError::Stream { .. }) => {}
                Err(FrameError::Connection { .. }) => return frames,
            }
            frames += 1;
        }
        assert!(decoder.held() <= limits.most_held(), "{} bytes held", decoder.held());
        assert!(delivered <= arrived);
    }
    frames
}

#[test]
fn two_hundred_thousand_broken_inputs_are_survived() {
    let good = of_each_kind();
    let mut random = Rng::with_seed(7);
    let (mut frames, mut most) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = good.clone();
        mutate(&mut random, &mut bytes);
        let (decoder, bytes) = if random.u8(..4) > 0 {
            (Decoder::server(LIMITS), Bytes::from(bytes))
        } else {
            (Decoder::client(LIMITS), Bytes::from(bytes).slice(PREFACE.len()..))
        };
        let mut rest = bytes.clone();
        let before = rest.split_to(random.usize(..bytes.len()));
        let found = survive(decoder, &LIMITS, &[before, rest]);
        frames += found;
        most = most.max(found);
    }
    assert!(frames > 1_000_000 && most >= 18, "{frames} frames, {most} at most: the inputs are too broken to tell anything");
}

#[test]
fn random_bytes_behind_plausible_heads_are_survived() {
    let limits = Limits { max_frame_size: 1 << 14, max_header_bytes: 500, frames_for_nothing: 50 };
    let mut random = Rng::with_seed(8);
    for _ in 0..20_000 {
        let mut bytes = frame(head::SETTINGS, 0, 0, &[]);
        for _ in 0..10 {
            let payload = noise(&mut random, 80);
            bytes.extend(frame(random.u8(..11), random.u8(..), random.u32(..6), &payload));
        }
        survive(Decoder::client(limits), &limits, &[bytes.into()]);
    }
}

#[test]
fn what_a_long_frame_announces_is_not_set_aside() {
    let mut decoder = Decoder::client(LIMITS);
    let mut bytes = frame(head::SETTINGS, 0, 0, &[]);
    bytes.extend(&frame(head::HEADERS, 0, 1, &[0; 60_000])[..100]);
    decoder.push(bytes.into());
    while decoder.next().unwrap().is_some() {}
    assert!(decoder.held() < 1000, "{} bytes held", decoder.held());
}

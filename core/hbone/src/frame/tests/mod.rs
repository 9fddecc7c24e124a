//! Frames: the rules, borders of chunks, random and broken input, and a foreign implementation as the peer.

mod broken;
mod peer;
mod pieces;
mod rules;

use bytes::Bytes;
pub(crate) use pieces::of_each_kind;

use super::{Decoder, Frame, FrameError, Limits, PREFACE, Parameters, encode, head};

const LIMITS: Limits = Limits { max_frame_size: 1 << 20, max_header_bytes: 16 << 10, frames_for_nothing: 10_000 };

/// A frame of any kind, right or wrong.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    let mut out = head::Head { len, kind, flags, stream }.write().to_vec();
    out.extend_from_slice(payload);
    out
}

/// Fewer than `most` bytes.
fn noise(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let length = random.usize(..most);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Fewer than `most` letters and digits.
fn word(random: &mut fastrand::Rng, most: usize) -> String {
    let length = random.usize(..most);
    (0..length).map(|_| random.alphanumeric()).collect()
}

/// What a client says before anything else.
fn opening() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    encode::settings(&mut out, &Parameters::default());
    out
}

/// What came out of a decoder: frames as text, the pieces of DATA put together, stream errors among them; and how it ended.
type Decoded = (Vec<String>, Option<FrameError>);

/// Takes all frames that are there.
fn drain(decoder: &mut Decoder, frames: &mut Vec<String>) -> Option<FrameError> {
    loop {
        let text = match decoder.next() {
            Ok(None) => return None,
            Err(error @ FrameError::Connection { .. }) => {
                assert_eq!(decoder.next().unwrap_err(), error, "a connection ends once");
                return Some(error);
            }
            Err(error) => error.to_string(),
            Ok(Some(Frame::Headers { stream, fields, end })) => {
                let kind = (fields.request(), fields.answer(), fields.trailer());
                format!("headers {stream} {kind:?} {:?} {:?} {} {end}", fields.authority, fields.headers, fields.oversized)
            }
            Ok(Some(Frame::Data { stream, data, credit, end })) => {
                let mut parts = (data.to_vec(), credit);
                if let Some(before) = frames.pop_if(|before| before.starts_with(&format!("data {stream} open "))) {
                    let mut words = before.split(' ').skip(3);
                    parts.1 += words.next().unwrap().parse::<u32>().unwrap();
                    let text = words.next().unwrap();
                    let bytes = (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap());
                    parts.0 = bytes.chain(parts.0).collect();
                }
                let text: String = parts.0.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("data {stream} {} {} {text}", if end { "end" } else { "open" }, parts.1)
            }
            Ok(Some(frame)) => format!("{frame:?}"),
        };
        frames.push(text);
    }
}

/// Decodes what a client sends, in these chunks.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    decode_with(Decoder::server(LIMITS), chunks)
}

fn decode_with<'a>(mut decoder: Decoder, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        if let Some(error) = drain(&mut decoder, &mut frames) {
            return (frames, Some(error));
        }
    }
    (frames, None)
}

/// Decodes what a client sends after its opening, in one chunk; the opening's own frame is left out.
fn after_opening(bytes: &[u8]) -> Decoded {
    let (mut frames, end) = decode([opening().as_slice(), bytes]);
    frames.remove(0);
    (frames, end)
}

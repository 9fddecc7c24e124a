//! The frames that we send: each function appends one to the bytes on their way.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    HEAD, PREFACE, Parameters,
    fields::is_of_connection,
    head::{self, Head},
    parameters,
};
use crate::hpack::{Encoder, Indexing};

/// What a header block begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opening<'a> {
    /// A CONNECT to this authority (RFC 9113, section 8.5).
    Connect(&'a str),
    /// An answer.
    Status(StatusCode),
}

/// What a client begins with, before its SETTINGS.
pub(crate) fn preface(out: &mut Vec<u8>) {
    out.extend_from_slice(PREFACE);
}

/// SETTINGS.
pub(crate) fn settings(out: &mut Vec<u8>, says: &Parameters) {
    let entries = [
        (parameters::HEADER_TABLE_SIZE, says.header_table_size),
        (parameters::ENABLE_PUSH, says.enable_push.map(u32::from)),
        (parameters::MAX_CONCURRENT_STREAMS, says.max_concurrent_streams),
        (parameters::INITIAL_WINDOW_SIZE, says.initial_window_size),
        (parameters::MAX_FRAME_SIZE, says.max_frame_size),
        (parameters::MAX_HEADER_LIST_SIZE, says.max_header_list_size),
    ];
    let entries = entries.iter().filter_map(|(kind, value)| Some((*kind, (*value)?)));
    let len = entries.clone().map(|_| 6).sum();
    out.extend_from_slice(&Head { len, kind: head::SETTINGS, flags: 0, stream: 0 }.write());
    for (kind, value) in entries {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// The answer to the peer's SETTINGS.
pub(crate) fn settings_ack(out: &mut Vec<u8>) {
    out.extend_from_slice(&Head { len: 0, kind: head::SETTINGS, flags: head::ACK, stream: 0 }.write());
}

/// PING.
pub(crate) fn ping(out: &mut Vec<u8>, payload: [u8; 8]) {
    out.extend_from_slice(&Head { len: 8, kind: head::PING, flags: 0, stream: 0 }.write());
    out.extend_from_slice(&payload);
}

/// The answer to the peer's PING.
pub(crate) fn pong(out: &mut Vec<u8>, payload: [u8; 8]) {
    out.extend_from_slice(&Head { len: 8, kind: head::PING, flags: head::ACK, stream: 0 }.write());
    out.extend_from_slice(&payload);
}

/// GOAWAY: streams of the peer beyond `last` were not and will not be looked at.
pub(crate) fn goaway(out: &mut Vec<u8>, last: u32, code: u32) {
    out.extend_from_slice(&Head { len: 8, kind: head::GOAWAY, flags: 0, stream: 0 }.write());
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
}

/// WINDOW_UPDATE, of the connection for stream 0. The increment is between 1 and 2^31-1.
pub(crate) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    out.extend_from_slice(&Head { len: 4, kind: head::WINDOW_UPDATE, flags: 0, stream }.write());
    out.extend_from_slice(&increment.to_be_bytes());
}

/// RST_STREAM.
pub(crate) fn reset(out: &mut Vec<u8>, stream: u32, code: u32) {
    out.extend_from_slice(&Head { len: 4, kind: head::RST_STREAM, flags: 0, stream }.write());
    out.extend_from_slice(&code.to_be_bytes());
}

/// The head of a DATA frame with `len` bytes.
pub(crate) fn data_head(stream: u32, len: u32, end: bool) -> [u8; HEAD] {
    Head { len, kind: head::DATA, flags: if end { head::END_STREAM } else { 0 }, stream }.write()
}

/// HEADERS, with CONTINUATIONs when the block is longer than `max_frame`, the peer's SETTINGS_MAX_FRAME_SIZE. Fields that HTTP/2 must
/// not carry are left out. The blocks must go out in the order in which they were encoded, each in one piece with nothing between.
pub(crate) fn headers(
    out: &mut Vec<u8>,
    hpack: &mut Encoder,
    stream: u32,
    opening: Opening<'_>,
    fields: &HeaderMap,
    end: bool,
    max_frame: u32,
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    hpack.begin(out);
    match opening {
        Opening::Connect(authority) => {
            hpack.field(out, ":method", b"CONNECT", Indexing::Keep);
            hpack.field(out, ":authority", authority.as_bytes(), Indexing::Keep);
        }
        Opening::Status(status) => hpack.field(out, ":status", status.as_str().as_bytes(), Indexing::Keep),
    }
    for (name, value) in fields {
        if !is_of_connection(name) && *name != header::TE {
            hpack.field(out, name.as_str(), value.as_bytes().trim_ascii(), indexing(name.as_str(), value));
        }
    }
    let end = if end { head::END_STREAM } else { 0 };
    let max_frame = usize::try_from(max_frame).unwrap_or(usize::MAX).max(1 << 14);
    let block = out.len() - start - HEAD;
    if block <= max_frame {
        let head = Head { len: length(block), kind: head::HEADERS, flags: head::END_HEADERS | end, stream };
        return set(out, start, head);
    }
    let rest = out.split_off(start + HEAD + max_frame);
    set(out, start, Head { len: length(max_frame), kind: head::HEADERS, flags: end, stream });
    let mut parts = rest.chunks(max_frame).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { head::END_HEADERS } else { 0 };
        out.extend_from_slice(&Head { len: length(part.len()), kind: head::CONTINUATION, flags, stream }.write());
        out.extend_from_slice(part);
    }
}

/// `baggage` says who the workload is and is the same in each request; all other fields that tunnels carry differ.
fn indexing(name: &str, value: &HeaderValue) -> Indexing {
    match name {
        _ if value.is_sensitive() => Indexing::Never,
        "authorization" | "proxy-authorization" | "cookie" | "set-cookie" => Indexing::Never,
        "baggage" => Indexing::Keep,
        _ => Indexing::Once,
    }
}

fn set(out: &mut [u8], start: usize, head: Head) {
    if let Some(place) = out.get_mut(start..start + HEAD) {
        place.copy_from_slice(&head.write());
    }
}

/// No longer than a frame, so it always fits.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(0)
}

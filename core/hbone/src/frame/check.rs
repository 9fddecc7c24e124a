//! What a frame's head must be like, whatever came before.

use super::{
    FrameError,
    head::{self, Head},
    limits::SETTINGS,
};

/// Which frames belong to a stream and which to the connection. Servers open no streams, as we take no pushes, so that those of even
/// numbers are idle for ever; only PRIORITY may name them (RFC 9113, sections 5.1 and 5.1.1).
pub(super) fn stream(head: Head) -> Result<(), FrameError> {
    match head.kind {
        head::DATA | head::HEADERS | head::RST_STREAM | head::CONTINUATION if head.stream == 0 => {
            Err(FrameError::protocol("a stream's frame without stream"))
        }
        head::PRIORITY if head.stream == 0 => Err(FrameError::protocol("PRIORITY without stream")),
        head::SETTINGS | head::PING | head::GOAWAY if head.stream != 0 => {
            Err(FrameError::protocol("a connection's frame with a stream"))
        }
        head::DATA | head::HEADERS | head::RST_STREAM | head::CONTINUATION | head::WINDOW_UPDATE
            if head.stream != 0 && head.stream.is_multiple_of(2) =>
        {
            Err(FrameError::protocol("a frame of a stream that cannot be open"))
        }
        _ => Ok(()),
    }
}

/// The lengths that a type of frame can have.
pub(super) fn length(head: Head) -> Result<(), FrameError> {
    let Head { len, .. } = head;
    match head.kind {
        head::DATA if head.has(head::PADDED) && len == 0 => Err(FrameError::size("DATA too short for its padding")),
        head::HEADERS if len < least(head) => Err(FrameError::size("HEADERS too short for what its flags say")),
        // An error of its stream by section 6.3, which may be idle, and then nothing can be said of it but to the connection.
        head::PRIORITY if len != 5 => Err(FrameError::size("PRIORITY of a wrong length")),
        head::RST_STREAM if len != 4 => Err(FrameError::size("RST_STREAM of a wrong length")),
        head::SETTINGS if head.has(head::ACK) && len != 0 => Err(FrameError::size("SETTINGS with an answer's flag and contents")),
        head::SETTINGS if !len.is_multiple_of(6) => Err(FrameError::size("SETTINGS of a wrong length")),
        head::SETTINGS if len > SETTINGS * 6 => Err(FrameError::calm("SETTINGS with far too many entries")),
        head::PING if len != 8 => Err(FrameError::size("PING of a wrong length")),
        head::GOAWAY if len < 8 => Err(FrameError::size("GOAWAY of a wrong length")),
        head::WINDOW_UPDATE if len != 4 => Err(FrameError::size("WINDOW_UPDATE of a wrong length")),
        _ => Ok(()),
    }
}

/// What HEADERS must have beside the block's fragment.
fn least(head: Head) -> u32 {
    u32::from(head.has(head::PADDED)) + if head.has(head::WITH_PRIORITY) { 5 } else { 0 }
}

/// The header block's fragment in HEADERS: without padding, and without the priority, which says nothing (RFC 9113, section 5.3.2).
pub(super) fn fragment(head: Head, mut payload: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    if head.has(head::PADDED) {
        let (first, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if head.has(head::WITH_PRIORITY) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

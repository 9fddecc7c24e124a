//! HEADERS and CONTINUATIONs to header lists (RFC 9113, section 4.3).

use super::{
    Fields, Frame, FrameError, Limits, check, code,
    decoder::size,
    head::{self, Head},
    limits::CONTINUATIONS,
};
use crate::hpack;

/// The header blocks of one connection, one after another.
#[derive(Debug)]
pub(super) struct Blocks {
    limits: Limits,
    hpack: hpack::Decoder,
    /// A block that CONTINUATIONs are to complete.
    open: Option<Open>,
    /// How many there were.
    count: u32,
}

#[derive(Debug)]
struct Open {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

impl Blocks {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, hpack: hpack::Decoder::new(), open: None, count: 0 }
    }

    /// Nothing may come between the frames of a block, and CONTINUATION nowhere else (RFC 9113, section 6.10).
    pub(super) fn in_order(&self, head: Head) -> Result<(), FrameError> {
        match &self.open {
            Some(open) if head.kind != head::CONTINUATION || head.stream != open.stream => {
                Err(FrameError::protocol("a frame within a header block"))
            }
            None if head.kind == head::CONTINUATION => Err(FrameError::protocol("CONTINUATION without a header block")),
            _ => Ok(()),
        }
    }

    /// Whether this part may be taken in.
    pub(super) fn room(&self, head: Head) -> Result<(), FrameError> {
        let before = self.open.as_ref().map_or(0, |open| open.bytes.len());
        if before.saturating_add(size(head.len)) > self.limits.block() {
            return Err(FrameError::calm("a header block that is far too long"));
        }
        Ok(())
    }

    /// Takes a part, and returns the fields with the last one. A block in one part is decoded where it lies.
    pub(super) fn take(&mut self, head: Head, payload: &[u8]) -> Result<Option<Frame>, FrameError> {
        let last = head.has(head::END_HEADERS);
        let Some(mut open) = self.open.take() else {
            let fragment = check::fragment(head, payload).ok_or_else(|| FrameError::protocol("more padding than payload"))?;
            let end = head.has(head::END_STREAM);
            if last {
                return self.decode(head.stream, fragment, end);
            }
            self.open = Some(Open { stream: head.stream, end, bytes: fragment.to_vec(), continuations: 0 });
            return Ok(None);
        };
        open.bytes.extend_from_slice(payload);
        open.continuations += 1;
        if last {
            return self.decode(open.stream, &open.bytes, open.end);
        }
        if open.continuations >= CONTINUATIONS {
            return Err(FrameError::calm("a header block in far too many pieces"));
        }
        self.open = Some(open);
        Ok(None)
    }

    /// Whether CONTINUATIONs are to come.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How many blocks have come whole.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes.capacity())
    }

    fn decode(&mut self, stream: u32, block: &[u8], end: bool) -> Result<Option<Frame>, FrameError> {
        self.count = self.count.wrapping_add(1);
        let most = size(self.limits.max_header_bytes);
        let mut fields = Box::<Fields>::default();
        let decoded = self.hpack.decode(block, |field| fields.add(field, most));
        if fields.absurd(most) {
            return Err(FrameError::calm("a header list that is far too long"));
        }
        decoded.map_err(|hpack::BadBlock(why)| FrameError::Connection { code: code::COMPRESSION_ERROR, why })?;
        Ok(Some(Frame::Headers { stream, fields, end }))
    }
}

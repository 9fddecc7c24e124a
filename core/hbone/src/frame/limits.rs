//! What a peer may cost.
//!
//! A peer that sends frames which move nothing (pings, settings, empty DATA, resets, window updates, headers of streams that are refused)
//! makes us work for nothing. Each of them costs a part of an allowance. What moves something gives it back: DATA that arrives, and
//! ([`super::Decoder::progress`]) each frame of ours that carries an answer or bytes, which is also what window updates and resets of
//! honest peers follow from. Time gives it back too ([`super::Decoder::renew`]), as an idle connection has its pings.
//!
//! Not counted here, as it depends on the streams or on what waits to be sent: answers that the peer does not read (the caller bounds its
//! unsent PING and SETTINGS answers and resets), handlers of streams that were reset, bytes that nobody has consumed.

use super::FrameError;

/// Bounds for what is decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Our SETTINGS_MAX_FRAME_SIZE, 16384 or more.
    pub(crate) max_frame_size: u32,
    /// Our SETTINGS_MAX_HEADER_LIST_SIZE: a larger list is decoded, as the compression's state depends on it, but not kept.
    pub(crate) max_header_bytes: u32,
    /// How many frames may come that move nothing until [`super::Decoder::renew`] is called.
    pub(crate) frames_for_nothing: u32,
}

impl Limits {
    /// Ten thousand frames for nothing: with a renewal each 10 s, a thousand a second.
    pub(crate) fn new(max_frame_size: u32, max_header_bytes: u32) -> Self {
        Self { max_frame_size, max_header_bytes, frames_for_nothing: 10_000 }
    }

    /// The longest header block, before it is decoded: the connection of a peer that sends a longer one is ended. Four times the list
    /// that is accepted, so that one which is somewhat too long is refused alone.
    pub(super) fn block(&self) -> usize {
        usize::try_from(self.max_header_bytes).unwrap_or(usize::MAX).saturating_mul(4).max(16 << 10)
    }

    /// The most that is kept of frames that are not complete: a block and a part of its next frame, in buffers that grew by doubling.
    #[cfg(test)]
    pub(crate) fn most_held(&self) -> usize {
        4 * self.block()
    }
}

/// CONTINUATION frames in one block. Senders fill frames of 16 KiB, so that a block of the longest kind needs a few.
pub(super) const CONTINUATIONS: u32 = 32;

/// Entries in one SETTINGS frame, of which a dozen have a meaning.
pub(super) const SETTINGS: u32 = 128;

/// Frames for nothing that cost more than reading them: settings (they change every stream), errors (each is answered with a reset).
pub(super) const DEAR: u32 = 16;

/// How many frames for nothing one of ours may bring about: window updates of stream and connection, a reset, a ping to measure with.
const BROUGHT_ABOUT: u32 = 4;

/// Bytes of one piece that give something back.
const WORTH: u32 = 1 << 10;

/// What is left of the allowance.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    most: u32,
}

impl Allowance {
    pub(super) fn new(most: u32) -> Self {
        Self { left: most, most }
    }

    pub(super) fn spend(&mut self, cost: u32) -> Result<(), FrameError> {
        self.left = self.left.checked_sub(cost).ok_or_else(|| FrameError::calm("too many frames that move nothing"))?;
        Ok(())
    }

    /// Bytes have arrived in a frame. Few of them are no progress: they cost their sender nothing.
    pub(super) fn received(&mut self, len: u32) {
        if len >= WORTH {
            self.left = self.left.saturating_add(1).min(self.most);
        }
    }

    /// We have sent `frames` that carry something.
    pub(super) fn sent(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames.saturating_mul(BROUGHT_ABOUT)).min(self.most);
    }

    pub(super) fn renew(&mut self) {
        self.left = self.most;
    }
}

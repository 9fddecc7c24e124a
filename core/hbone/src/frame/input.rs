//! The bytes that have arrived and were not decoded yet.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Chunks in a row. Usually one, which is used up before the next arrives.
#[derive(Debug, Default)]
pub(super) struct Input {
    first: Bytes,
    rest: VecDeque<Bytes>,
    /// The beginning of something that must be whole and is cut by a chunk's end.
    partial: Vec<u8>,
}

impl Input {
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.rest.push_back(chunk);
        }
    }

    /// Between 1 and `most` bytes as they lie there.
    pub(super) fn piece(&mut self, most: usize) -> Option<Bytes> {
        if self.first.is_empty() || most == 0 {
            return None;
        }
        let piece = self.first.split_to(most.min(self.first.len()));
        self.turn();
        Some(piece)
    }

    /// The next `N` bytes, once they are there.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.partial.is_empty()
            && let Some(array) = self.first.first_chunk().copied()
        {
            self.first.advance(N);
            self.turn();
            return Some(array);
        }
        if !self.gather(N) {
            return None;
        }
        let array = self.partial.first_chunk().copied();
        self.partial.clear();
        array
    }

    /// The next `len` bytes, once they are there; without copy when they lie together.
    pub(super) fn whole(&mut self, len: usize) -> Option<Bytes> {
        if self.partial.is_empty() && self.first.len() >= len {
            return Some(self.piece(len).unwrap_or_default());
        }
        self.gather(len).then(|| Bytes::from(std::mem::take(&mut self.partial)))
    }

    /// Gives back what lists have grown to.
    pub(super) fn trim(&mut self) {
        self.rest.shrink_to_fit();
        self.partial.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.partial.capacity() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    /// Copies until `partial` has `len` bytes. It grows with what has arrived, not with what was announced.
    fn gather(&mut self, len: usize) -> bool {
        while self.partial.len() < len {
            let Some(piece) = self.piece(len - self.partial.len()) else { return false };
            self.partial.extend_from_slice(&piece);
        }
        true
    }

    fn turn(&mut self) {
        if self.first.is_empty() {
            self.first = self.rest.pop_front().unwrap_or_default();
        }
    }
}

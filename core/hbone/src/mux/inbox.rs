//! Bytes that have arrived and wait: to be read out of a tunnel, or for a slow sink.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces smaller than this that have to wait are put together: what is kept of a piece besides its bytes would else be more than the
/// bytes, and each would hold the whole buffer into which it was read.
const SMALL: usize = 4 << 10;
/// Size of the pieces that small ones are put together to.
const BLOCK: usize = 64 << 10;
/// An empty queue of more places is given back.
const PLACES: usize = 16;

/// Pieces in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pieces: VecDeque<Bytes>,
    /// Small pieces at the end.
    open: BytesMut,
    len: usize,
    /// So many of the first pieces hold no more memory than they need.
    compact: usize,
}

impl Inbox {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let waits = self.len > 0;
        self.len += piece.len();
        if waits && piece.len() < SMALL {
            if self.open.len() + piece.len() > BLOCK {
                self.close();
            }
            self.open.extend_from_slice(&piece);
        } else {
            self.close();
            self.pieces.push_back(piece);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close();
        }
        let piece = self.pieces.pop_front()?;
        self.compact = self.compact.saturating_sub(1);
        self.len = self.len.saturating_sub(piece.len());
        self.trim();
        Some(piece)
    }

    /// Shows the first pieces, and says how many.
    pub(crate) fn peek<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let open = Some(&self.open[..]).filter(|open| !open.is_empty());
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces.iter().map(|piece| &piece[..]).chain(open)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// Takes `count` bytes off the front.
    pub(crate) fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        while left > 0 {
            let Some(first) = self.pieces.front_mut() else {
                self.open.advance(left.min(self.open.len()));
                break;
            };
            if first.len() > left {
                first.advance(left);
                break;
            }
            left -= first.len();
            self.pieces.pop_front();
            self.compact = self.compact.saturating_sub(1);
        }
        if self.open.is_empty() && self.open.capacity() > 0 {
            self.open = BytesMut::new();
        }
        self.trim();
    }

    /// Copies what waits, so that it does not hold the buffers into which it was read, of which it may be a small part.
    pub(crate) fn compact(&mut self) {
        for piece in self.pieces.iter_mut().skip(self.compact) {
            *piece = Bytes::copy_from_slice(piece);
        }
        self.compact = self.pieces.len();
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.open).freeze());
        }
    }

    fn trim(&mut self) {
        if self.pieces.is_empty() && self.pieces.capacity() > PLACES {
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in_and_in_fewer_pieces() {
        let mut inbox = Inbox::default();
        let (mut sent, mut received, mut pieces) = (Vec::new(), Vec::new(), 0);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..3000 {
            let length = if random.u8(..10) == 0 { random.usize(SMALL..20_000) } else { random.usize(1..100) };
            let piece: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            sent.extend_from_slice(&piece);
            inbox.push(piece.into());
            match random.u8(..100) {
                0 => {
                    received.extend(inbox.pop().into_iter().flatten());
                    pieces += 1;
                }
                1 => {
                    let mut slices = [IoSlice::new(&[]); 5];
                    let count = inbox.peek(&mut slices);
                    let seen: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                    let count = random.usize(..=seen.len());
                    received.extend_from_slice(&seen[..count]);
                    inbox.advance(count);
                }
                2 => inbox.compact(),
                _ => {}
            }
            assert_eq!(inbox.len(), sent.len() - received.len());
        }
        while let Some(piece) = inbox.pop() {
            received.extend_from_slice(&piece);
            pieces += 1;
        }
        assert!(received == sent);
        assert!(pieces < 1000, "{pieces} pieces");
        assert!(inbox.is_empty() && inbox.pieces.capacity() <= PLACES);
    }
}

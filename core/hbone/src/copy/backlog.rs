//! Bytes that wait for a slow sink.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Size of the pieces that smaller ones are put together to. As they lie, each would hold the whole buffer into which it was read.
const BLOCK: usize = 64 << 10;

/// Pieces in the order they came.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Bytes>,
    /// Small pieces at the end.
    open: BytesMut,
}

impl Backlog {
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < BLOCK {
            if self.open.len() + piece.len() > BLOCK {
                self.close();
            }
            self.open.extend_from_slice(&piece);
        } else {
            self.close();
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close();
        }
        self.pieces.pop_front()
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.open).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in_and_in_fewer_pieces() {
        let mut backlog = Backlog::default();
        let (mut sent, mut received, mut pieces) = (Vec::new(), Vec::new(), 0);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let length = if random.u8(..10) == 0 { random.usize(4096..100_000) } else { random.usize(1..100) };
            let piece: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            sent.extend_from_slice(&piece);
            backlog.push(piece.into());
            if random.u8(..50) == 0 {
                received.extend(backlog.pop().into_iter().flatten());
                pieces += 1;
            }
        }
        while let Some(piece) = backlog.pop() {
            received.extend_from_slice(&piece);
            pieces += 1;
        }
        assert!(received == sent);
        assert!(pieces < 600, "{pieces} pieces");
    }
}

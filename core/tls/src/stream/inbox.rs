//! The buffer into which the transport is read, as large as the traffic needs it.

use std::{
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{HEAD, fault::Fault, open::record_length};

/// Size of the first read; it grows while reads come back full.
const SMALL_READ: usize = 8 << 10;
/// Size to which reads grow.
const LARGE_READ: usize = 256 << 10;
/// Less room than this is not read into.
const LEAST_READ: usize = 4 << 10;

/// What has arrived and is not taken yet. Holds no memory while nothing is there.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: BytesMut,
    read_size: usize,
}

impl From<BytesMut> for Inbox {
    /// Begins with what came along with the handshake.
    fn from(bytes: BytesMut) -> Self {
        let bytes = if bytes.is_empty() { BytesMut::new() } else { bytes };
        Self { bytes, read_size: SMALL_READ }
    }
}

impl Inbox {
    /// Takes the next record off the front when it is complete.
    ///
    /// # Errors
    /// As [`record_length`].
    pub(super) fn next_record(&mut self) -> Result<Option<BytesMut>, Fault> {
        match record_length(&self.bytes)? {
            Some(length) if length <= self.bytes.len() => Ok(Some(self.bytes.split_to(length))),
            _ => Ok(None),
        }
    }

    /// Reads once, and says how much has come: 0 is the end. Gives the buffer back when nothing has arrived and nothing is in it.
    ///
    /// # Errors
    /// When the transport fails.
    pub(super) fn poll_fill<T: AsyncRead + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let room = self.bytes.capacity() - self.bytes.len();
        // Asking for all the room tells the transport, by a read that comes back short, that nothing more is there.
        let Poll::Ready(read) = pin!(io.read_buf(&mut self.bytes)).poll(cx) else {
            if self.bytes.is_empty() {
                self.bytes = BytesMut::new();
            }
            return Poll::Pending;
        };
        let count = read?;
        if count >= room {
            self.read_size = (self.read_size * 2).min(LARGE_READ);
        } else if count < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(SMALL_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Room for the rest of the record that has begun, and enough for a read to be worth its call.
    fn make_room(&mut self) {
        let have = self.bytes.len();
        let whole = record_length(&self.bytes).ok().flatten().unwrap_or(HEAD);
        let missing = whole.saturating_sub(have);
        if self.bytes.capacity() - have >= missing.max(LEAST_READ) {
            return;
        }
        let size = self.read_size.max(missing);
        // What was given out may be gone by now, and then its memory serves again. Half of the size will do: if it is filled, the
        // next one is larger.
        if self.bytes.try_reclaim(missing.max(size / 2)) {
            return;
        }
        let mut larger = BytesMut::with_capacity(have + size);
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
    }

    /// How much memory is held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Drops everything: nothing of it will be read.
    pub(super) fn clear(&mut self) {
        self.bytes = BytesMut::new();
    }
}

//! Frames that say nothing, on a connection of HTTP/2 to an endpoint.
//!
//! A frame of DATA without a byte says something only where it ends a stream. Whoever gets many others may take them for a flood (RFC 9113,
//! section 10.5), and h2 does: at the 101st that a connection has ever brought it ends the connection, with all requests on
//! it. Some endpoints send one before each answer. h2 tells nobody of them, so they are counted where their bytes come.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As many as h2 takes on one connection.
pub const MOST: usize = 100;
/// From so many on a connection carries no further request: what is under way on it has the rest.
const MANY: usize = MOST / 2;

/// The head of a frame (RFC 9113, section 4.1), in bytes.
const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// How many came on one connection. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct EmptyFrames(Arc<AtomicUsize>);

impl EmptyFrames {
    /// Whether it is to carry no further request.
    pub fn are_many(&self) -> bool {
        self.seen() >= MANY
    }

    /// Whether there is room for one request beside so many. Where one such frame has come each of these may bring one.
    pub fn leave_room(&self, in_flight: usize) -> bool {
        match self.seen() {
            0 => true,
            seen => seen.saturating_add(in_flight) < MANY,
        }
    }

    fn seen(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection of HTTP/2 on whose way in empty frames are counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    heads: Heads,
    empty: EmptyFrames,
}

impl<S> Counted<S> {
    /// Counts those of this connection, of which nothing was read yet.
    pub fn new(stream: S, empty: EmptyFrames) -> Self {
        Self { stream, heads: Heads::default(), empty }
    }
}

/// Goes from the head of one frame to that of the next, wherever what comes is cut into pieces.
#[derive(Debug, Default)]
struct Heads {
    /// What has come of a head that has not come whole.
    head: [u8; HEAD],
    filled: usize,
    /// The length of a frame of DATA whose padding is not known yet, which its first byte says.
    padded: Option<usize>,
    /// How much is still to come of a frame.
    rest: usize,
}

impl Heads {
    /// Reads on, and says how many empty frames there were.
    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut empty = 0;
        while let Some((&first, after)) = bytes.split_first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
            } else if let Some(length) = self.padded.take() {
                bytes = after;
                self.rest = length.saturating_sub(1);
                empty += usize::from(usize::from(first) == self.rest);
            } else if let Some(head) = self.next(&mut bytes) {
                empty += usize::from(self.begins(head));
            }
        }
        empty
    }

    /// The next head, if all of it has come.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        if self.filled == 0
            && let Some((head, after)) = bytes.split_first_chunk()
        {
            *bytes = after;
            return Some(*head);
        }
        while let Some((&byte, after)) = bytes.split_first() {
            *bytes = after;
            if let Some(place) = self.head.get_mut(self.filled) {
                *place = byte;
            }
            self.filled += 1;
            if self.filled == HEAD {
                self.filled = 0;
                return Some(self.head);
            }
        }
        None
    }

    /// A frame with this head begins. Says whether it is known to be an empty one.
    fn begins(&mut self, [a, b, c, kind, flags, ..]: [u8; HEAD]) -> bool {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let is_data = kind == DATA && flags & END_STREAM == 0;
        if is_data && flags & PADDED != 0 && length > 0 {
            self.padded = Some(length);
            return false;
        }
        self.rest = length;
        is_data && length == 0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        let empty = this.heads.read(buf.filled().get(before..).unwrap_or_default());
        if empty > 0 {
            this.empty.0.fetch_add(empty, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags], &1_u32.to_be_bytes(), payload].concat()
    }

    #[tokio::test]
    async fn frames_of_data_without_a_byte_are_counted_however_they_come_and_no_others() {
        const SETTINGS: u8 = 4;
        const HEADERS: u8 = 1;
        for (frames, expected) in [
            (vec![frame(DATA, 0, b"")], 1),
            (vec![frame(SETTINGS, 0, b""), frame(HEADERS, 4, &[0x88]), frame(DATA, 0, b"")], 1),
            (vec![frame(DATA, 0, b""), frame(DATA, 0, &[0; 300]), frame(DATA, 0, b""), frame(DATA, 0, b"")], 3),
            (vec![frame(DATA, END_STREAM, b""), frame(DATA, END_STREAM, b"last"), frame(DATA, 0, b"data")], 0),
            // What lies in a frame is none.
            (vec![frame(DATA, 0, &frame(DATA, 0, b"")), frame(HEADERS, 4, &[0; 20])], 0),
            // Padding is no data, and neither is its length.
            (vec![frame(DATA, PADDED, &[0]), frame(DATA, PADDED, &[3, 0, 0, 0]), frame(DATA, PADDED, &[2, b'x', 0, 0])], 2),
            (vec![frame(DATA, PADDED | END_STREAM, &[0]), frame(DATA, PADDED, b""), frame(DATA, 0, b"")], 2),
        ] {
            let bytes = frames.concat();
            for piece in [1, 2, 5, HEAD, HEAD + 1, bytes.len()] {
                let empty = EmptyFrames::default();
                let mut counted = Counted::new(&*bytes, empty.clone());
                let mut room = vec![0; piece];
                let mut passed = Vec::new();
                loop {
                    match counted.read(&mut room).await.unwrap() {
                        0 => break,
                        count => passed.extend_from_slice(&room[..count]),
                    }
                }
                assert_eq!((empty.seen(), &passed), (expected, &bytes), "in pieces of {piece}: {frames:?}");
            }
        }
    }

    #[test]
    fn a_connection_carries_no_more_requests_than_may_bring_an_empty_frame_each() {
        let empty = EmptyFrames::default();
        assert!(empty.leave_room(MOST - 1) && !empty.are_many(), "nothing is known of it");
        empty.0.store(1, Ordering::Relaxed);
        assert!(empty.leave_room(MANY - 2) && !empty.leave_room(MANY - 1) && !empty.are_many());
        empty.0.store(MANY, Ordering::Relaxed);
        assert!(!empty.leave_room(0) && empty.are_many());
    }
}

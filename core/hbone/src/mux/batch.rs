//! What goes out together: frames in pieces that are sealed where they lie and written at once.

use std::{
    io::{self, IoSliceMut},
    ops::Range,
};

use crate::{
    frame::{HEAD, encode},
    transport::Transport,
};

/// Frames of one call of [`Batch::data`].
const ROOMS: usize = 18;
/// What is left of a piece is used for a DATA frame when it has room for so many bytes, or for all that is wanted.
const LEAST: usize = 2 << 10;

/// The room that a transport needs around the plaintext of a piece, and the most plaintext.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) head: usize,
    pub(crate) tail: usize,
    pub(crate) most: usize,
}

impl Shape {
    pub(crate) fn of(transport: &impl Transport) -> Self {
        Self { head: transport.head(), tail: transport.tail(), most: transport.most().max(2 * HEAD) }
    }
}

/// Where a piece's head room begins, and the length of its plaintext.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    len: usize,
}

/// Place for one DATA frame: where it begins, and the bytes that it may carry.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    at: usize,
    len: usize,
    /// It begins a piece.
    first: bool,
}

/// Pieces in a row. Further frames go into the last piece while it has room.
#[derive(Debug)]
pub(crate) struct Batch {
    shape: Shape,
    /// Initialised as far as it was ever used, so that bytes can be read into it.
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// So many bytes of it were needed since [`Batch::settle`].
    needed: usize,
}

impl Batch {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, bytes: Vec::new(), pieces: Vec::new(), needed: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes as they go out.
    pub(crate) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| last.start + self.shape.head + last.len + self.shape.tail)
    }

    /// The memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// All that is to be written, once each piece is sealed.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// Calls `seal` with each piece.
    pub(crate) fn seal(&mut self, mut seal: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
        let around = self.shape.head + self.shape.tail;
        for piece in &self.pieces {
            seal(self.bytes.get_mut(piece.start..piece.start + around + piece.len).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Forgets what was written, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Gives back the memory that was not needed since the last call: after a load has gone by, all but what a trickle needs.
    pub(crate) fn settle(&mut self) {
        let needed = std::mem::take(&mut self.needed).max(self.len());
        if self.bytes.capacity() > 2 * needed {
            self.bytes.truncate(needed);
            self.bytes.shrink_to_fit();
            self.pieces.shrink_to_fit();
        }
    }

    /// Appends frames that are encoded already.
    pub(crate) fn append(&mut self, mut frames: &[u8]) {
        while !frames.is_empty() {
            let (at, room, first) = self.place(1);
            let (part, rest) = frames.split_at(room.min(frames.len()));
            self.reach(at + part.len() + self.shape.tail);
            if let Some(place) = self.bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
            self.use_up(at, part.len(), first);
            frames = rest;
        }
    }

    /// Appends DATA frames of `stream` with at most `most` bytes in all: `fill` puts them into the places it is given, from the first on,
    /// and says how many. What it does not use is not sent.
    ///
    /// # Errors
    /// That of `fill`; then nothing is appended.
    pub(crate) fn data(
        &mut self,
        stream: u32,
        most: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (rooms, count) = self.rooms(most);
        let rooms = rooms.get(..count).unwrap_or_default();
        let mut slices: [IoSliceMut<'_>; ROOMS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let (mut rest, mut passed) = (self.bytes.as_mut_slice(), 0);
        for (slice, room) in slices.iter_mut().zip(rooms) {
            let Some((_, from)) = rest.split_at_mut_checked(room.at + HEAD - passed) else { break };
            let Some((place, after)) = from.split_at_mut_checked(room.len) else { break };
            *slice = IoSliceMut::new(place);
            (rest, passed) = (after, room.at + HEAD + room.len);
        }
        let filled = fill(slices.get_mut(..count).unwrap_or_default())?;
        let mut left = filled;
        for room in rooms {
            let len = room.len.min(left);
            if len == 0 {
                break;
            }
            left -= len;
            let head = encode::data_head(stream, u32::try_from(len).unwrap_or(0), false);
            if let Some(place) = self.bytes.get_mut(head_of(room)) {
                place.copy_from_slice(&head);
            }
            self.use_up(room.at, HEAD + len, room.first);
        }
        Ok(filled - left)
    }

    /// Lays out DATA frames for `most` bytes, and makes the memory for them.
    fn rooms(&mut self, most: usize) -> ([Room; ROOMS], usize) {
        let Shape { head, tail, most: largest } = self.shape;
        let mut rooms = [Room::default(); ROOMS];
        let (mut count, mut left) = (0, most);
        let (mut at, mut place, mut first) = self.place(HEAD + most.min(LEAST));
        let mut end = 0;
        for room in &mut rooms {
            if left == 0 {
                break;
            }
            *room = Room { at, len: left.min(place.saturating_sub(HEAD)), first };
            left -= room.len;
            count += 1;
            end = at + HEAD + room.len + tail;
            (at, place, first) = (end + head, largest, true);
        }
        self.reach(end);
        (rooms, count)
    }

    /// Where the next frame goes, its room, and whether it begins a piece: that is unless the last piece leaves `least` bytes.
    fn place(&self, least: usize) -> (usize, usize, bool) {
        let Shape { head, most, .. } = self.shape;
        match self.pieces.last() {
            Some(last) if most.saturating_sub(last.len) >= least => (last.start + head + last.len, most - last.len, false),
            _ => (self.len() + head, most, true),
        }
    }

    /// Takes `len` bytes at `at`, which [`Self::place`] has named, into the last piece or a new one.
    fn use_up(&mut self, at: usize, len: usize, first: bool) {
        match self.pieces.last_mut() {
            Some(last) if !first => last.len += len,
            _ => self.pieces.push(Piece { start: at - self.shape.head, len }),
        }
    }

    fn reach(&mut self, end: usize) {
        self.needed = self.needed.max(end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
    }
}

fn head_of(room: &Room) -> Range<usize> {
    room.at..room.at + HEAD
}

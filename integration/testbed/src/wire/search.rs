//! Finding byte strings in packets, also where a TCP stream splits them over two segments.

use std::collections::HashMap;
use std::net::IpAddr;

use memchr::memmem::Finder;

use super::frame::{Frame, Segment};

/// Streams whose last bytes are remembered; beyond that the memory starts anew.
const MAX_STREAMS: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stream {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// The end of a stream so far.
struct Tail {
    next_sequence: u32,
    bytes: Vec<u8>,
}

/// The markers, and the tails of the streams seen.
pub(super) struct Search {
    finders: Vec<Finder<'static>>,
    overlap: usize,
    tails: HashMap<Stream, Tail>,
}

impl Search {
    pub(super) fn new(markers: &[Vec<u8>]) -> Self {
        let overlap = markers.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        Self { finders: markers.iter().map(|marker| Finder::new(marker).into_owned()).collect(), overlap, tails: HashMap::new() }
    }

    /// Indices of the markers that are in this packet, or that end in it.
    pub(super) fn find(&mut self, frame: &Frame<'_>) -> Vec<usize> {
        if frame.payload.is_empty() || self.finders.is_empty() {
            return Vec::new();
        }
        let joint = frame.segment.map(|segment| self.joint(frame, segment)).unwrap_or_default();
        let found = |finder: &Finder<'_>| {
            !finder.needle().is_empty() && (finder.find(frame.payload).is_some() || finder.find(&joint).is_some())
        };
        self.finders.iter().enumerate().filter(|(_, finder)| found(finder)).map(|(index, _)| index).collect()
    }

    /// The bytes around the seam between the last segment of this stream and this one; remembers the end of this one.
    fn joint(&mut self, frame: &Frame<'_>, segment: Segment) -> Vec<u8> {
        let stream =
            Stream { source: (frame.source, segment.source_port), destination: (frame.destination, segment.destination_port) };
        let head = &frame.payload[..frame.payload.len().min(self.overlap)];
        let before = self.tails.remove(&stream).filter(|tail| tail.next_sequence == segment.sequence);
        let mut joint = before.map(|tail| tail.bytes).unwrap_or_default();
        joint.extend_from_slice(head);
        let end = if frame.payload.len() >= self.overlap { frame.payload } else { &joint };
        let bytes = end[end.len() - end.len().min(self.overlap)..].to_vec();
        if self.tails.len() >= MAX_STREAMS {
            self.tails.clear();
        }
        let next_sequence = segment.sequence.wrapping_add(u32::try_from(frame.payload.len()).unwrap_or(u32::MAX));
        self.tails.insert(stream, Tail { next_sequence, bytes });
        joint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds one stream in pieces and checks in which of them the marker `secret` is found.
    fn check(pieces: &[&str], expected: &[bool]) {
        let mut search = Search::new(&[b"secret".to_vec()]);
        let mut sequence = u32::MAX - 3; // the sequence wraps
        for (piece, expected) in pieces.iter().zip(expected) {
            let segment = Segment { source_port: 1, destination_port: 2, sequence };
            let frame = Frame {
                source: [10, 0, 0, 1].into(),
                destination: [10, 0, 0, 2].into(),
                segment: Some(segment),
                payload: piece.as_bytes(),
            };
            assert_eq!(!search.find(&frame).is_empty(), *expected, "{piece:?} of {pieces:?}");
            sequence = sequence.wrapping_add(piece.len() as u32);
        }
    }

    #[test]
    fn a_marker_is_found_wherever_the_segments_split_it() {
        check(&["a secret b"], &[true]);
        check(&["a sec", "ret b"], &[false, true]);
        check(&["s", "e", "c", "r", "e", "t"], &[false, false, false, false, false, true]);
        check(&["sec", "ond ret"], &[false, false]);
        check(&["secret", "secret"], &[true, true]);
    }

    #[test]
    fn a_marker_counts_once_in_the_packet_where_it_ends() {
        check(&["secret", "x"], &[true, false]);
        check(&["xsecr", "et", "y"], &[false, true, false]);
    }
}

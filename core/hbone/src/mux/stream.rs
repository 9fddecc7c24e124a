//! What is known of one tunnel, and the tunnels of a connection.

use std::task::Waker;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{failure::Reset, inbox::Inbox};

/// One tunnel in the connection's state.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) id: u32,
    /// What we may send; less than nothing after the peer has made its window smaller.
    pub(super) send_window: i64,
    /// What the peer may send.
    pub(super) receive_window: i64,
    /// Consumed here and not told the peer yet.
    pub(super) owed: u32,
    /// Handed to the user and not consumed yet.
    pub(super) handed: u32,
    pub(super) inbox: Inbox,
    /// When it was first seen to hold bytes since somebody last read, as far as they are worth a note.
    pub(super) unread_since: Option<Instant>,
    /// Who waits for bytes, an answer, the end or a failure.
    pub(super) reader: Option<Waker>,
    /// Who waits for room to send.
    pub(super) writer: Option<Waker>,
    /// Bytes in the batch of that number.
    pub(super) queued: (u32, usize),
    /// On the client's side: the answer, until it is asked for.
    pub(super) answer: Option<Box<(StatusCode, HeaderMap)>>,
    pub(super) reset: Option<Reset>,
    /// Closed by its user, while the peer has not ended it yet.
    pub(super) parting: Option<Parting>,
    /// The reader is to be woken by the end or a failure, not by bytes.
    pub(super) failure_only: bool,
    /// The answer was sent, or has come.
    pub(super) answered: bool,
    pub(super) sent_end: bool,
    pub(super) received_end: bool,
    /// It is in the queue of those who wait for room in the batch.
    pub(super) waits: bool,
    /// Somebody has a handle of it.
    pub(super) held: bool,
    /// It has a place of the pool, to be given back with it.
    pub(super) place: bool,
    /// It carries bulk beside small requests of others.
    pub(super) bulk: bool,
}

/// How long, and for how many bytes, the end of a tunnel that its user has closed is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parting {
    pub(super) until: Instant,
    pub(super) seen: usize,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: i64, receive_window: i64) -> Self {
        Self {
            id,
            send_window,
            receive_window,
            owed: 0,
            handed: 0,
            inbox: Inbox::default(),
            unread_since: None,
            reader: None,
            writer: None,
            queued: (0, 0),
            answer: None,
            reset: None,
            parting: None,
            failure_only: false,
            answered: false,
            sent_end: false,
            received_end: false,
            waits: false,
            held: true,
            place: false,
            bulk: false,
        }
    }

    /// Bytes that have arrived and are not consumed.
    pub(super) fn unread(&self) -> usize {
        self.inbox.len() + usize::try_from(self.handed).unwrap_or(0)
    }

    /// Whether the protocol is done with it.
    pub(super) fn closed(&self) -> bool {
        self.reset.is_some() || (self.sent_end && self.received_end)
    }

    /// Wakes everybody.
    pub(super) fn stir(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
    }
}

/// The tunnels of a connection, by number.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// In rising order; each number's tunnel is at the same place in the other list.
    ids: Vec<u32>,
    #[expect(clippy::vec_box, reason = "a list of the streams themselves would move many bytes for each that ends")]
    streams: Vec<Box<Stream>>,
}

impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        let at = self.ids.binary_search(&id).ok()?;
        self.streams.get(at).map(|stream| &**stream)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.ids.binary_search(&id).ok()?;
        self.streams.get_mut(at).map(|stream| &mut **stream)
    }

    /// Its number must be larger than all before.
    pub(super) fn insert(&mut self, stream: Stream) {
        self.ids.push(stream.id);
        self.streams.push(Box::new(stream));
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Box<Stream>> {
        let at = self.ids.binary_search(&id).ok()?;
        self.ids.remove(at);
        let stream = self.streams.remove(at);
        if self.ids.is_empty() && self.ids.capacity() > 16 {
            *self = Self::default();
        }
        Some(stream)
    }

    /// Gives back what the lists have grown to.
    pub(super) fn shrink(&mut self) {
        self.ids.shrink_to_fit();
        self.streams.shrink_to_fit();
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.streams.iter_mut().map(|stream| &mut **stream)
    }
}

//! Tunnels whose bytes nobody reads, and their end while the process holds too many such bytes.

use tokio::time::{Duration, Instant};

use super::{Inbox, Mux, Reset, Side, Stream, held::UNCOUNTED};
use crate::frame::{code, encode};

/// A tunnel from which nobody has read for so long is not waited for when others need the memory.
const STALLED: Duration = Duration::from_secs(10);

impl Stream {
    /// Whether nobody has read for [`STALLED`] what it holds.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.unread_since.is_some_and(|since| now.saturating_duration_since(since) >= STALLED)
    }
}

impl Mux {
    /// Notes which tunnels hold bytes that nobody reads, and cuts those that have for long while the process holds too many, whether or not
    /// they are sent more: those that hold most first. Says when to look again.
    pub(crate) fn cut_stalled(&mut self, now: Instant) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let full = self.credit.account.is_full();
        let mut again = None;
        let mut stalled: Vec<(usize, u32)> = Vec::new();
        for stream in self.streams.iter_mut() {
            let unread = stream.unread();
            if unread < UNCOUNTED {
                stream.unread_since = None;
                continue;
            }
            stream.unread_since.get_or_insert(now);
            again = Some(now + STALLED);
            if full && stream.is_stalled(now) {
                stalled.push((unread, stream.id));
            }
        }
        stalled.sort_unstable();
        while let Some((_, id)) = stalled.pop()
            && self.credit.account.is_full()
        {
            self.shed(id);
        }
        self.widen();
        again
    }

    /// Cuts a tunnel while the process holds too many bytes that nobody reads. Its own are given up at once.
    pub(super) fn shed(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        self.credit.release(stream.unread());
        (stream.inbox, stream.handed, stream.unread_since) = (Inbox::default(), 0, None);
        let (reset, over) = (Reset { by: Side::Memory, code: code::ENHANCE_YOUR_CALM }, stream.closed());
        // An end that comes after bytes that are not there any more would pass for the end of all of them.
        stream.received_end = false;
        if over {
            // The peer has done its part, and hears of no reset.
            stream.reset = Some(reset);
            return stream.stir(&mut self.wakes);
        }
        self.answer_peer(|out| encode::reset(out, id, reset.code));
        self.remember(id);
        self.cut(id, reset);
    }
}

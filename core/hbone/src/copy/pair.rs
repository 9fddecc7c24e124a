//! Two sides and the bytes under way between them.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{Counters, EndedBy, Side};
use crate::{
    mux::Inbox,
    pace::{self, Pace},
};

/// Two sides that are reset unless both directions came to an end.
pub(super) struct Pair<A: Side, B: Side> {
    first: A,
    second: B,
    into_first: Direction,
    into_second: Direction,
    /// It is told when it is to end.
    watched: bool,
    pace: Pace,
    /// Why bytes were lost, when the rest could go on.
    loss: Option<EndedBy>,
}

/// Bytes under way in one direction.
#[derive(Default)]
struct Direction {
    chunk: Bytes,
    /// What came after it while the sink was slow.
    backlog: Inbox,
    /// The source has come to its end.
    ended: bool,
    /// The sink knows of the end, or wants nothing more.
    finished: bool,
    /// Bytes that it may still carry in this turn.
    left: usize,
}

/// Which end of a direction failed.
enum Failed {
    Source(io::Error),
    /// Whether bytes were lost with it.
    Sink(io::Error, bool),
}

/// How a failure of either end of a direction is reported.
struct Blame {
    source: fn(io::Error) -> EndedBy,
    sink: fn(io::Error) -> EndedBy,
}

const INTO_FIRST: Blame = Blame { source: EndedBy::Second, sink: EndedBy::First };
const INTO_SECOND: Blame = Blame { source: EndedBy::First, sink: EndedBy::Second };

impl<A: Side, B: Side> Pair<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        let (into_first, into_second) = (Direction::default(), Direction::default());
        Self { first, second, into_first, into_second, watched: false, pace: Pace::default(), loss: None }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, counters: &Counters) -> Poll<EndedBy> {
        let Self { first, second, into_first, into_second, watched, pace, loss } = self;
        if counters.watch(cx, watched) {
            return Poll::Ready(EndedBy::Cut);
        }
        if pace.is_over() {
            pace::give_way(cx);
            return Poll::Pending;
        }
        let most = pace::turn();
        // Each its own, so that neither starves the other.
        (into_first.left, into_second.left) = (most, most);
        loop {
            let ended = (into_first.ended, into_second.ended);
            let turns = [
                into_first.turn(cx, second, first, into_second, &counters.sent, &INTO_FIRST),
                into_second.turn(cx, first, second, into_first, &counters.received, &INTO_SECOND),
            ];
            for turned in turns {
                match turned {
                    Ok(lost) => *loss = loss.take().or(lost),
                    Err(ended_by) => return Poll::Ready(ended_by),
                }
            }
            if into_first.finished && into_second.finished {
                return Poll::Ready(loss.take().unwrap_or(EndedBy::Finished));
            }
            let changed = ended != (into_first.ended, into_second.ended);
            if changed {
                counters.note_half_open();
            }
            let left = into_first.left.min(into_second.left);
            // The end of one direction changes what the other has to watch.
            if left == 0 || !changed {
                pace.note(most - left);
                if left == 0 {
                    pace.end_turn();
                    pace::give_way(cx);
                }
                return Poll::Pending;
            }
        }
    }
}

impl<A: Side, B: Side> Drop for Pair<A, B> {
    fn drop(&mut self) {
        if !(self.into_first.finished && self.into_second.finished) {
            self.first.reset();
            self.second.reset();
        }
    }
}

impl Direction {
    /// Carries what can be carried now; `back` is the other direction.
    ///
    /// A sink that fails after its own bytes have ended has closed as a whole, as an application does that answers and closes: this
    /// direction is given up, while what it said before still goes to the other side. If that cost bytes the loss is returned.
    ///
    /// # Errors
    /// When the pair cannot go on.
    fn turn<S: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
        back: &mut Self,
        carried: &AtomicU64,
        blame: &Blame,
    ) -> Result<Option<EndedBy>, EndedBy> {
        let failed = match self.carry(cx, source, sink, carried) {
            Poll::Ready(Ok(())) => return Ok(None),
            Poll::Ready(Err(failed)) => failed,
            Poll::Pending => {
                if source.reads_ahead() && !self.chunk.is_empty() && !self.ended {
                    self.look_ahead(cx, source).map_err(blame.source)?;
                }
                // A side whose bytes have ended tells of its end as a whole only when asked.
                match back.ended.then(|| sink.poll_failed(cx)) {
                    Some(Poll::Ready(error)) => Failed::Sink(error, !self.chunk.is_empty()),
                    _ => return Ok(None),
                }
            }
        };
        match failed {
            Failed::Source(error) => Err((blame.source)(error)),
            Failed::Sink(error, lost) => {
                // Its end may have come but not been read yet.
                if !back.ended && back.look_ahead(cx, sink).is_err() {
                    return Err((blame.sink)(error));
                }
                if !back.ended {
                    return Err((blame.sink)(error));
                }
                *self = Self { ended: true, finished: true, left: self.left, ..Self::default() };
                Ok(lost.then(|| (blame.sink)(error)))
            }
        }
    }

    /// Carries until nothing more can be carried now, or the turn is over.
    fn carry<S: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
        carried: &AtomicU64,
    ) -> Poll<Result<(), Failed>> {
        while !self.finished && self.left > 0 {
            if !self.chunk.is_empty() {
                let count = ready!(sink.poll_send(cx, &mut self.chunk)).map_err(|e| Failed::Sink(e, true))?;
                self.left = self.left.saturating_sub(count);
                source.consumed(count);
                carried.fetch_add(count as u64, Ordering::Relaxed);
            } else if let Some(chunk) = self.backlog.pop() {
                self.chunk = chunk;
            } else if self.ended {
                ready!(sink.poll_finish(cx)).map_err(|e| Failed::Sink(e, false))?;
                self.finished = true;
            } else {
                match ready!(source.poll_chunk(cx)).map_err(Failed::Source)? {
                    Some(chunk) => self.chunk = chunk,
                    None => self.ended = true,
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what a source has, which is no more than its flow control lets it send; so its end is known early, too.
    ///
    /// # Errors
    /// When the source did not come to its end.
    fn look_ahead<S: Side>(&mut self, cx: &mut Context<'_>, source: &mut S) -> io::Result<()> {
        let taken = self.take_ahead(cx, source);
        // The sink is slow: what waits for it shall not hold the buffers into which it was read.
        self.backlog.compact();
        taken
    }

    fn take_ahead<S: Side>(&mut self, cx: &mut Context<'_>, source: &mut S) -> io::Result<()> {
        while let Poll::Ready(next) = source.poll_chunk(cx) {
            match next? {
                Some(chunk) => self.backlog.push(chunk),
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

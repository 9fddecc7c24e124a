//! What the users of tunnels send, and who may send next.
//!
//! Bytes go into the batch as DATA frames in the order in which they are offered. A tunnel that finds the batch full, its share used up
//! or the connection's window empty waits in a queue, and is woken when its turn comes; one that finds its own window empty waits for
//! the peer.

use std::{
    io::{self, IoSliceMut},
    task::{Context, Poll, Waker, ready},
};

use http::HeaderMap;

use super::{Mux, Reset, Role, Side};
use crate::{
    frame::{code, encode},
    pace,
};

/// The batch is full, where no small requests wait behind it.
const FULL: usize = 256 << 10;
/// The batch is full even for a tunnel that has nothing in it.
const FULL_FOR_ALL: usize = 512 << 10;
/// Either, while the process holds too much.
const FULL_IF_SHORT: usize = 32 << 10;
/// What a tunnel may put into the batch while others wait.
const SHARE: usize = 64 << 10;
/// A tunnel waits rather than to send less than this because of its share: many small frames would cost more.
const LEAST_SHARE: usize = 4 << 10;
/// What a tunnel that has nothing in a full batch may put into it.
const SMALL_SHARE: usize = 16 << 10;
/// Some peers give windows back for each so many bytes that they read.
const READER: usize = 4 << 10;
/// How many of those who wait are woken at once: about as many as fill a batch.
const GRANTS: usize = FULL / SHARE;

/// Why nothing was sent.
#[derive(Debug)]
pub(crate) enum Unfilled {
    /// The tunnel cannot.
    Tunnel(io::Error),
    /// Where the bytes come from has failed.
    Source(io::Error),
}

fn sized(window: i64) -> usize {
    usize::try_from(window.max(0)).unwrap_or(usize::MAX)
}

impl Mux {
    /// How many bytes a tunnel may send now, at least one.
    ///
    /// # Errors
    /// When it can send no more.
    fn poll_room(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (total, turn, others) = (self.batch.len(), self.turn, !self.waiting.is_empty());
        let (full, full_for_all) = self.full();
        let failure = self.failure.as_ref();
        let Some(stream) = self.streams.get_mut(id) else { return Poll::Ready(Err(closed())) };
        if let Some(reset) = stream.reset {
            return Poll::Ready(Err(reset.to_io()));
        }
        if stream.sent_end {
            let text = "this direction of the tunnel has ended";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, text)));
        }
        if let Some(failure) = failure {
            return Poll::Ready(Err(failure.to_io()));
        }
        if stream.send_window <= 0 {
            set(&mut stream.writer, cx);
            return Poll::Pending;
        }
        let queued = if stream.queued.0 == turn { stream.queued.1 } else { 0 };
        let least = LEAST_SHARE.min(self.send_buffer);
        let mut share = (if others { SHARE.min(full) } else { full }).min(self.send_buffer).saturating_sub(queued);
        share = share.min(full.saturating_sub(total));
        if share < least {
            let small = queued == 0 && !stream.waits && total < full_for_all;
            share = if small { SMALL_SHARE.min(self.send_buffer) } else { 0 };
        }
        let room = share.min(sized(stream.send_window)).min(sized(self.window));
        if room == 0 {
            set(&mut stream.writer, cx);
            if !std::mem::replace(&mut stream.waits, true) {
                self.waiting.push_back(id);
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Sends what `fill` puts into the places it is given, `most` bytes or as many as there is room for; it says how many, and sends
    /// none by saying 0.
    pub(crate) fn poll_fill(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        most: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> Poll<Result<usize, Unfilled>> {
        let room = ready!(self.poll_room(id, cx)).map_err(Unfilled::Tunnel)?;
        let count = self.batch.data(id, room.min(most), fill).map_err(Unfilled::Source)?;
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        let sent = i64::try_from(count).unwrap_or(i64::MAX);
        self.window -= sent;
        if let Some(stream) = self.streams.get_mut(id) {
            stream.send_window -= sent;
            if stream.queued.0 != self.turn {
                stream.queued = (self.turn, 0);
            }
            stream.queued.1 += count;
        }
        self.carrying = self.carrying.saturating_add(1 + u32::try_from(count / READER).unwrap_or(0));
        self.stirred = true;
        Poll::Ready(Ok(count))
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= self.full().0
    }

    /// From how many bytes on the batch is full, and from how many even for a tunnel that has nothing in it.
    fn full(&self) -> (usize, usize) {
        if self.credit.account.is_short() { (FULL_IF_SHORT, FULL_IF_SHORT) } else { (FULL.min(pace::turn()), FULL_FOR_ALL) }
    }

    /// Wakes those whose turn it is to send. Returns whether there are more that could.
    pub(crate) fn grant(&mut self) -> bool {
        let mut granted = 0;
        let (full, _) = self.full();
        while self.window > 0 && self.batch.len() < full {
            if granted == GRANTS {
                return !self.waiting.is_empty();
            }
            let Some(id) = self.waiting.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(id) else { continue };
            stream.waits = false;
            if stream.send_window > 0
                && let Some(writer) = stream.writer.take()
            {
                self.wakes.push(writer);
                granted += 1;
            }
        }
        false
    }

    /// HEADERS, encoded in the order in which they go out.
    pub(super) fn send_headers(&mut self, id: u32, opening: encode::Opening<'_>, headers: &HeaderMap, end: bool) {
        let mut out = std::mem::take(&mut self.scratch);
        encode::headers(&mut out, &mut self.encoder, id, opening, headers, end, self.peer.max_frame);
        self.batch.append(&out);
        out.clear();
        self.scratch = out;
        self.carrying = self.carrying.saturating_add(1);
        self.stirred = true;
    }

    /// Answers a request, for good if `end`.
    ///
    /// # Errors
    /// When the client has gone.
    pub(crate) fn respond(&mut self, id: u32, status: http::StatusCode, headers: &HeaderMap, end: bool) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.to_io());
        }
        let stream = self.streams.get_mut(id).ok_or_else(closed)?;
        if let Some(reset) = stream.reset {
            return Err(reset.to_io());
        }
        stream.answered = true;
        stream.sent_end = end;
        let (over, before) = (stream.closed(), self.batch.len());
        self.send_headers(id, encode::Opening::Status(status), headers, end);
        self.answers += self.batch.len().saturating_sub(before);
        if over {
            self.closed(id);
        }
        Ok(())
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// When the tunnel is reset already.
    pub(crate) fn finish(&mut self, id: u32) -> io::Result<()> {
        let failure = self.failure.as_ref();
        let stream = self.streams.get_mut(id).ok_or_else(closed)?;
        if stream.sent_end {
            return Ok(());
        }
        if let Some(reset) = stream.reset {
            return Err(reset.to_io());
        }
        if let Some(failure) = failure {
            return Err(failure.to_io());
        }
        stream.sent_end = true;
        let over = stream.closed();
        self.batch.append(&encode::data_head(id, 0, true));
        self.carrying = self.carrying.saturating_add(1);
        self.stirred = true;
        if over {
            self.closed(id);
        }
        Ok(())
    }

    /// Cuts a tunnel, unless it is over.
    pub(crate) fn reset(&mut self, id: u32, code: u32) {
        let over = self.streams.get(id).is_none_or(super::Stream::closed);
        if over || self.failure.is_some() {
            return;
        }
        self.remember(id);
        if self.role == Role::Client {
            self.control(|out| encode::reset(out, id, code));
        } else {
            // A client could bring about as many as it likes.
            self.answer_peer(|out| encode::reset(out, id, code));
        }
        self.cut(id, Reset { by: Side::User, code });
    }

    /// Cuts a tunnel whose user wants no more of it.
    pub(crate) fn cancel(&mut self, id: u32) {
        self.reset(id, code::CANCEL);
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the tunnel is closed")
}

/// Notes who is to be woken.
pub(super) fn set(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

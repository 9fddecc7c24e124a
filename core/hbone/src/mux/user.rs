//! What the users of tunnels read and learn, and how they leave.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::{Duration, Instant};

use super::{
    Failure, Mux, Reset, Role, Stream,
    receive::PARTING_BYTES,
    send::{closed, set},
    stream::Parting,
};
use crate::frame::code;

/// How long a tunnel that was closed here may take until the peer has ended it too. After that it is reset.
const PARTING: Duration = Duration::from_secs(30);
/// Pieces that are passed on at once.
const SLICES: usize = 32;

impl Mux {
    /// Whether there are bytes in the inbox: none at the end.
    ///
    /// # Errors
    /// When the tunnel failed before its end.
    fn poll_inbox(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<Option<&mut Stream>>> {
        let failure = self.failure.as_ref();
        let Some(stream) = self.streams.get_mut(id) else { return Poll::Ready(Err(closed())) };
        if !stream.inbox.is_empty() {
            return Poll::Ready(Ok(Some(stream)));
        }
        if stream.received_end {
            return Poll::Ready(Ok(None));
        }
        if let Some(reset) = stream.reset {
            return Poll::Ready(Err(reset.to_io()));
        }
        if let Some(failure) = failure {
            return Poll::Ready(Err(failure.to_io()));
        }
        stream.failure_only = false;
        set(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The next bytes of a tunnel, none at the end.
    ///
    /// # Errors
    /// When it failed before its end.
    pub(crate) fn poll_chunk(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(stream) = ready!(self.poll_inbox(id, cx))? else { return Poll::Ready(Ok(None)) };
        let chunk = stream.inbox.pop();
        let len = chunk.as_ref().map_or(0, Bytes::len);
        stream.handed = stream.handed.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        Poll::Ready(Ok(chunk))
    }

    /// Shows `pass_on` what a tunnel has received. It says how many bytes are done with, which is returned; 0 at the end.
    ///
    /// # Errors
    /// That of the tunnel when it failed before its end, as the outer result; the inner one is that of `pass_on`.
    pub(crate) fn poll_drain(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        pass_on: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Poll<io::Result<io::Result<usize>>> {
        let Some(stream) = ready!(self.poll_inbox(id, cx))? else { return Poll::Ready(Ok(Ok(0))) };
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = stream.inbox.peek(&mut slices);
        let passed = match pass_on(slices.get(..count).unwrap_or_default()) {
            Ok(passed) => passed,
            Err(error) => return Poll::Ready(Ok(Err(error))),
        };
        stream.inbox.advance(passed);
        stream.unread_since = None;
        self.done_with(id, passed);
        Poll::Ready(Ok(Ok(passed)))
    }

    /// Bytes that have arrived in a tunnel and wait to be read.
    pub(crate) fn unread(&self, id: u32) -> usize {
        self.streams.get(id).map_or(0, |stream| stream.inbox.len())
    }

    /// Whether the peer has ended its direction, even if that was not read yet.
    pub(crate) fn has_received_end(&self, id: u32) -> bool {
        self.streams.get(id).is_none_or(|stream| stream.received_end)
    }

    /// `count` of the bytes that were handed out are consumed.
    pub(crate) fn consumed(&mut self, id: u32, count: usize) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(stream.handed);
        stream.handed -= count;
        stream.unread_since = None;
        self.done_with(id, usize::try_from(count).unwrap_or(0));
    }

    fn done_with(&mut self, id: u32, count: usize) {
        self.credit.release(count);
        if self.failure.is_some() {
            return;
        }
        self.widen();
        self.owe(id, count);
    }

    /// Ready when a tunnel was cut or its connection is lost, whether or not anything is being read or written.
    pub(crate) fn poll_reset(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Error> {
        let failure = self.failure.as_ref();
        let Some(stream) = self.streams.get_mut(id) else { return Poll::Ready(closed()) };
        if let Some(reset) = stream.reset {
            return Poll::Ready(reset.to_io());
        }
        if let Some(failure) = failure {
            return Poll::Ready(failure.to_io());
        }
        // Whoever reads as well has said so before, and is woken by bytes too.
        if stream.reader.is_none() {
            stream.failure_only = true;
        }
        set(&mut stream.reader, cx);
        Poll::Pending
    }

    /// As [`Self::poll_reset`], for one who cannot pass on what has arrived: bytes do not wake it, and what happens after the end of
    /// the peer's direction does not count, unless the bytes are given up.
    pub(crate) fn poll_cut(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(stream) = self.streams.get_mut(id) else { return Poll::Pending };
        stream.reader = None;
        if !stream.received_end {
            return self.poll_reset(id, cx);
        }
        stream.failure_only = true;
        set(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The answer to a request of ours, or how it failed.
    pub(crate) fn poll_answer(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), Unanswered>> {
        if let Some(answer) = self.streams.get_mut(id).and_then(|stream| stream.answer.take()) {
            return Poll::Ready(Ok(*answer));
        }
        let failure = self.failure.clone();
        let queued = self.streams.get(id).map(|stream| stream.queued);
        let early_bytes_left = queued.is_some_and(|(turn, count)| count > 0 && self.may_have_left(turn));
        let Some(stream) = self.streams.get_mut(id) else {
            return Poll::Ready(Err(Unanswered::Connection { failure: Failure::Closed, early_bytes_left }));
        };
        if let Some(reset) = stream.reset {
            return Poll::Ready(Err(Unanswered::Reset(reset)));
        }
        if let Some(failure) = failure {
            return Poll::Ready(Err(Unanswered::Connection { failure, early_bytes_left }));
        }
        set(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The user of a tunnel has dropped it: resets it if its own direction has not ended. One that has ended it is like a socket that is
    /// closed: what was sent still arrives, and the peer may send no more.
    pub(crate) fn let_go(&mut self, id: u32) {
        let (failed, server) = (self.failure.is_some(), self.role != Role::Client);
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.held = false;
        if failed || stream.closed() {
            return self.remove(id);
        }
        if !stream.sent_end {
            return self.cancel(id);
        }
        if server {
            return self.reset(id, code::NO_ERROR);
        }
        // A reset of the client's would overtake, at the server, what we sent before. What it still sends is read until it ends.
        let unread = stream.unread();
        stream.parting = Some(Parting { until: Instant::now() + PARTING, seen: unread });
        (stream.inbox, stream.handed) = (super::inbox::Inbox::default(), 0);
        self.parting += 1;
        self.done_with(id, unread);
        if unread > PARTING_BYTES {
            self.cancel(id);
        }
    }

    /// Resets tunnels that have been parting for too long (all if `now` is none), and says when the next will have been.
    pub(crate) fn end_partings(&mut self, now: Option<Instant>) -> Option<Instant> {
        if self.parting == 0 {
            return None;
        }
        let parting = |stream: &mut Stream| stream.parting.map(|parting| (stream.id, parting.until));
        let all: Vec<_> = self.streams.iter_mut().filter_map(parting).collect();
        for (id, _) in all.iter().filter(|(_, until)| now.is_none_or(|now| *until <= now)) {
            if self.failure.is_some() {
                self.parting -= 1;
                self.remove(*id);
            } else {
                self.cancel(*id);
            }
        }
        all.into_iter().map(|(_, until)| until).filter(|until| now.is_some_and(|now| *until > now)).min()
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Reset(Reset),
    /// Its connection has failed.
    Connection {
        failure: Failure,
        /// Bytes of the client may have reached the peer.
        early_bytes_left: bool,
    },
}

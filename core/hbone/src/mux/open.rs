//! The client's side: opening tunnels.

use std::{
    io::{self, IoSliceMut},
    task::{Context, Poll, Waker},
};

use http::HeaderMap;

use super::{Failure, LAST_STREAM, Mux, Stream, Unfilled};
use crate::frame::encode;

/// The most bytes of a client that go with its request, before the answer.
pub(crate) const EARLY: usize = 8 << 10;

/// What a request says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// Why no tunnel can be opened in a connection.
#[derive(Debug)]
pub(crate) enum Unopenable {
    Failed(Failure),
    /// The peer goes away, or there is no number left.
    Over,
}

impl Mux {
    /// Takes a place for a tunnel, unless the connection is closed or full: of `limit`, or of what the peer allows.
    pub(crate) fn take_place(&mut self, limit: usize) -> bool {
        // A peer that allows none for now lets the first request wait for its leave.
        self.places.take(limit.min(self.peer.max_streams).max(1))
    }

    pub(crate) fn give_place_back(&mut self) {
        self.places.give_back();
        self.urgent |= self.places.is_done();
    }

    /// No further tunnels; those that are open go on.
    pub(crate) fn close(&mut self) {
        self.places.close();
        self.urgent = true;
    }

    /// Sends a request once the peer allows it, for one who has a place. The place goes to the tunnel, whose number is returned.
    pub(crate) fn poll_open(&mut self, cx: &Context<'_>, opening: Opening<'_>) -> Poll<Result<u32, Unopenable>> {
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(Unopenable::Failed(failure.clone())));
        }
        let id = if self.last == 0 { 1 } else { self.last.saturating_add(2) };
        if self.away || id > LAST_STREAM {
            self.close();
            return Poll::Ready(Err(Unopenable::Over));
        }
        if self.live >= self.peer.max_streams {
            if !self.opening.iter().any(|waker| waker.will_wake(cx.waker())) {
                self.opening.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        self.last = id;
        let mut stream = Stream::new(id, self.peer.initial_window, self.first_receive_window());
        stream.place = true;
        self.streams.insert(stream);
        self.live += 1;
        self.send_headers(id, encode::Opening::Connect(opening.authority), opening.headers, false);
        Poll::Ready(Ok(id))
    }

    /// Sends what the client says before the answer: what `fill` puts into the places that it is given. Returns how much, 0 when none of it can
    /// be sent before the answer.
    ///
    /// Only where the peer has told its settings: it has taken our certificate then, its windows are known, and a connection that breaks as
    /// soon as it was made costs no request its second try.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn send_early(
        &mut self,
        id: u32,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<u32> {
        // Who waits for room comes first, and nobody is woken for these.
        let room = self.peer.has_told && self.waiting.is_empty() && self.window > 0 && !self.is_full();
        if !room || self.streams.get(id).is_none_or(|stream| stream.send_window <= 0) {
            return Ok(0);
        }
        match self.poll_fill(id, &mut Context::from_waker(Waker::noop()), EARLY, fill) {
            Poll::Ready(Ok(count)) => Ok(u32::try_from(count).unwrap_or(0)),
            Poll::Ready(Err(Unfilled::Source(error))) => Err(error),
            // The answer says what is wrong with the tunnel.
            Poll::Ready(Err(Unfilled::Tunnel(_))) | Poll::Pending => Ok(0),
        }
    }
}

//! How a connection ends.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Driver, Ended, LAST_CALL, Phase};
use crate::{frame::code, mux::Failure, transport::Transport};

/// How long a connection that ends may take to say so, and to see that the peer has heard it.
const GOODBYE: Duration = Duration::from_secs(1);

impl<T: Transport> Driver<T> {
    /// The peer has closed, in order as far as the transport can tell.
    pub(super) fn peer_closed(&mut self) {
        let failure = Failure::lost(io::ErrorKind::BrokenPipe, "the peer has closed it");
        if self.decoder.begun() {
            self.link.with(|mux| mux.fail(failure));
            self.close();
        } else {
            self.fail(Failure::lost(io::ErrorKind::UnexpectedEof, "the peer has closed it before it began"));
        }
    }

    /// The transport takes no more. What has arrived before says more than that does.
    pub(super) fn broken(&mut self, cx: &mut Context<'_>, error: io::Error) {
        if self.written == 0 {
            self.link.lock().not_written();
        }
        while self.phase == Phase::Running && self.poll_input(cx) {}
        if self.phase != Phase::Over && self.ended.is_ok() {
            self.fail(Failure::Lost(Arc::new(error)));
        }
        self.phase = Phase::Over;
    }

    /// The connection is lost.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.link.with(|mux| mux.fail(failure.clone()));
        self.ended = Err(failure);
        self.phase = Phase::Over;
    }

    /// Nothing more is written.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closing;
        self.timer.as_mut().reset(Instant::now() + GOODBYE);
    }

    /// Ends the connection from this side, with a word to the peer.
    pub(super) fn end(&mut self, ended: Ended, code: u32) {
        if self.phase != Phase::Running {
            return;
        }
        let failure = ended.clone().err().unwrap_or(Failure::Closed);
        self.link.with(|mux| mux.goodbye(code, failure));
        self.ended = ended;
        self.phase = Phase::Flushing;
        self.timer.as_mut().reset(Instant::now() + GOODBYE);
    }

    /// Ends the connection when nothing more will happen in it.
    pub(super) fn settle(&mut self) {
        let mut mux = self.link.lock();
        if self.shutting && mux.take_pong_of(LAST_CALL) {
            mux.shut_finally();
        }
        let over = mux.is_over() || mux.failure().is_some();
        drop(mux);
        if over {
            self.end(Ok(()), code::NO_ERROR);
        }
    }

    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>, blocked: bool) {
        if self.phase == Phase::Flushing && !blocked && self.batch.is_empty() && !self.link.lock().has_output() {
            self.phase = Phase::Closing;
        }
        if self.phase == Phase::Closing {
            match self.io.poll_shutdown(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => self.phase = Phase::Lingering,
                Poll::Ready(Err(_)) => self.phase = Phase::Over,
            }
        }
        while self.phase == Phase::Lingering {
            match self.io.poll_chunk(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(_) => self.phase = Phase::Over,
            }
        }
    }
}

//! Sending: sealed pieces of the caller, records of our own, and the order in which they leave.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEAD, MOST, Stream, TAIL,
    fault::{Failure, Fault},
    post::OUR_KEY_UPDATE,
    transport::Sending,
};

/// The most of a copied write that is sealed at once.
const AT_ONCE: usize = 4 * MOST;

/// Sealed bytes on their way.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) bytes: Vec<u8>,
    written: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.written >= self.bytes.len()
    }

    /// Writes all of it, and then gives its memory back.
    fn poll_write_all<T: AsyncWrite + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.bytes.get(self.written..).filter(|left| !left.is_empty()) {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, left))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}

impl<T> Stream<T> {
    /// Room before the plaintext of each piece.
    #[must_use]
    pub fn head(&self) -> usize {
        HEAD
    }

    /// Room after the plaintext of each piece.
    #[must_use]
    pub fn tail(&self) -> usize {
        TAIL
    }

    /// The most plaintext in a piece.
    #[must_use]
    pub fn most(&self) -> usize {
        MOST
    }

    /// Renews the key for sending after fewer records than the cipher suite allows, at least 4.
    #[cfg(test)]
    pub(crate) fn lower_key_limit(&mut self, records: u64) {
        if let Sending::Open(sealer) = &mut self.sending {
            sealer.lower_limit(records.max(4));
        }
    }

    /// Call it when all of the batch before is written and the next one begins: a key update that is due is sealed here, and goes
    /// out before the batch.
    ///
    /// # Errors
    /// When the connection is closed or has failed.
    pub fn begin(&mut self) -> io::Result<()> {
        let Sending::Open(sealer) = &mut self.sending else { return Err(self.cannot_send()) };
        // The update would overtake what is sealed under the present key, so it waits for the batch after.
        if self.unwritten != 0 || !(self.due || sealer.is_worn()) {
            return Ok(());
        }
        let schedule = &mut self.schedule;
        let updated = sealer
            .append(HANDSHAKE, [&OUR_KEY_UPDATE[..]], &mut self.ahead.bytes)
            .and_then(|()| schedule.next_tx().map_err(Fault::ours))
            .and_then(|secrets| sealer.rekey(&secrets));
        self.due = false;
        updated.map_err(|fault| self.fail(&fault))
    }

    /// Seals one piece in place: `piece` is [`Stream::head`] bytes of room, the plaintext, [`Stream::tail`] bytes of room.
    ///
    /// # Errors
    /// When the piece's length is wrong, or the connection is closed or has failed.
    pub fn seal(&mut self, piece: &mut [u8]) -> io::Result<()> {
        let Sending::Open(sealer) = &mut self.sending else { return Err(self.cannot_send()) };
        match sealer.seal(APPLICATION_DATA, piece) {
            Ok(()) => {
                self.unwritten += piece.len();
                Ok(())
            }
            Err(fault) => Err(self.fail(&fault)),
        }
    }

    /// Why nothing can be sent.
    fn cannot_send(&self) -> io::Error {
        match &self.sending {
            Sending::Failed(failure) => failure.to_error(),
            _ => io::Error::new(io::ErrorKind::BrokenPipe, "the TLS connection is closed for sending"),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    /// Writes bytes that [`Stream::seal`] has sealed, the first of those that are not written yet; what [`Stream::begin`] has made
    /// goes first.
    ///
    /// # Errors
    /// When the transport fails. Also when more bytes are given than are sealed and not written: they would be plaintext.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> Poll<io::Result<usize>> {
        if sealed.len() > self.unwritten {
            return Poll::Ready(Err(match &self.sending {
                Sending::Failed(failure) => failure.to_error(),
                _ => io::Error::new(io::ErrorKind::InvalidInput, "bytes that are not sealed must not be written"),
            }));
        }
        ready!(self.poll_flush_ahead(cx))?;
        match ready!(Pin::new(&mut self.io).poll_write(cx, sealed)) {
            Ok(0) if !sealed.is_empty() => Poll::Ready(Err(self.broken(io::ErrorKind::WriteZero.into()))),
            Ok(count) => {
                self.unwritten = self.unwritten.saturating_sub(count);
                Poll::Ready(Ok(count))
            }
            Err(error) => Poll::Ready(Err(self.broken(error))),
        }
    }

    /// Says that we send no more (close_notify), and closes the transport for writing. If the caller has sealed bytes that it has not
    /// written, then the peer is to see that something is missing: no close_notify.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Sending::Open(sealer) = &mut self.sending {
            let sealed = sealer.append(ALERT, [&[1, rustls::AlertDescription::CloseNotify.into()][..]], &mut self.last.bytes);
            self.sending = Sending::Closed;
            if let Err(fault) = sealed {
                return Poll::Ready(Err(self.fail(&fault)));
            }
        }
        ready!(self.poll_flush_own(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Writes what this type has sealed, the last record too if it is its turn.
    pub(super) fn poll_flush_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_ahead(cx))?;
        if self.unwritten != 0 || self.last.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.last.poll_write_all(&mut self.io, cx)).map_err(|error| self.broken(error))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Writes what goes before the caller's bytes.
    fn poll_flush_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let written = ready!(self.ahead.poll_write_all(&mut self.io, cx));
        Poll::Ready(written.map_err(|error| self.broken(error)))
    }

    /// The transport cannot be written to any more. What the peer has sent before, an alert perhaps, can still be read.
    fn broken(&mut self, error: io::Error) -> io::Error {
        if !matches!(self.sending, Sending::Failed(_)) {
            self.sending = Sending::Failed(Failure::Transport(error.kind()));
        }
        // A record may have gone out in part: nothing may follow it.
        (self.ahead, self.last, self.unwritten) = (Queue::default(), Queue::default(), 0);
        error
    }

    /// Seals a copy of the first bytes of `plaintext`, and writes as much as the transport takes now.
    pub(super) fn poll_write_copy(&mut self, cx: &mut Context<'_>, plaintext: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.unwritten != 0 {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "sealed bytes have to be written first");
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_flush_ahead(cx))?;
        let mut taken = 0;
        while taken < AT_ONCE {
            let length: usize = parts(plaintext, taken).map(<[u8]>::len).sum();
            if length == 0 {
                break;
            }
            self.begin()?;
            let Sending::Open(sealer) = &mut self.sending else { return Poll::Ready(Err(self.cannot_send())) };
            if let Err(fault) = sealer.append(APPLICATION_DATA, parts(plaintext, taken), &mut self.ahead.bytes) {
                return Poll::Ready(Err(self.fail(&fault)));
            }
            taken += length;
        }
        match self.poll_flush_ahead(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Writes what [`Stream::poll_write_copy`] has taken.
    pub(super) fn poll_flush_copy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_ahead(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

/// What goes into one record: the bytes of `slices` from `start` on.
fn parts<'a>(slices: &'a [IoSlice<'_>], start: usize) -> impl Iterator<Item = &'a [u8]> {
    let (mut skip, mut room) = (start, MOST);
    slices.iter().filter_map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        let rest = slice.get(skipped..).unwrap_or_default();
        let part = rest.get(..room.min(rest.len())).unwrap_or_default();
        room -= part.len();
        (!part.is_empty()).then_some(part)
    })
}

//! A TLS connection over a transport.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ambit_identity::SpiffeId;
use bytes::{Bytes, BytesMut};
use rustls::CipherSuite;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEAD, MOST, TAIL,
    fault::{Failure, Fault},
    inbox::Inbox,
    incoming::{Event, Incoming},
    keys::{Key, Schedule},
    open::Opener,
    post::OUR_KEY_UPDATE,
    seal::Sealer,
};
use crate::PeerError;

/// A TLS 1.3 connection between two workloads, after its handshake.
///
/// It is used in one of two ways. As [`AsyncRead`] and [`AsyncWrite`], which copy. Or without copies, by the methods of this type:
/// [`Stream::poll_chunk`] gives the plaintext where it was opened; to send, put pieces together with room before and after the
/// plaintext, then for each batch call [`Stream::begin`], [`Stream::seal`] for each piece, and [`Stream::poll_write`] until all
/// sealed bytes are written, in the order in which they were sealed.
///
/// After an error nothing more is sealed or opened, for good. While nothing arrives, no buffer is held.
pub struct Stream<T> {
    pub(super) io: T,
    inbox: Inbox,
    receiving: Receiving,
    sending: Sending,
    schedule: Box<dyn Schedule>,
    /// The peer has asked for our next key.
    due: bool,
    /// Sealed by this type: goes before what the caller still has to write.
    ahead: Queue,
    /// The last record that we send, an alert: goes when the caller has written everything.
    last: Queue,
    /// Bytes that [`Stream::seal`] has sealed and [`Stream::poll_write`] has not written yet.
    unwritten: usize,
    /// What [`AsyncRead`] has not given out yet.
    pub(super) rest: Bytes,
    about: About,
}

/// What the handshake has found out.
pub(super) struct About {
    pub(super) peer: Result<SpiffeId, PeerError>,
    pub(super) alpn: Option<Box<[u8]>>,
    pub(super) suite: CipherSuite,
}

enum Receiving {
    Open(Incoming),
    /// After close_notify.
    Ended,
    Failed(Failure),
}

enum Sending {
    Open(Sealer),
    /// After our close_notify.
    Closed,
    Failed(Failure),
}

/// Sealed bytes on their way.
#[derive(Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
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
    /// Takes over from the handshake. `bytes`: what has arrived and was not processed.
    pub(super) fn new(io: T, bytes: BytesMut, established: Established) -> Self {
        let Established { tx, rx, schedule, limit, is_client, about } = established;
        Self {
            io,
            inbox: bytes.into(),
            receiving: Receiving::Open(Incoming::new(Opener::new(rx), is_client)),
            sending: Sending::Open(Sealer::new(tx, limit)),
            schedule,
            due: false,
            ahead: Queue::default(),
            last: Queue::default(),
            unwritten: 0,
            rest: Bytes::new(),
            about,
        }
    }

    /// The transport below. Writing to it would destroy the connection.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Who the peer is.
    ///
    /// # Errors
    /// When the peer has no certificate, or it names no workload. Between workloads the handshake has seen to that.
    pub fn peer(&self) -> Result<&SpiffeId, PeerError> {
        self.about.peer.as_ref().map_err(Clone::clone)
    }

    /// The protocol that was negotiated in ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.about.alpn.as_deref()
    }

    /// The cipher suite that was negotiated.
    #[must_use]
    pub fn cipher_suite(&self) -> CipherSuite {
        self.about.suite
    }

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

    /// Renews the key for sending after fewer records than the cipher suite allows, at least 4. For tests.
    pub fn lower_key_limit(&mut self, records: u64) {
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
            .append(HANDSHAKE, &OUR_KEY_UPDATE, &mut self.ahead.bytes)
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

    /// Ends the connection in both directions: no key remains. The peer gets the alert when everything before it is written.
    fn fail(&mut self, fault: &Fault) -> io::Error {
        let failure = Failure::from(fault);
        let error = failure.to_error();
        if let (Sending::Open(sealer), Some(alert)) = (&mut self.sending, fault.alert) {
            // Without the alert the peer sees the connection end, and has to make do with that.
            let _unsaid = sealer.append(ALERT, &[2, alert.into()], &mut self.last.bytes);
        }
        self.give_up(failure);
        error
    }

    fn give_up(&mut self, failure: Failure) {
        self.sending = Sending::Failed(failure.clone());
        self.receiving = Receiving::Failed(failure);
        self.inbox.clear();
    }

    /// The next plaintext among the bytes that have arrived. None when more are needed, or the peer has closed.
    fn next_data(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Receiving::Open(incoming) = &mut self.receiving {
            let Some(record) = self.inbox.next_record()? else { return Ok(None) };
            match incoming.take(record)? {
                Event::Data(bytes) => return Ok(Some(bytes)),
                Event::Nothing => {}
                Event::KeyUpdate { requested } => {
                    incoming.rekey(&self.schedule.next_rx().map_err(Fault::ours)?)?;
                    self.due |= requested;
                }
                Event::Closed => {
                    self.receiving = Receiving::Ended;
                    self.inbox.clear();
                }
            }
        }
        Ok(None)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    /// The next plaintext, at least one byte; none at the end in order, which is the peer's close_notify.
    ///
    /// The bytes lie in the buffer into which the transport was read, up to 256 KB, which lives as long as one of its pieces does.
    ///
    /// # Errors
    /// When TLS fails, the peer refuses us ([`crate::PeerError::from_io`] says why) or closes without close_notify
    /// ([`io::ErrorKind::UnexpectedEof`]), or the transport fails. Then the same again for each further call.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            match self.next_data() {
                Ok(Some(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                Ok(None) => {}
                Err(fault) => {
                    let error = self.fail(&fault);
                    // If it cannot be written now, closing will do it.
                    let _later = self.poll_flush_own(cx);
                    return Poll::Ready(Err(error));
                }
            }
            match &self.receiving {
                Receiving::Open(_) => {}
                Receiving::Ended => return Poll::Ready(Ok(None)),
                Receiving::Failed(failure) => return Poll::Ready(Err(failure.to_error())),
            }
            match ready!(self.inbox.poll_fill(&mut self.io, cx)) {
                Ok(0) => self.give_up(Failure::Transport(io::ErrorKind::UnexpectedEof)),
                Ok(_) => {}
                Err(error) => {
                    self.give_up(Failure::Transport(error.kind()));
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Writes bytes that [`Stream::seal`] has sealed, the first of those that are not written yet; what [`Stream::begin`] has made
    /// goes first.
    ///
    /// # Errors
    /// When the transport fails. Also when more bytes are given than are sealed and not written: they would be plaintext.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> Poll<io::Result<usize>> {
        if sealed.len() > self.unwritten {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "bytes that are not sealed must not be written");
            return Poll::Ready(Err(error));
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
            let sealed = sealer.append(ALERT, &[1, rustls::AlertDescription::CloseNotify.into()], &mut self.last.bytes);
            self.sending = Sending::Closed;
            if let Err(fault) = sealed {
                return Poll::Ready(Err(self.fail(&fault)));
            }
        }
        ready!(self.poll_flush_own(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Writes what this type has sealed, the last record too if it is its turn.
    fn poll_flush_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    pub(super) fn poll_write_copy(&mut self, cx: &mut Context<'_>, plaintext: &[u8]) -> Poll<io::Result<usize>> {
        /// The most that is sealed at once.
        const AT_ONCE: usize = 4 * MOST;
        if plaintext.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.unwritten != 0 {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "sealed bytes have to be written first");
            return Poll::Ready(Err(error));
        }
        ready!(self.poll_flush_ahead(cx))?;
        let mut taken = 0;
        for piece in plaintext.chunks(MOST).take(AT_ONCE / MOST) {
            self.begin()?;
            let Sending::Open(sealer) = &mut self.sending else { return Poll::Ready(Err(self.cannot_send())) };
            if let Err(fault) = sealer.append(APPLICATION_DATA, piece, &mut self.ahead.bytes) {
                return Poll::Ready(Err(self.fail(&fault)));
            }
            taken += piece.len();
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

/// What the handshake hands over.
pub(super) struct Established {
    /// The key for sending.
    pub(super) tx: Key,
    /// The key for receiving.
    pub(super) rx: Key,
    pub(super) schedule: Box<dyn Schedule>,
    /// How many records one key may seal.
    pub(super) limit: u64,
    /// Whether we are the client.
    pub(super) is_client: bool,
    pub(super) about: About,
}

impl<T: fmt::Debug> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("io", &self.io).field("peer", &self.about.peer).finish_non_exhaustive()
    }
}

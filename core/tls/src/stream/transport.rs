//! A TLS connection over a transport.

use std::{fmt, io};

use ambit_identity::SpiffeId;
use bytes::{Bytes, BytesMut};
use rustls::CipherSuite;

use super::{
    ALERT,
    fault::{Failure, Fault},
    inbox::Inbox,
    incoming::Incoming,
    keys::{Key, Schedule},
    open::Opener,
    seal::Sealer,
    send::Queue,
};
use crate::{PeerError, Presented};

/// A TLS 1.3 connection between two workloads, after its handshake.
///
/// It is used in one of two ways. As [`tokio::io::AsyncRead`] and [`tokio::io::AsyncWrite`], which copy. Or without copies, by the methods of this type:
/// [`Stream::poll_chunk`] gives the plaintext where it was opened; to send, put pieces together with room before and after the
/// plaintext, then for each batch call [`Stream::begin`], [`Stream::seal`] for each piece, and [`Stream::poll_write`] until all
/// sealed bytes are written, in the order in which they were sealed.
///
/// After an error nothing more is sealed or opened, for good. While nothing arrives, no buffer is held.
pub struct Stream<T> {
    pub(super) io: T,
    pub(super) inbox: Inbox,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    pub(super) schedule: Box<dyn Schedule>,
    /// The peer has asked for our next key.
    pub(super) due: bool,
    /// Sealed by this type: goes before what the caller still has to write.
    pub(super) ahead: Queue,
    /// The last record that we send, an alert: goes when the caller has written everything.
    pub(super) last: Queue,
    /// Bytes that [`Stream::seal`] has sealed and [`Stream::poll_write`] has not written yet.
    pub(super) unwritten: usize,
    /// What [`tokio::io::AsyncRead`] has not given out yet.
    pub(super) rest: Bytes,
    about: About,
}

/// What the handshake has found out.
pub(super) struct About {
    pub(super) peer: Result<SpiffeId, PeerError>,
    pub(super) presented: Presented,
    pub(super) alpn: Option<Box<[u8]>>,
    pub(super) suite: CipherSuite,
}

/// What the peer's side of the connection has come to.
pub(super) enum Receiving {
    Open(Incoming),
    /// After close_notify.
    Ended,
    Failed(Failure),
}

/// What our side of the connection has come to.
pub(super) enum Sending {
    Open(Sealer),
    /// After our close_notify.
    Closed,
    Failed(Failure),
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

    /// As [`Stream::get_ref`], for one who puts another handle of the same connection in its place.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Who the peer is.
    ///
    /// # Errors
    /// When the peer has no certificate, or it names no workload. Between workloads the handshake has seen to that.
    pub fn peer(&self) -> Result<&SpiffeId, PeerError> {
        self.about.peer.as_ref().map_err(Clone::clone)
    }

    /// The certificates of the peer.
    #[must_use]
    pub fn presented(&self) -> &Presented {
        &self.about.presented
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

    /// Ends the connection in both directions: no key remains. The peer gets the alert when everything before it is written.
    pub(super) fn fail(&mut self, fault: &Fault) -> io::Error {
        let failure = Failure::from(fault);
        let error = failure.to_error();
        if let (Sending::Open(sealer), Some(alert)) = (&mut self.sending, fault.alert) {
            // Without the alert the peer sees the connection end, and has to make do with that.
            let _unsaid = sealer.append(ALERT, [&[2, alert.into()][..]], &mut self.last.bytes);
        }
        self.give_up(failure);
        error
    }

    pub(super) fn give_up(&mut self, failure: Failure) {
        self.sending = Sending::Failed(failure.clone());
        self.receiving = Receiving::Failed(failure);
        self.inbox.clear();
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

//! Why a connection is over, and the alert that tells the peer.

use std::io;

use rustls::{AlertDescription, PeerMisbehaved};

/// What ends a connection: the alert for the peer, if it is to get one, and the reason for ourselves.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) alert: Option<AlertDescription>,
    pub(super) error: rustls::Error,
}

impl Fault {
    /// The peer broke the protocol.
    pub(super) fn misbehaved(alert: AlertDescription, how: PeerMisbehaved) -> Self {
        Self { alert: Some(alert), error: rustls::Error::PeerMisbehaved(how) }
    }

    /// A message where it may not be.
    pub(super) fn unexpected(how: PeerMisbehaved) -> Self {
        Self::misbehaved(AlertDescription::UnexpectedMessage, how)
    }

    /// A message of a kind that nobody may send now.
    pub(super) fn inappropriate(kind: u8) -> Self {
        let error = rustls::Error::General(format!("a record or message of the kind {kind} is not allowed after the handshake"));
        Self { alert: Some(AlertDescription::UnexpectedMessage), error }
    }

    /// A message whose form is wrong.
    pub(super) fn malformed(error: rustls::InvalidMessage) -> Self {
        Self { alert: Some(AlertDescription::DecodeError), error: error.into() }
    }

    /// A record that is too long.
    pub(super) fn oversized() -> Self {
        Self { alert: Some(AlertDescription::RecordOverflow), error: rustls::Error::PeerSentOversizedRecord }
    }

    /// A record that the peer has not sealed.
    pub(super) fn forged() -> Self {
        Self { alert: Some(AlertDescription::BadRecordMac), error: rustls::Error::DecryptError }
    }

    /// The peer has ended the connection for this reason. It gets no answer (RFC 8446, section 6.2).
    pub(super) fn received(alert: AlertDescription) -> Self {
        Self { alert: None, error: rustls::Error::AlertReceived(alert) }
    }

    /// Something of ours failed.
    pub(super) fn ours(error: rustls::Error) -> Self {
        Self { alert: Some(AlertDescription::InternalError), error }
    }
}

/// A failure as every later call reports it.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// TLS failed.
    Tls(rustls::Error),
    /// The transport failed, or ended without close_notify.
    Transport(io::ErrorKind),
}

impl Failure {
    /// The error for the caller; [`crate::PeerError::from_io`] finds the reason in it.
    pub(super) fn to_error(&self) -> io::Error {
        match self {
            Self::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error.clone()),
            Self::Transport(io::ErrorKind::UnexpectedEof) => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection without a TLS close_notify")
            }
            Self::Transport(kind) => (*kind).into(),
        }
    }
}

impl From<&Fault> for Failure {
    fn from(fault: &Fault) -> Self {
        Self::Tls(fault.error.clone())
    }
}

//! Why a connection or a tunnel is over, and what its users are told.

use std::{io, sync::Arc};

use crate::frame::{FrameError, code};

/// What ended a connection.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The transport failed.
    Lost(Arc<io::Error>),
    /// The peer fell silent, or never began.
    Silent(&'static str),
    /// The peer broke the protocol.
    Protocol { code: u32, why: &'static str },
    /// The peer goes away, and has not looked at the tunnel.
    Away { code: u32 },
    /// This side closed it.
    Closed,
}

impl Failure {
    pub(crate) fn lost(kind: io::ErrorKind, text: &'static str) -> Self {
        Self::Lost(Arc::new(io::Error::new(kind, text)))
    }

    /// What a reader or writer of a tunnel sees.
    pub(crate) fn to_io(&self) -> io::Error {
        let (who, code) = match self {
            Self::Lost(io) => return io::Error::new(io.kind(), format!("tunnel connection lost: {io}")),
            Self::Silent(text) => return io::Error::new(io::ErrorKind::TimedOut, format!("tunnel connection lost: {text}")),
            Self::Protocol { code, .. } => ("this side", *code),
            Self::Away { code } => ("the peer", *code),
            Self::Closed => ("this side", code::NO_ERROR),
        };
        let text = format!("{who} ended the tunnel's connection ({})", code::name(code));
        io::Error::new(io::ErrorKind::ConnectionAborted, text)
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Connection { code, why } | FrameError::Stream { code, why, .. } => Self::Protocol { code, why },
        }
    }
}

/// How a tunnel was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) by: Side,
    pub(crate) code: u32,
}

/// Who cut a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Its user here.
    User,
    /// This side, because of what the peer did.
    Us,
    /// The peer.
    Peer,
    /// The peer goes away, and has not looked at it.
    Away,
    /// This side, because the process holds too many bytes that nobody reads.
    Memory,
}

impl Reset {
    pub(crate) fn to_io(self) -> io::Error {
        if self.by == Side::Away {
            return Failure::Away { code: self.code }.to_io();
        }
        if self.by == Side::Memory {
            let text = "this side reset the tunnel: nobody reads its bytes, and there are too many such bytes in the process";
            return io::Error::new(io::ErrorKind::OutOfMemory, text);
        }
        let who = if self.by == Side::Peer { "the peer" } else { "this side" };
        io::Error::new(io::ErrorKind::ConnectionReset, format!("{who} reset the tunnel ({})", code::name(self.code)))
    }
}

//! What can go wrong with a tunnel or a connection of tunnels.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};

/// Why a tunnel was not opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The connection to the peer could not be made (TCP or TLS).
    #[error("connect to the peer: {0}")]
    Dial(Arc<io::Error>),
    /// The connection to the peer ended before it answered. When the peer refuses our certificate, this is where it shows.
    #[error("the connection ended before an answer: {0}")]
    Lost(Arc<io::Error>),
    /// The peer answered, but not with success; its headers may say why.
    #[error("the peer refused the tunnel with {status}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The headers of the answer.
        headers: Box<HeaderMap>,
    },
    /// The peer reset this request, or goes away.
    #[error("the peer reset the request: {0}")]
    Reset(String),
    /// No answer in time.
    #[error("no answer from the peer within {0:?}")]
    TimedOut(Duration),
    /// The request cannot be written as HTTP/2.
    #[error("the request is not valid: {0}")]
    Invalid(String),
    /// The client's connection failed before there was an answer.
    #[error("the client has gone: {0}")]
    Client(Arc<io::Error>),
    /// Bytes of the client went with the request, and what came of them is not known: the request must not be made again.
    #[error("{0}")]
    Unknown(Box<Self>),
    /// The pool is shut down.
    #[error("the pool is shut down")]
    Shutdown,
}

impl ConnectError {
    /// The transport's error below, for a layer that knows its type (TLS).
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Dial(error) | Self::Lost(error) => Some(error),
            Self::Unknown(error) => error.io(),
            _ => None,
        }
    }
}

/// Why serving a connection ended before its peer closed it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServeError {
    /// The peer does not speak HTTP/2.
    #[error("the peer does not speak HTTP/2: {0}")]
    NotHttp2(String),
    /// The peer broke the protocol later on.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The transport failed.
    #[error("connection lost: {0}")]
    Lost(Arc<io::Error>),
    /// The peer did not begin, or stopped answering pings.
    #[error("the peer is silent: {0}")]
    Silent(&'static str),
}

impl ServeError {
    /// The transport's error below, for a layer that knows its type (TLS).
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Lost(error) => Some(error),
            _ => None,
        }
    }
}

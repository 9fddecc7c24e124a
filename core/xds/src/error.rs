//! What can go wrong between a discovery client and its server.

use std::{io, path::PathBuf};

/// Why a discovery stream could not be opened or had to be given up.
#[derive(Debug, thiserror::Error)]
pub enum XdsError {
    /// The address of the server is not `host:port`.
    #[error("the discovery address {address:?} is not host:port")]
    Address {
        /// The address as it was given.
        address: String,
    },
    /// A file that authenticates one of the two ends cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// The token or the root certificates.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The token file holds what cannot be a header value.
    #[error("the token in {path} is not a header value", path = path.display())]
    Token {
        /// Where it was read.
        path: PathBuf,
    },
    /// No connection to the server, or no TLS session with it.
    #[error("no connection to the discovery server: {source}", source = chain(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The server ended the stream with an error.
    #[error("the discovery server ended the stream: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Stream(Box<tonic::Status>),
    /// The server broke the protocol.
    #[error("the discovery server broke the protocol: {0}")]
    Protocol(String),
}

impl From<tonic::Status> for XdsError {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

/// An error with all of its causes, for libraries that keep the cause out of the message.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

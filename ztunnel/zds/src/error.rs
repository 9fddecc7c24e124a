//! What can go wrong between node agent and node proxy.

use std::{io, path::PathBuf};

/// A failure of the handover.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket between node agent and node proxy failed.
    #[error("{what} {}: {source}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The socket's file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The other end of the socket breaks its protocol.
    #[error("node agent protocol: {0}")]
    Protocol(String),
}

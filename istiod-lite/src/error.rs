//! Why the control plane cannot run.

use std::{io, net::SocketAddr};

use crate::{roots::RootsError, source::SourceError};

/// What ends the control plane, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root, a serving certificate or the token key.
    #[error(transparent)]
    Tls(#[from] ambit_tls::TlsError),
    /// The issuers of the mesh on Kubernetes.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The source of objects.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Signals, logging or metrics.
    #[error(transparent)]
    Runtime(#[from] ambit_runtime::Error),
    /// A listener.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The state directory.
    #[error("cannot make the directory {path}: {cause}", path = path.display())]
    State {
        /// The directory.
        path: std::path::PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// TLS of the discovery server.
    #[error("cannot serve TLS: {0}")]
    Serving(String),
    /// One of the control plane's own tasks ended.
    #[error("{0} stopped")]
    Stopped(&'static str),
}

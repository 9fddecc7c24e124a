//! What can go wrong in the node proxy itself, as opposed to what is wrong with one connection (a [`Refusal`](ambit_model::Refusal)).

use std::{io, path::PathBuf};

/// A failure of the node proxy or of the node agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be opened.
    #[error("listen on {address} in {place}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Whose namespace.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket between node agent and node proxy failed.
    #[error("{what} {}: {source}", path.display())]
    Handover {
        /// What was tried.
        what: &'static str,
        /// The socket's file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The other end of that socket breaks its protocol.
    #[error("node agent protocol: {0}")]
    Protocol(String),
    /// The proxy refused a pod.
    #[error("the proxy refused pod {uid}: {reason}")]
    PodRefused {
        /// The pod.
        uid: String,
        /// What the proxy said.
        reason: String,
    },
    /// The proxy went away before it answered.
    #[error("the proxy went away before it answered for pod {0}")]
    ProxyGone(String),
    /// The capture rules cannot be written.
    #[error("capture rules: {0}")]
    Rules(String),
    /// A setting cannot be used.
    #[error("setting {0}")]
    Config(String),
    /// The threads that carry connections cannot be started.
    #[error("start a worker: {0}")]
    Worker(#[source] io::Error),
    /// The surroundings of the program cannot be set up.
    #[error(transparent)]
    Runtime(#[from] ambit_runtime::Error),
    /// Certificates cannot be obtained at all.
    #[error(transparent)]
    Tls(#[from] ambit_tls::TlsError),
}

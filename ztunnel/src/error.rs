//! What can go wrong in the node proxy itself, as opposed to what is wrong with one connection (a [`Refusal`](ambit_model::Refusal)).

use std::{io, path::PathBuf};

/// A failure of the node proxy.
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
    /// A pod's network namespace is another one's.
    #[error("{place} has the network namespace in which pod {uid} is served")]
    Occupied {
        /// The pod.
        place: String,
        /// The UID of the other.
        uid: String,
    },
    /// The handover from the node agent failed.
    #[error(transparent)]
    Handover(#[from] ambit_zds::Error),
    /// Rules for connections that stay on the node cannot be written.
    #[error("rules in the pod: {0}")]
    Rules(String),
    /// A setting cannot be used.
    #[error("setting {0}")]
    Config(String),
    /// The threads that carry connections cannot be started.
    #[error("start a worker: {0}")]
    Worker(#[source] io::Error),
    /// The kept state that was read is not the last one, and the control plane does not answer.
    #[error(
        "{} was written by another proxy since it was read here, and the control plane does not answer: start this one anew, it then reads it",
        .0.display()
    )]
    Outdated(PathBuf),
    /// The surroundings of the program cannot be set up.
    #[error(transparent)]
    Runtime(#[from] ambit_runtime::Error),
    /// Certificates cannot be obtained at all.
    #[error(transparent)]
    Tls(#[from] ambit_tls::TlsError),
}

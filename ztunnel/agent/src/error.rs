//! What can go wrong in the node agent.

use std::{io, path::PathBuf};

/// A failure of the node agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handover to the node proxies failed.
    #[error(transparent)]
    Handover(#[from] ambit_zds::Error),
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
    /// A proxy takes too long to let a pod go.
    #[error("a proxy has not answered yet that it lets pod {0} go")]
    Unanswered(String),
    /// The capture rules cannot be written or read.
    #[error("capture rules: {0}")]
    Rules(String),
    /// A file, a directory or a socket cannot be used.
    #[error("{what} {}: {source}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What the CNI plugin asked cannot be done; the text is for whoever looks why a pod does not start.
    #[error("{0}")]
    Refused(String),
    /// The API server, or what leads to it, cannot be used.
    #[error("Kubernetes: {0}")]
    Kubernetes(String),
    /// The surroundings of the program cannot be set up.
    #[error(transparent)]
    Runtime(#[from] ambit_runtime::Error),
}

impl Error {
    /// Wraps an [`io::Error`] with what was attempted on which path.
    pub(crate) fn path(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Path { what, path, source }
    }
}

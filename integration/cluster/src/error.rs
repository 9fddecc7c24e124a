//! The one error type of this crate.

use std::io;
use std::path::Path;

/// What can go wrong while Kubernetes is built, started or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine lacks a program or a right.
    #[error("{what}\n  how to get it: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// What the person can do about it.
        remedy: String,
    },
    /// Reading, writing or starting something failed.
    #[error("{doing}: {cause}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// A program failed, or did not become ready.
    #[error("{what}: {report}")]
    Failed {
        /// What was being done.
        what: String,
        /// What it said, the end of its log for example.
        report: String,
    },
    /// The API server refused a request, or is away.
    #[error("{doing}: {cause}")]
    Api {
        /// What was asked for.
        doing: String,
        /// Its answer.
        #[source]
        cause: Box<kube::Error>,
    },
}

/// The result of most functions here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |cause| Self::Io { doing, cause }
    }

    pub(crate) fn path(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{doing} {}", path.display()))
    }

    pub(crate) fn failed(what: impl Into<String>, report: impl std::fmt::Display) -> Self {
        Self::Failed { what: what.into(), report: report.to_string() }
    }
}

//! What can go wrong in the `ambit` command, its demonstration programs and the local mesh.

use std::io;
use std::path::{Path, PathBuf};

/// Errors of this crate, each saying what was being done when it happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing something failed.
    #[error("{doing}: {cause}")]
    Io {
        /// What was being done, with the path or address.
        doing: String,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// A request between the demonstration programs failed.
    #[error("{0}")]
    Call(String),
    /// Something that the user wrote cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A manifest cannot be read.
    #[error("{}: {reason}", file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine lacks something that the local mesh needs.
    #[error("{missing}\n  how to get it: {remedy}")]
    Missing {
        /// What is missing.
        missing: String,
        /// How to get it.
        remedy: String,
    },
    /// A part of the mesh did not become ready in time.
    #[error("{0}")]
    NotReady(String),
    /// A program of the mesh or the test bed reported an error.
    #[error("{doing}: {cause}")]
    Part {
        /// What was being done.
        doing: String,
        /// Its report.
        cause: String,
    },
}

impl Error {
    /// An input/output error with what was being done to which path.
    pub fn path(doing: &str, path: &Path, cause: io::Error) -> Self {
        Self::Io { doing: format!("{doing} {}", path.display()), cause }
    }

    /// An input/output error with what was being done.
    pub fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        Self::Io { doing: doing.into(), cause }
    }

    /// Wraps the report of another part of the mesh.
    pub fn part(doing: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Part { doing: doing.into(), cause: format!("{cause:#}") }
    }
}

/// The result of most functions here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

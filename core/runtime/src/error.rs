//! The one error type of this crate.

use std::io;

/// What can go wrong while a program starts or runs its surroundings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed; `what` says in the reader's terms what was attempted.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted, to follow "cannot".
        what: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The log filter is not in the syntax of `tracing_subscriber::EnvFilter`.
    #[error("log filter {filter:?} is not valid: {reason}")]
    LogFilter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging or metrics were already set up by something else in this process.
    #[error("{0} is already set up in this process")]
    AlreadyInstalled(&'static str),
    /// Logging was not set up in this process, so it cannot be changed.
    #[error("{0} is not set up in this process")]
    NotInstalled(&'static str),
}

impl Error {
    /// Wraps an [`io::Error`] with what was attempted, for use in `map_err(Error::io("..."))`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

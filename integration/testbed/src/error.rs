//! The one error type of this crate.

use std::io;

/// What can go wrong while nodes and pods are made or programs run in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine does not let this process have namespaces of its own.
    #[error("cannot {what}: {source}\n  how to get it: {remedy}")]
    Unavailable {
        /// What was attempted, to follow "cannot".
        what: String,
        /// What the person can do about it.
        remedy: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted, to follow "cannot".
        what: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a link, address, route or rule.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was attempted, to follow "cannot".
        what: String,
        /// The kernel's answer.
        #[source]
        source: nlink::Error,
    },
    /// The plan of addresses has no room, or a name is taken or not usable.
    #[error("{0}")]
    Plan(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(nlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }

    pub(crate) fn unavailable(what: &str, remedy: &str) -> impl FnOnce(io::Error) -> Self {
        let (what, remedy) = (what.to_owned(), remedy.to_owned());
        move |source| Self::Unavailable { what, remedy, source }
    }
}

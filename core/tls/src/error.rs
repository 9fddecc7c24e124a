//! What can go wrong with our own certificates, keys and tokens.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use ambit_identity::SpiffeId;

use crate::clock;

/// A failure on our side: a file, a key, the certificate authority. What is wrong with a *peer* is a [`crate::PeerError`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{action} {}: {cause}", path.display())]
    File {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        cause: Arc<std::io::Error>,
    },
    /// A certificate, key or request does not have the form it must have.
    #[error("{what}: {detail}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The authority answered with a certificate for somebody else.
    #[error("the certificate authority issued a certificate for {got}, asked was {expected}")]
    WrongIdentity {
        /// What was asked.
        expected: SpiffeId,
        /// What came, as text because it may not be an identity at all.
        got: String,
    },
    /// A certificate of ours is not valid now.
    #[error("the certificate of {id} (valid from {} to {}) is not valid: {how}", unix(*not_before), unix(*not_after))]
    NotValidNow {
        /// Whose certificate.
        id: SpiffeId,
        /// Start of validity.
        not_before: SystemTime,
        /// End of validity.
        not_after: SystemTime,
        /// How that lies to the clock, in words.
        how: String,
    },
    /// The control plane cannot be reached.
    #[error("connect to {address}: {detail}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why not.
        detail: String,
    },
    /// The certificate authority refused or failed.
    #[error("the certificate authority answered {code}: {message}")]
    Authority {
        /// The gRPC status, for example "Unauthenticated".
        code: String,
        /// The message that came with it.
        message: String,
    },
    /// A service-account token is not acceptable.
    #[error("service account token: {0}")]
    Token(String),
    /// A TLS configuration cannot be built from the material at hand.
    #[error("TLS configuration: {0}")]
    Configuration(String),
    /// The identity is not one that is kept here.
    #[error("{0} is not an identity of this node")]
    NotHeld(SpiffeId),
    /// The store has been shut down.
    #[error("the certificate store is shut down")]
    Shutdown,
}

impl TlsError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self::File { action, path: path.into(), cause: Arc::new(cause) }
    }

    pub(crate) fn not_valid(id: &SpiffeId, (not_before, not_after): (SystemTime, SystemTime), now: SystemTime) -> Self {
        Self::NotValidNow { id: id.clone(), not_before, not_after, how: clock::describe(not_before, not_after, now) }
    }

    pub(crate) fn malformed(what: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Malformed { what, detail: detail.to_string() }
    }
}

impl From<rcgen::Error> for TlsError {
    fn from(error: rcgen::Error) -> Self {
        Self::malformed("certificate", error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Configuration(error.to_string())
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

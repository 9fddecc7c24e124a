//! Why the API server could not be heard, and what is to be done about it.

use std::{io, time::Duration};

use kube::core::Status;

use super::super::chain;

/// Why the server could not be heard.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be asked, or refused it.
    Client(kube::Error),
    /// It ended a watch with this.
    Refused(Box<Status>),
    /// A watch broke, or told what nobody can read.
    Told(io::Error),
    /// It does not answer in this time.
    Late(&'static str, Duration),
    /// A watch has not ended in this time.
    Silent(Duration),
    /// A watch ended as soon as it had begun.
    Short,
    /// What it told cannot be gone on from.
    NoVersion,
    /// What it told is older than what is known.
    Older {
        /// What it told of.
        told: String,
        /// What was known.
        known: String,
    },
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// What the API server said, if it is its answer that is the failure.
    fn refused(&self) -> Option<&Status> {
        match self {
            Self::Client(kube::Error::Api(status)) => Some(status),
            Self::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// Whether it knows no longer what has changed since it was heard last, or what the further pages of a list are.
    pub(super) fn is_expired(&self) -> bool {
        self.refused().is_some_and(|status| status.code == 410)
    }

    /// Whether it has not come as far as it was when it was heard last: another one of several that is behind, or all of them because their
    /// store was restored from an older state.
    pub(super) fn is_behind(&self) -> bool {
        let behind = |status: &Status| {
            let cause = |cause: &kube::core::response::StatusCause| cause.reason == "ResourceVersionTooLarge";
            // Servers that say no cause say it in words.
            status.details.as_ref().is_some_and(|details| details.causes.iter().any(cause))
                || (status.code == 504 && status.message.contains("Too large resource version"))
        };
        matches!(self, Self::Older { .. }) || self.refused().is_some_and(behind)
    }

    /// Whether what was told cannot be read, or gone on from, and would be told again.
    pub(super) fn is_unreadable(&self) -> bool {
        match self {
            Self::NoVersion | Self::Client(kube::Error::SerdeError(_)) => true,
            Self::Told(error) => error.kind() == io::ErrorKind::InvalidData,
            _ => self.refused().is_some_and(|status| status.code == 400),
        }
    }

    /// Whether the server answers, and all that is wrong is that it has to be asked for everything: as is usual after a while away, and
    /// where no bookmarks are told.
    pub(super) fn is_usual(&self) -> bool {
        self.is_expired() || self.is_behind()
    }

    /// What is wrong, and what to do about it where that is known.
    pub(super) fn explained(&self, what: &str) -> String {
        match (self.refused(), self) {
            (Some(status), _) if status.code == 403 => {
                format!("{}; give the agent's service account the verbs list and watch for {what} (ClusterRole)", status.message)
            }
            (Some(status), _) if status.code == 401 => {
                format!("{}; the agent's token or certificate is not accepted", status.message)
            }
            (Some(status), _) => status.message.clone(),
            (None, Self::Refused(status)) => status.message.clone(),
            (None, Self::Client(error)) => chain(error),
            (None, Self::Told(error)) => format!("a watch cannot be read: {}", chain(error)),
            (None, Self::Late(asked, limit)) => format!("{asked} is not answered within {limit:?}"),
            (None, Self::Silent(limit)) => format!("a watch that was to end earlier has not after {limit:?}"),
            (None, Self::Short) => "a watch ends as soon as it has begun".to_owned(),
            (None, Self::NoVersion) => "an answer has no resourceVersion".to_owned(),
            (None, Self::Older { told, known }) => {
                format!("it tells of resourceVersion {told}, which is older than {known} that was known")
            }
        }
    }
}

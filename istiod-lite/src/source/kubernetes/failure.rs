//! What an error of the client means for a list or watch.

use std::time::Duration;

use kube::core::Status;

use crate::source::Kind;

/// What was asked of the API server; the verb that RBAC calls it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Watch,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// Why a list or watch failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The version asked from is too old (HTTP status 410): list again.
    Expired,
    /// The server has no such kind, in the version asked for (404).
    Missing,
    /// The server knows us not (401), or permits it not (403).
    Denied { code: u16, message: String },
    /// The server is busy, and may have said for how long (429, 503, 504).
    Busy { message: String, after: Option<Duration> },
    /// The server could not be reached, or the connection broke.
    Unreachable(String),
    /// The answer makes no sense: list again.
    Broken(String),
}

impl Failure {
    /// From an error of the client.
    pub(super) fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Broken(chain(error)),
            kube::Error::Auth(_) => Self::Denied { code: 401, message: chain(error) },
            _ => Self::Unreachable(chain(error)),
        }
    }

    /// From an error that the server sent, as an answer or as an event.
    pub(super) fn of_status(status: &Status) -> Self {
        let message = status.message.clone();
        let details = status.details.as_ref();
        let after = details.map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
        match (status.code, status.reason.as_str()) {
            (410, _) | (_, "Expired" | "Gone") => Self::Expired,
            (404, _) => Self::Missing,
            (code @ (401 | 403), _) => Self::Denied { code, message },
            (429 | 503 | 504, _) => Self::Busy { message, after: after.map(|seconds| Duration::from_secs(seconds.into())) },
            (code, reason) => Self::Broken(format!("status {code} {reason}: {message}")),
        }
    }

    /// The label of the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::Denied { .. } => "denied",
            Self::Busy { .. } => "busy",
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
        }
    }

    /// The sentence for people, with what helps.
    pub(super) fn text(&self, verb: Verb, kind: Kind) -> String {
        let (verb, plural, group) = (verb.as_str(), kind.plural(), kind.group());
        match self {
            Self::Expired => {
                format!("cannot {verb} {plural}: the server has forgotten the version asked from; they are listed again")
            }
            Self::Missing => format!("cannot {verb} {plural}: the server has no such kind"),
            Self::Denied { code: 401, message } => {
                format!("cannot {verb} {plural}: the API server does not accept our credentials (401): {message}")
            }
            Self::Denied { code, message } => format!(
                "cannot {verb} {plural} ({code}): {message}; give our service account a ClusterRole with the verbs list and watch on \
                 the resource {plural} of the API group {group:?}"
            ),
            Self::Busy { message, .. } => format!("cannot {verb} {plural}: the API server is busy: {message}"),
            Self::Unreachable(message) => format!("the API server cannot be reached: {message}"),
            Self::Broken(message) => format!("cannot {verb} {plural}: {message}"),
        }
    }
}

/// An error with all that caused it, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

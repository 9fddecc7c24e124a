//! What is counted of DNS. No label has a value that a client chooses.

use std::{io, time::Duration};

use ::metrics::{counter, histogram};
use ambit_model::resolve::Family;
use ambit_runtime::telemetry::{label, metric};

use super::message::Transport;

/// What became of a query.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// It was answered by the mesh.
    Answered,
    /// It was answered by a resolver of the node.
    Forwarded,
    /// No resolver answered.
    Failed,
    /// There were too many others.
    Limited,
    /// It could not be read.
    Malformed,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Forwarded => "forwarded",
            Self::Failed => "failed",
            Self::Limited => "limited",
            Self::Malformed => "malformed",
        }
    }
}

pub(super) fn asked(transport: Transport, family: Option<Family>, outcome: Outcome) {
    let kind = match family {
        Some(Family::V4) => "A",
        Some(Family::V6) => "AAAA",
        None => label::OTHER,
    };
    counter!(
        metric::DNS_REQUESTS,
        label::REQUEST_PROTOCOL => transport.label(),
        "request_query_type" => kind,
        "outcome" => outcome.label(),
    )
    .increment(1);
}

pub(super) fn upstream_asked(transport: Transport) {
    counter!(metric::DNS_UPSTREAM_REQUESTS, label::REQUEST_PROTOCOL => transport.label()).increment(1);
}

pub(super) fn upstream_failed(error: &io::Error) {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => "invalid",
        _ => label::OTHER,
    };
    counter!(metric::DNS_UPSTREAM_FAILURES, label::REASON => reason).increment(1);
}

pub(super) fn upstream_answered(after: Duration) {
    histogram!(metric::DNS_UPSTREAM_DURATION).record(after.as_secs_f64());
}

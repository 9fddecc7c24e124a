//! Rate limit servers: who is asked about requests, and what is made of the answer.

use std::{sync::Arc, time::Duration};

use ambit_model::route::HeaderMutations;
use http::StatusCode;
use serde::Serialize;

/// A server that is asked about requests before they are sent on, once nothing else refuses them. What it is asked, routes say.
#[derive(Debug, Clone, Serialize)]
pub struct Limiter {
    /// The filter's name, by which routes say it.
    pub name: Arc<str>,
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// The host asked for.
    pub authority: Arc<str>,
    /// Where it looks for what counts, unless a route says otherwise.
    pub domain: String,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Without an answer requests do not pass.
    pub failure_mode_deny: bool,
    /// What they are answered then.
    #[serde(serialize_with = "super::ext_authz::status")]
    pub status_on_error: StatusCode,
    /// What requests are answered that are too many.
    #[serde(serialize_with = "super::ext_authz::status")]
    pub status: StatusCode,
    /// To gRPC clients it is `RESOURCE_EXHAUSTED`, and not `UNAVAILABLE`.
    pub exhausted: bool,
    /// The answer tells so (`x-envoy-ratelimited`).
    pub tells: bool,
    /// It tells when to come again (`retry-after`).
    pub tells_when: bool,
    /// Headers of it.
    pub refused: HeaderMutations,
}

//! External processors: who is told of requests and responses and may change them, and how.

use std::{sync::Arc, time::Duration};

use ambit_model::route::Route;
use http::StatusCode;
use serde::{Serialize, Serializer};

/// A processor of requests and responses.
#[derive(Debug, Clone, Serialize)]
pub struct ExtProc {
    /// The name of the filter, under which routes say whether it holds for them.
    pub name: Arc<str>,
    /// Whether it does where a route says nothing.
    pub on: bool,
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// The host asked for.
    pub authority: Arc<str>,
    /// How long the answer to a message is waited for.
    pub message_timeout: Duration,
    /// Without one requests go on.
    pub failure_mode_allow: bool,
    /// What requests are answered without one otherwise.
    #[serde(serialize_with = "status")]
    pub status_on_error: StatusCode,
    /// What it is told.
    pub mode: ProcessingMode,
    /// Which headers it may change.
    pub rules: MutationRules,
}

impl ExtProc {
    /// Whether it is told of requests that this route takes.
    #[must_use]
    pub fn holds_for(&self, route: &Route) -> bool {
        route.processing.get(&*self.name).copied().unwrap_or(self.on)
    }
}

/// What a processor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProcessingMode {
    /// Headers of requests.
    pub request_headers: bool,
    /// Headers of responses.
    pub response_headers: bool,
    /// Bodies of requests.
    pub request_body: BodyMode,
    /// Bodies of responses.
    pub response_body: BodyMode,
}

/// What a processor is told of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyMode {
    /// Nothing.
    None,
    /// The whole body at once.
    Buffered,
}

/// Which headers a processor may change (`envoy.config.common.mutation_rules.v3.HeaderMutationRules`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MutationRules {
    /// Headers that begin with `x-envoy`.
    pub allow_envoy: bool,
    /// None that begins with a colon.
    pub disallow_system: bool,
    /// None at all.
    pub disallow_all: bool,
    /// A change that is not allowed ends the request; otherwise it is not made.
    pub disallow_is_error: bool,
}

fn status<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

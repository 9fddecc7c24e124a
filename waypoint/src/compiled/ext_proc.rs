//! External processors: who is told of requests and responses and may change them, and how.

use std::{sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ProcessingMode as Said,
    processing_mode::{BodySendMode, HeaderSendMode},
};
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
    /// Whether it may say of a request what else it is told of it.
    pub allow_mode_override: bool,
    /// What it may say then, whatever is there of headers of requests; anything where nothing is.
    pub allowed_override_modes: Vec<ProcessingMode>,
}

impl ExtProc {
    /// What it is told of a request from now on, as it says itself in an answer to headers; `None` when it may not say that.
    ///
    /// # Errors
    /// With what it asks for and cannot be done.
    pub fn overridden(&self, said: &Said) -> Result<Option<ProcessingMode>, String> {
        if !self.allow_mode_override {
            return Ok(None);
        }
        let mode = self.mode.changed(said)?;
        // Those of requests have been told, or not.
        let same = |other: &ProcessingMode| ProcessingMode { request_headers: mode.request_headers, ..*other } == mode;
        let allowed = &self.allowed_override_modes;
        Ok((allowed.is_empty() || allowed.iter().any(same)).then_some(mode))
    }

    /// Whether it is told of requests that this route takes.
    #[must_use]
    pub fn holds_for(&self, route: &Route) -> bool {
        route.filters().processing.get(&*self.name).copied().unwrap_or(self.on)
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
    /// Trailers of requests.
    pub request_trailers: bool,
    /// Trailers of responses.
    pub response_trailers: bool,
}

impl ProcessingMode {
    /// Where nothing is said.
    pub const DEFAULT: Self = Self {
        request_headers: true,
        response_headers: true,
        request_body: BodyMode::None,
        response_body: BodyMode::None,
        request_trailers: false,
        response_trailers: false,
    };

    /// This one with what is said: of headers and trailers perhaps nothing, of bodies always something.
    ///
    /// # Errors
    /// With what is not implemented.
    pub fn changed(self, said: &Said) -> Result<Self, String> {
        Ok(Self {
            request_headers: sends(self.request_headers, said.request_header_mode, "request_header_mode")?,
            response_headers: sends(self.response_headers, said.response_header_mode, "response_header_mode")?,
            request_body: BodyMode::of(said.request_body_mode, "request_body_mode")?,
            response_body: BodyMode::of(said.response_body_mode, "response_body_mode")?,
            request_trailers: sends(self.request_trailers, said.request_trailer_mode, "request_trailer_mode")?,
            response_trailers: sends(self.response_trailers, said.response_trailer_mode, "response_trailer_mode")?,
        })
    }

    /// Whether nothing is told of responses.
    #[must_use]
    pub fn leaves_responses(&self) -> bool {
        !self.response_headers && self.response_body == BodyMode::None && !self.response_trailers
    }
}

fn sends(otherwise: bool, mode: i32, name: &str) -> Result<bool, String> {
    match HeaderSendMode::try_from(mode) {
        Ok(HeaderSendMode::Default) => Ok(otherwise),
        Ok(HeaderSendMode::Send) => Ok(true),
        Ok(HeaderSendMode::Skip) => Ok(false),
        Err(_) => Err(format!("{name} {mode} is not implemented")),
    }
}

/// What a processor is told of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyMode {
    /// Nothing.
    None,
    /// The whole body at once.
    Buffered,
    /// Each piece as it comes.
    Streamed,
}

impl BodyMode {
    fn of(mode: i32, name: &str) -> Result<Self, String> {
        match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Ok(Self::None),
            Ok(BodySendMode::Buffered) => Ok(Self::Buffered),
            Ok(BodySendMode::Streamed) => Ok(Self::Streamed),
            Ok(other) => Err(format!("{name} {} is not implemented", other.as_str_name())),
            Err(_) => Err(format!("{name} {mode} is not implemented")),
        }
    }
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

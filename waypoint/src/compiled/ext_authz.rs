//! External authorizers: who is asked about which requests, and how.

use std::{sync::Arc, time::Duration};

use ambit_model::route::{Rbac, StringMatch};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, Serializer};

/// An authorizer that is asked before any rule.
#[derive(Debug, Clone, Serialize)]
pub struct ExtAuthz {
    /// The requests that it is asked about; all where there is none.
    pub when: Option<Marked>,
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// How it is asked.
    pub service: AuthorizerService,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Without an answer requests pass.
    pub failure_mode_allow: bool,
    /// What requests are answered without one otherwise.
    #[serde(serialize_with = "status")]
    pub status_on_error: StatusCode,
    /// The headers that it is told; what they are where there is none depends on how it is asked.
    pub allowed_headers: Option<NameTests>,
    /// What it is told of bodies.
    pub body: Option<Buffered>,
}

/// Names of headers.
pub type NameTests = Vec<StringMatch>;

/// How an authorizer is asked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizerService {
    /// By gRPC, as `envoy.service.auth.v3.Authorization`.
    Grpc {
        /// The host asked for.
        authority: Arc<str>,
    },
    /// By an HTTP request.
    Http(Box<HttpService>),
}

/// By an HTTP request that resembles the one that it is about.
#[derive(Debug, Clone, Serialize)]
pub struct HttpService {
    /// Stands before its path.
    pub path_prefix: String,
    /// Headers that are added to it.
    #[serde(skip)]
    pub added: Vec<(HeaderName, HeaderValue)>,
    /// Headers of an answer that allows with which the request goes on.
    pub to_upstream: NameTests,
    /// Headers of an answer that denies which the client gets; all where there are none.
    pub to_client_on_deny: NameTests,
    /// Headers of an answer that allows which the client gets.
    pub to_client_on_allow: NameTests,
}

/// What of a body an authorizer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Buffered {
    /// How much, in bytes.
    pub max_bytes: usize,
    /// Of longer ones the beginning; otherwise they are refused.
    pub partial: bool,
    /// As bytes, and not as text.
    pub as_bytes: bool,
}

/// Requests of which a rule set says this. The rule set is asked for nothing else: it refuses nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Marked {
    /// The rule set.
    pub rules: Rbac,
    /// What of its result is looked at.
    pub of: Mark,
    /// What it is to be.
    pub is: StringMatch,
    /// The outcome is turned around.
    pub invert: bool,
}

/// A part of the result of a rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// `allowed` or `denied`.
    Result,
    /// The name of the rule that matched, if one did.
    Rule,
}

/// A status as its number.
pub fn status<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

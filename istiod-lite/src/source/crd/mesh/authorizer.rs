//! Extension providers that authorize requests, with the fields that the public Istio API reference has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{length, place, status};

/// How long an answer is waited for where a provider does not say. Istio waits ten minutes, and Envoy by itself 200 ms: a request holds one
/// of the places of its waypoint meanwhile, and an authorizer that is busy, or looks something up elsewhere, is to be borne.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The most of a body that an authorizer may be sent, in bytes: as much as a waypoint keeps of one.
const MOST_BODY: u32 = 1 << 20;

/// An external authorizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorizer {
    /// The host name of its service, perhaps with a namespace before it (`namespace/host`).
    pub service: String,
    /// The port of the service.
    pub port: u16,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Without an answer requests pass.
    pub fail_open: bool,
    /// What requests are answered without an answer, in place of 403.
    pub status_on_error: Option<u16>,
    /// What it is told of bodies.
    pub body: Option<CheckedBody>,
    /// It is asked by HTTP requests, as this says; otherwise by gRPC.
    pub http: Option<HttpCheck>,
}

/// What an authorizer is told of the body of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckedBody {
    /// How much, in bytes.
    pub max_request_bytes: u32,
    /// Of longer ones the beginning; otherwise they are refused with 413.
    pub allow_partial_message: bool,
    /// As bytes, and not as text.
    pub pack_as_bytes: bool,
}

/// How an authorizer is asked by an HTTP request. Patterns are names of headers, with `*` at one end for any beginning or end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// Stands before the path of the request.
    pub path_prefix: String,
    /// Headers of the request that it is told, besides those that it always is.
    pub told: Vec<String>,
    /// Headers that are added to what it is told.
    pub added: BTreeMap<String, String>,
    /// Headers of an answer that allows which the request goes on with.
    pub to_upstream: Vec<String>,
    /// Headers of an answer that denies which the client gets; all if there are none.
    pub to_client_on_deny: Vec<String>,
    /// Headers of an answer that allows which the client gets.
    pub to_client_on_allow: Vec<String>,
}

/// The error says what is wrong with which field.
pub fn read(entry: Value) -> Result<Authorizer, String> {
    let Value::Object(mut fields) = entry else { return Err("not a mapping".into()) };
    fields.remove("name");
    let mut fields = fields.into_iter();
    let (Some((kind, settings)), None) = (fields.next(), fields.next()) else {
        return Err("it must be one of envoyExtAuthzGrpc and envoyExtAuthzHttp".into());
    };
    let http = match kind.as_str() {
        "envoyExtAuthzGrpc" => false,
        "envoyExtAuthzHttp" => true,
        other => return Err(format!("{other} is nobody who can be asked; envoyExtAuthzGrpc and envoyExtAuthzHttp are")),
    };
    let settings: Settings = serde_json::from_value(settings).map_err(|error| format!("{kind}: {error}"))?;
    settings.read(http).map_err(|why| format!("{kind}.{why}"))
}

/// The fields of both kinds.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    service: String,
    port: u16,
    timeout: Option<String>,
    fail_open: bool,
    /// A text in the API, which many write as the number that it is.
    status_on_error: Option<Value>,
    clear_route_cache: bool,
    include_request_body_in_check: Option<CheckedBody>,
    path_prefix: Option<String>,
    include_request_headers_in_check: Vec<String>,
    include_additional_headers_in_check: BTreeMap<String, String>,
    headers_to_upstream_on_allow: Vec<String>,
    headers_to_downstream_on_deny: Vec<String>,
    headers_to_downstream_on_allow: Vec<String>,
}

impl Settings {
    /// The error begins with the field.
    fn read(self, http: bool) -> Result<Authorizer, String> {
        place(&self.service, self.port)?;
        if self.clear_route_cache {
            return Err("clearRouteCache: routes are chosen by the request as it came; take it out".into());
        }
        let body = self.include_request_body_in_check;
        if body.as_ref().is_some_and(|body| body.max_request_bytes == 0 || body.max_request_bytes > MOST_BODY) {
            return Err(format!("includeRequestBodyInCheck.maxRequestBytes: not between 1 and {MOST_BODY}"));
        }
        let check = HttpCheck {
            path_prefix: self.path_prefix.unwrap_or_default(),
            told: self.include_request_headers_in_check,
            added: self.include_additional_headers_in_check,
            to_upstream: self.headers_to_upstream_on_allow,
            to_client_on_deny: self.headers_to_downstream_on_deny,
            to_client_on_allow: self.headers_to_downstream_on_allow,
        };
        if !http && check != HttpCheck::default() {
            return Err("pathPrefix and lists of headers: only an authorizer asked by HTTP has them".into());
        }
        if !check.path_prefix.is_empty() && !check.path_prefix.starts_with('/') {
            return Err("pathPrefix: must begin with a slash".into());
        }
        check.names()?;
        Ok(Authorizer {
            service: self.service,
            port: self.port,
            timeout: self.timeout.map_or(Ok(TIMEOUT), |text| length(&text))?,
            fail_open: self.fail_open,
            status_on_error: self.status_on_error.map(|code| status(&code)).transpose()?,
            body,
            http: http.then_some(check),
        })
    }
}

impl HttpCheck {
    /// Whether what is to be names of headers, or patterns of such, are.
    fn names(&self) -> Result<(), String> {
        let is_name = |name: &str| !name.starts_with(':') && name.parse::<http::HeaderName>().is_ok();
        for (field, patterns) in [
            ("includeRequestHeadersInCheck", &self.told),
            ("headersToUpstreamOnAllow", &self.to_upstream),
            ("headersToDownstreamOnDeny", &self.to_client_on_deny),
            ("headersToDownstreamOnAllow", &self.to_client_on_allow),
        ] {
            for pattern in patterns {
                let part = pattern.strip_suffix('*').or(pattern.strip_prefix('*')).unwrap_or(pattern);
                if part.contains('*') || !is_name(part) {
                    return Err(format!("{field}: {pattern:?} is no name of a header, nor one with * at one end"));
                }
            }
        }
        for (name, value) in &self.added {
            if !is_name(name) || value.contains('%') || value.parse::<http::HeaderValue>().is_err() {
                return Err(format!("includeAdditionalHeadersInCheck: {name:?} with {value:?} is no header"));
            }
        }
        Ok(())
    }
}

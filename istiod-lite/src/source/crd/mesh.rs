//! The ConfigMap in which users of Istio have the configuration of their mesh. Of its text only those are read whom waypoints ask about
//! requests, as `extensionProviders` has them: external authorizers, as the public Istio API reference has their fields, and servers of limits
//! and external processors, of which Istio knows nothing, those whom spans of requests are sent to, and those whom access logs are written to; and
//! who may have waypoints tell what becomes of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_api::envoy::pb::envoy::r#type::v3::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::source::is_subdomain;

mod administrators;
mod limiter;
pub(crate) mod log;
mod processor;
mod tracer;

pub use administrators::{Administrator, Administrators};
pub use limiter::Limiter;
pub use log::{AccessLogger, LineFormat};
pub use processor::{BodyMode, HeaderMode, Processor, Told};
pub use tracer::{Speaks, Tracer};

/// The name of the ConfigMap, which is in the root namespace.
pub const NAME: &str = "istio";
/// The key of the text in it.
pub const KEY: &str = "mesh";

/// How long an answer is waited for where a provider does not say. Istio waits ten minutes, and Envoy by itself 200 ms: a request holds one
/// of the places of its waypoint meanwhile, and an authorizer that is busy, or looks something up elsewhere, is to be borne.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that may be said.
const LONGEST: Duration = Duration::from_mins(10);
/// The most of a body that an authorizer may be sent, in bytes: as much as a waypoint keeps of one.
const MOST_BODY: u32 = 1 << 20;

/// What is read of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "ConfigMap")]
pub struct MeshSettings {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// Whom policies may have asked, by name, or why nobody can be.
    pub providers: BTreeMap<String, Result<Authorizer, String>>,
    /// Whom limits may have asked, by name, or why nobody can be.
    pub limiters: BTreeMap<String, Result<Limiter, String>>,
    /// Whom policies may have requests processed by, by name, or why nobody can.
    pub processors: BTreeMap<String, Result<Processor, String>>,
    /// Whom spans may be sent to, by name, or why they cannot.
    pub tracers: BTreeMap<String, Result<Tracer, String>>,
    /// Why nothing of the text can be read.
    pub unreadable: Option<String>,
    /// Who may have waypoints tell what becomes of requests of theirs.
    pub administrators: Administrators,
    /// Whom access logs may be written to, by name, or why they cannot.
    pub loggers: BTreeMap<String, Result<AccessLogger, String>>,
    /// Those of them that are asked for where no other is named.
    pub default_loggers: Vec<String>,
}

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

/// The object as the API server has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMap {
    metadata: ObjectMeta,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default, rename = "binaryData")]
    _binary_data: Option<Value>,
    #[serde(default, rename = "immutable")]
    _immutable: Option<bool>,
}

impl From<ConfigMap> for MeshSettings {
    fn from(ConfigMap { metadata, data, .. }: ConfigMap) -> Self {
        let read = data.get(KEY).map_or_else(|| Ok(Providers::default()), |text| providers(text));
        let (providers, unreadable) = match read {
            Ok(providers) => (providers, None),
            Err(why) => (Providers::default(), Some(why)),
        };
        let Providers { authorizers, limiters, processors, administrators, tracers, loggers, default_loggers } = providers;
        Self {
            metadata,
            providers: authorizers,
            limiters,
            processors,
            tracers,
            unreadable,
            administrators,
            loggers,
            default_loggers,
        }
    }
}

/// Those who are asked, by what; and who may ask.
#[derive(Default)]
struct Providers {
    authorizers: BTreeMap<String, Result<Authorizer, String>>,
    limiters: BTreeMap<String, Result<Limiter, String>>,
    processors: BTreeMap<String, Result<Processor, String>>,
    administrators: Administrators,
    tracers: BTreeMap<String, Result<Tracer, String>>,
    loggers: BTreeMap<String, Result<AccessLogger, String>>,
    default_loggers: Vec<String>,
}

impl Providers {
    fn add(&mut self, name: String, entry: Value) {
        let twice = || "it is given twice".to_owned();
        if let Some(known) = self.authorizers.get_mut(&name) {
            *known = Err(twice());
        } else if let Some(known) = self.limiters.get_mut(&name) {
            *known = Err(twice());
        } else if let Some(known) = self.processors.get_mut(&name) {
            *known = Err(twice());
        } else if let Some(known) = self.tracers.get_mut(&name) {
            *known = Err(twice());
        } else if let Some(known) = self.loggers.get_mut(&name) {
            *known = Err(twice());
        } else if log::is_logger(&entry) {
            self.loggers.insert(name, log::read(entry));
        } else if entry.get(limiter::KIND).is_some() {
            self.limiters.insert(name, limiter::read(entry));
        } else if entry.get(processor::KIND).is_some() {
            self.processors.insert(name, processor::read(entry));
        } else if let Some(kind) = tracer::KINDS.into_iter().find(|kind| entry.get(kind).is_some()) {
            self.tracers.insert(name, tracer::read(kind, entry));
        } else {
            self.authorizers.insert(name, provider(entry));
        }
    }
}

fn providers(text: &str) -> Result<Providers, String> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let mesh: Option<Value> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.without_snippet().to_string();
        format!("not valid YAML: {}", text.lines().next().unwrap_or_default())
    })?;
    let mut mesh = match mesh {
        None | Some(Value::Null) => return Ok(Providers::default()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err("not a mapping".into()),
    };
    let administrators = administrators::read(mesh.remove(administrators::KEY));
    let mut read = Providers { administrators, default_loggers: log::defaults(&mesh), ..Providers::default() };
    let built_in = log::of_mesh(&mesh);
    let entries = match mesh.remove("extensionProviders") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err("extensionProviders: not a list".into()),
    };
    for (index, entry) in entries.into_iter().enumerate() {
        let Some(name) = entry.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Err(format!("extensionProviders[{index}].name: missing, or not a text"));
        };
        read.add(name, entry);
    }
    read.loggers.entry(log::BUILT_IN.to_owned()).or_insert(built_in);
    Ok(read)
}

fn provider(entry: Value) -> Result<Authorizer, String> {
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

/// Whether this can be a service, and a port of it.
fn place(service: &str, port: u16) -> Result<(), String> {
    if service.is_empty() {
        return Err("service: missing".into());
    }
    let host = service.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    if !is_subdomain(&host) {
        return Err(format!("service: {service:?} is no host name, nor one with a namespace before it"));
    }
    if port == 0 {
        return Err("port: missing, or no port".into());
    }
    Ok(())
}

fn length(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
    let length = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let good = length.filter(|length| !length.is_zero() && *length <= LONGEST);
    good.ok_or_else(|| format!("timeout: {text:?} is no length of time up to 600s, as 10s or 0.5s"))
}

fn status(code: &Value) -> Result<u16, String> {
    let number = match code {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        _ => None,
    };
    // What Envoy has a name for, and takes no other.
    let known = number.filter(|number| *number >= 400 && StatusCode::try_from(i32::from(*number)).is_ok());
    known.ok_or_else(|| format!("statusOnError: {code} is no status of an error, as \"503\""))
}

#[cfg(test)]
mod tests;

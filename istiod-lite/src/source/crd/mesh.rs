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
mod authorizer;
mod limiter;
pub(crate) mod log;
mod processor;
mod tracer;

pub use administrators::{Administrator, Administrators};
pub use authorizer::{Authorizer, CheckedBody, HttpCheck};
pub use limiter::Limiter;
pub use log::{AccessLogger, LineFormat};
pub use processor::{BodyMode, HeaderMode, Processor, Told, TrailerMode};
pub use tracer::{Speaks, Tracer};

/// The name of the ConfigMap, which is in the root namespace.
pub const NAME: &str = "istio";
/// The key of the text in it.
pub const KEY: &str = "mesh";

/// The longest time to wait that may be said.
const LONGEST: Duration = Duration::from_mins(10);

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
            self.authorizers.insert(name, authorizer::read(entry));
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

//! Extension providers that access logs are written to, as Istio's API reference has their fields; and the one that is there without being
//! given, `envoy`, which is the file that the mesh's `accessLogFile`, `accessLogFormat` and `accessLogEncoding` say.

use ambit_model::access_log::{ISTIO_TEXT, Json, Text};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::place;

/// What the kind of files is called.
pub const FILE: &str = "envoyFileAccessLog";
/// What the kind of collectors is called.
pub const COLLECTOR: &str = "envoyOtelAls";
/// The name of the provider that is always there.
pub const BUILT_IN: &str = "envoy";
/// What records of a collector are called where nothing is said, as in Istio.
const LOG_NAME: &str = "otel_envoy_accesslog";
/// Where lines go where nothing is said.
const PATH: &str = "/dev/stdout";

/// Whom access logs are written to.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogger {
    /// A file of the proxy.
    File {
        /// Its path.
        path: String,
        /// The lines.
        format: LineFormat,
        /// What is missing is left out.
        omit_empty: bool,
    },
    /// A collector that speaks OTLP.
    Collector {
        /// The host name of its service, perhaps with a namespace before it (`namespace/host`).
        service: String,
        /// The port of the service.
        port: u16,
        /// What its records are called.
        log_name: String,
        /// The body of a record.
        body: String,
        /// The attributes.
        attributes: Map<String, Value>,
    },
}

/// What a line is.
#[derive(Debug, Clone, PartialEq)]
pub enum LineFormat {
    /// A text.
    Text(String),
    /// An object in JSON.
    Json(Map<String, Value>),
}

/// How lines are asked for.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct LogFormat {
    text: Option<String>,
    labels: Option<Map<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct FileSettings {
    path: String,
    log_format: LogFormat,
    omit_empty_values: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct CollectorSettings {
    service: String,
    port: u16,
    log_name: String,
    log_format: LogFormat,
}

/// Whether this is a provider of such a kind.
pub fn is_logger(entry: &Value) -> bool {
    [FILE, COLLECTOR].iter().any(|kind| entry.get(kind).is_some())
}

/// A provider of one of these kinds.
pub fn read(mut entry: Value) -> Result<AccessLogger, String> {
    let fields = entry.as_object_mut().ok_or("not a mapping")?;
    let kind = if fields.contains_key(FILE) { FILE } else { COLLECTOR };
    let settings = fields.remove(kind).unwrap_or_default();
    if let Some(other) = fields.keys().find(|field| *field != "name") {
        return Err(format!("{other}: {kind} is the only kind that it may have"));
    }
    let unread = |error: serde_json::Error| format!("{kind}: {error}");
    let read = match kind {
        FILE => serde_json::from_value::<FileSettings>(settings).map_err(unread)?.read(),
        _ => serde_json::from_value::<CollectorSettings>(settings).map_err(unread)?.read(),
    };
    read.map_err(|why| format!("{kind}.{why}"))
}

impl FileSettings {
    /// The error begins with the field.
    fn read(self) -> Result<AccessLogger, String> {
        let format = match (self.log_format.text, self.log_format.labels) {
            (Some(_), Some(_)) => return Err("logFormat: it may be text or labels, and not both".into()),
            (None, Some(labels)) => LineFormat::Json(labels),
            (text, None) => LineFormat::Text(ended(text.filter(|text| !text.is_empty()))),
        };
        file(self.path, format, self.omit_empty_values, ["logFormat.text", "logFormat.labels"])
    }
}

/// A file with a format that proxies take; the fields are those that have been read.
fn file(path: String, format: LineFormat, omit_empty: bool, [text, labels]: [&str; 2]) -> Result<AccessLogger, String> {
    if !path.starts_with('/') {
        return Err(format!("path: {path:?} does not begin with a slash"));
    }
    match &format {
        LineFormat::Text(line) => drop(Text::parse(line, omit_empty).map_err(|why| format!("{text}: {why}"))?),
        LineFormat::Json(object) => drop(Json::parse(object, omit_empty).map_err(|why| format!("{labels}: {why}"))?),
    }
    Ok(AccessLogger::File { path, format, omit_empty })
}

impl CollectorSettings {
    /// The error begins with the field.
    fn read(self) -> Result<AccessLogger, String> {
        place(&self.service, self.port)?;
        let body = self.log_format.text.filter(|text| !text.is_empty()).unwrap_or_else(|| ISTIO_TEXT.to_owned());
        Text::parse(&body, false).map_err(|why| format!("logFormat.text: {why}"))?;
        let attributes = self.log_format.labels.unwrap_or_default();
        for (name, value) in &attributes {
            let Value::String(text) = value else { return Err(format!("logFormat.labels: {name}: not a text")) };
            Text::parse(text, false).map_err(|why| format!("logFormat.labels: {name}: {why}"))?;
        }
        let log_name = if self.log_name.is_empty() { LOG_NAME.to_owned() } else { self.log_name };
        Ok(AccessLogger::Collector { service: self.service, port: self.port, log_name, body, attributes })
    }
}

/// A text that ends its line.
fn ended(text: Option<String>) -> String {
    match text {
        None => ISTIO_TEXT.to_owned(),
        Some(text) if text.ends_with('\n') => text,
        Some(text) => text + "\n",
    }
}

/// The provider that is always there, where nothing is said of it.
#[must_use]
pub fn built_in() -> AccessLogger {
    AccessLogger::File { path: PATH.to_owned(), format: LineFormat::Text(ISTIO_TEXT.to_owned()), omit_empty: false }
}

/// The same as the mesh has it.
pub fn of_mesh(mesh: &Map<String, Value>) -> Result<AccessLogger, String> {
    let text = |field: &str| match mesh.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("{field}: not a text")),
    };
    let path = text("accessLogFile")?.unwrap_or_else(|| PATH.to_owned());
    let written = text("accessLogFormat")?;
    let format = match text("accessLogEncoding")?.as_deref() {
        None | Some("TEXT") => LineFormat::Text(ended(written)),
        Some("JSON") => LineFormat::Json(match written {
            Some(written) => serde_json::from_str(&written).map_err(|error| format!("accessLogFormat: {error}"))?,
            None => {
                ambit_model::access_log::ISTIO_JSON.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
            }
        }),
        Some(other) => return Err(format!("accessLogEncoding: {other:?} is neither TEXT nor JSON")),
    };
    file(path, format, false, ["accessLogFormat"; 2])
}

/// The providers of logs that are asked for where a Telemetry names none.
pub fn defaults(mesh: &Map<String, Value>) -> Vec<String> {
    let named = mesh.get("defaultProviders").and_then(|defaults| defaults.get("accessLogging")).and_then(Value::as_array);
    let named: Vec<String> = named.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    if named.is_empty() { vec![BUILT_IN.to_owned()] } else { named }
}

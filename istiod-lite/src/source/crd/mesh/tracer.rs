//! Extension providers that spans are sent to: `opentelemetry` and `zipkin`, as the public Istio API reference has their fields.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{length, place};

/// What the kinds are called.
pub const KINDS: [&str; 2] = ["opentelemetry", "zipkin"];
/// How long an answer is waited for where a provider does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where Zipkin takes spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";

/// Who collects spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracer {
    /// The host name of its service, perhaps with a namespace before it (`namespace/host`).
    pub service: String,
    /// The port of the service.
    pub port: u16,
    /// The most that it is told of a path.
    pub max_tag_length: Option<u32>,
    /// What it understands.
    pub speaks: Speaks,
}

/// What a collector understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaks {
    /// OTLP by gRPC.
    OtlpGrpc {
        /// How long an answer is waited for.
        timeout: Duration,
    },
    /// OTLP by HTTP.
    OtlpHttp {
        /// Where it takes spans.
        path: String,
        /// How long an answer is waited for.
        timeout: Duration,
    },
    /// Zipkin's JSON; requests name their place in a trace by B3's headers.
    Zipkin {
        /// Where it takes spans.
        path: String,
        /// And by W3C's.
        w3c: bool,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct OpenTelemetry {
    service: String,
    port: u16,
    max_tag_length: Option<u32>,
    http: Option<Http>,
    grpc: Option<Grpc>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    path: String,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Zipkin {
    service: String,
    port: u16,
    max_tag_length: Option<u32>,
    path: Option<String>,
    trace_context_option: Option<String>,
    #[serde(rename = "enable64bitTraceId")]
    short_ids: bool,
}

/// What an entry of one of these kinds says.
///
/// # Errors
/// Why no spans can be sent there, beginning with the field.
pub fn read(kind: &str, mut entry: Value) -> Result<Tracer, String> {
    let settings = match entry.as_object_mut() {
        Some(fields) if fields.len() == 2 => fields.remove(kind).unwrap_or_default(),
        _ => return Err(format!("it must be {kind} and nothing besides")),
    };
    let parsed = |error: serde_json::Error| format!("{kind}: {error}");
    let read = match kind {
        "zipkin" => serde_json::from_value::<Zipkin>(settings).map_err(parsed)?.read(),
        _ => serde_json::from_value::<OpenTelemetry>(settings).map_err(parsed)?.read(),
    };
    read.map_err(|why| format!("{kind}.{why}"))
}

impl OpenTelemetry {
    fn read(self) -> Result<Tracer, String> {
        place(&self.service, self.port)?;
        let wait = |timeout: Option<String>| timeout.map_or(Ok(TIMEOUT), |text| length(&text));
        let speaks = match (self.http, self.grpc) {
            (Some(_), Some(_)) => return Err("grpc: only one of http and grpc may be given".into()),
            (Some(http), None) => {
                let timeout = wait(http.timeout).map_err(|why| format!("http.{why}"))?;
                Speaks::OtlpHttp { path: path(http.path).map_err(|why| format!("http.{why}"))?, timeout }
            }
            (None, grpc) => {
                let timeout = wait(grpc.and_then(|grpc| grpc.timeout)).map_err(|why| format!("grpc.{why}"))?;
                Speaks::OtlpGrpc { timeout }
            }
        };
        Ok(Tracer { service: self.service, port: self.port, max_tag_length: self.max_tag_length, speaks })
    }
}

impl Zipkin {
    fn read(self) -> Result<Tracer, String> {
        place(&self.service, self.port)?;
        if self.short_ids {
            return Err("enable64bitTraceId: traces that begin here have ids of 128 bits; take it out".into());
        }
        let w3c = match self.trace_context_option.as_deref() {
            None | Some("USE_B3") => false,
            Some("USE_B3_WITH_W3C_PROPAGATION") => true,
            Some(other) => return Err(format!("traceContextOption: {other:?} is none; USE_B3 is one")),
        };
        let speaks = Speaks::Zipkin { path: path(self.path.unwrap_or_else(|| ZIPKIN_PATH.to_owned()))?, w3c };
        Ok(Tracer { service: self.service, port: self.port, max_tag_length: self.max_tag_length, speaks })
    }
}

fn path(text: String) -> Result<String, String> {
    match text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok() {
        true => Ok(text),
        false => Err(format!("path: {text:?} is no path that begins with a slash")),
    }
}

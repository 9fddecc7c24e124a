//! Extension providers that process requests and responses. Istio has none of these: the kind is Ambit's own, and its fields are called as
//! those of Istio's authorizers and of Envoy's filter.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{length, place};

/// What the kind is called.
pub const KIND: &str = "envoyExtProcGrpc";
/// How long an answer is waited for where a provider does not say: as long as Envoy does.
const TIMEOUT: Duration = Duration::from_millis(200);

/// An external processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// The host name of its service, perhaps with a namespace before it (`namespace/host`).
    pub service: String,
    /// The port of the service.
    pub port: u16,
    /// How long the answer to each message is waited for.
    pub timeout: Duration,
    /// Without an answer requests go on.
    pub fail_open: bool,
    /// What it is told.
    pub told: Told,
    /// Whether it may say of a request, in an answer to headers, what else it is told of it.
    pub allow_mode_override: bool,
}

/// What a processor is told, as the filter has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Told {
    /// Headers of requests.
    pub request_header_mode: HeaderMode,
    /// Headers of responses.
    pub response_header_mode: HeaderMode,
    /// Bodies of requests.
    pub request_body_mode: BodyMode,
    /// Bodies of responses.
    pub response_body_mode: BodyMode,
    /// Trailers of requests.
    pub request_trailer_mode: TrailerMode,
    /// Trailers of responses.
    pub response_trailer_mode: TrailerMode,
}

/// Whether a processor is told of headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HeaderMode {
    /// It is.
    #[default]
    Send,
    /// It is not.
    Skip,
}

/// Whether a processor is told of trailers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrailerMode {
    /// It is not.
    #[default]
    Skip,
    /// It is.
    Send,
}

/// What a processor is told of bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BodyMode {
    /// Nothing.
    #[default]
    None,
    /// All of it at once, up to 1 MiB; longer ones are refused.
    Buffered,
    /// Each piece as it comes, however long it is.
    Streamed,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    service: String,
    port: u16,
    timeout: Option<String>,
    fail_open: bool,
    processing_mode: Told,
    allow_mode_override: bool,
}

/// What an entry of this kind says.
///
/// # Errors
/// Why nobody can process anything, beginning with the field.
pub fn read(mut entry: Value) -> Result<Processor, String> {
    let settings = match entry.as_object_mut() {
        Some(fields) if fields.len() == 2 => fields.remove(KIND).unwrap_or_default(),
        _ => return Err(format!("it must be {KIND} and nothing besides")),
    };
    let settings: Settings = serde_json::from_value(settings).map_err(|error| format!("{KIND}: {error}"))?;
    settings.read().map_err(|why| format!("{KIND}.{why}"))
}

impl Settings {
    fn read(self) -> Result<Processor, String> {
        place(&self.service, self.port)?;
        if self.processing_mode == NOTHING {
            return Err("processingMode: it is told nothing".into());
        }
        let Told { request_header_mode, response_header_mode, .. } = self.processing_mode;
        if self.allow_mode_override && (request_header_mode, response_header_mode) == (HeaderMode::Skip, HeaderMode::Skip) {
            return Err("allowModeOverride: it says so in answers to headers, of which it is told none".into());
        }
        Ok(Processor {
            service: self.service,
            port: self.port,
            timeout: self.timeout.map_or(Ok(TIMEOUT), |text| length(&text))?,
            fail_open: self.fail_open,
            told: self.processing_mode,
            allow_mode_override: self.allow_mode_override,
        })
    }
}

const NOTHING: Told = Told {
    request_header_mode: HeaderMode::Skip,
    response_header_mode: HeaderMode::Skip,
    request_body_mode: BodyMode::None,
    response_body_mode: BodyMode::None,
    request_trailer_mode: TrailerMode::Skip,
    response_trailer_mode: TrailerMode::Skip,
};

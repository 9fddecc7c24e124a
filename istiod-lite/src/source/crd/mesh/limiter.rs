//! Servers that are asked about limits, an extension provider of our own: Istio has none.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{length, place, status};

/// What the provider is called in the list.
pub const KIND: &str = "ambitRateLimitGrpc";
/// How long an answer is waited for where a provider does not say, as in Envoy: it is on the way of every request.
const TIMEOUT: Duration = Duration::from_millis(20);

/// A server that speaks `envoy.service.ratelimit.v3.RateLimitService`.
#[derive(Debug, Clone, PartialEq)]
pub struct Limiter {
    /// The host name of its service, perhaps with a namespace before it (`namespace/host`).
    pub service: String,
    /// The port of the service.
    pub port: u16,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Without an answer requests pass. They do where nothing is said: a limit authorizes nobody, and a server of limits that is away should not
    /// take with it all that it was to keep from being overloaded.
    pub fail_open: bool,
    /// What requests are answered without an answer where they do not pass, in place of 500.
    pub status_on_error: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    service: String,
    #[serde(default)]
    port: u16,
    timeout: Option<String>,
    fail_open: Option<bool>,
    status_on_error: Option<Value>,
}

/// A provider of this kind.
pub fn read(mut entry: Value) -> Result<Limiter, String> {
    let fields = entry.as_object_mut().ok_or("not a mapping")?;
    let settings = fields.remove(KIND).unwrap_or_default();
    if let Some(other) = fields.keys().find(|field| *field != "name") {
        return Err(format!("{other}: {KIND} is the only kind that it may have"));
    }
    let settings: Settings = serde_json::from_value(settings).map_err(|error| format!("{KIND}: {error}"))?;
    settings.read().map_err(|why| format!("{KIND}.{why}"))
}

impl Settings {
    /// The error begins with the field.
    fn read(self) -> Result<Limiter, String> {
        place(&self.service, self.port)?;
        let fail_open = self.fail_open.unwrap_or(true);
        if fail_open && self.status_on_error.is_some() {
            return Err("statusOnError: goes with failOpen: false, as requests pass otherwise".into());
        }
        Ok(Limiter {
            service: self.service,
            port: self.port,
            timeout: self.timeout.map_or(Ok(TIMEOUT), |text| length(&text))?,
            fail_open,
            status_on_error: self.status_on_error.map(|code| status(&code)).transpose()?,
        })
    }
}

//! The `telemetry.istio.io` custom resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, ExtensionProvider, PolicyStatus, PolicyTargetReference, WorkloadSelector};

mod metrics;
mod tracing;

pub use self::metrics::MetricOverride;
pub use self::tracing::{CustomTag, Tracing};

/// What proxies are to record. Waypoints heed what is said of spans ([`TelemetrySpec::spans`]), of access logs and of metrics
/// ([`TelemetrySpec::measured`]).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Telemetry {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: TelemetrySpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
}

/// The wish of a [`Telemetry`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TelemetrySpec {
    /// The pods it holds for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The resources whose waypoint it is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The one resource, in the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Spans.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracing: Vec<Value>,
    /// Metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Value>,
    /// Lines of the access log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_logging: Vec<AccessLogging>,
}

impl TelemetrySpec {
    /// What it holds for.
    #[must_use]
    pub fn attachment(&self) -> Attachment<'_> {
        Attachment { selector: self.selector.as_ref(), several: &self.target_refs, one: self.target_ref.as_ref() }
    }
}

/// One wish for an access log.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessLogging {
    /// Whom it is written to; the mesh's own default when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ExtensionProvider>,
    /// It is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Of what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LogFilter>,
    /// On which side of a connection.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub side: Option<LogSide>,
}

/// What is logged.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct LogFilter {
    /// A condition in CEL.
    pub expression: String,
}

/// The side of a connection.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct LogSide {
    /// `CLIENT`, `SERVER` or `CLIENT_AND_SERVER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Requests with such a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyStatus {
    /// This one.
    Is(u32),
    /// This or a greater one.
    AtLeast(u32),
    /// This or a lesser one.
    AtMost(u32),
}

impl AccessLogging {
    /// Whether it is for the proxies of clients alone; a waypoint is the server's.
    #[must_use]
    pub fn is_of_clients(&self) -> bool {
        self.side.as_ref().and_then(|side| side.mode.as_deref()) == Some("CLIENT")
    }

    /// Of which requests.
    ///
    /// # Errors
    /// When the condition is none that proxies know without CEL.
    pub fn only(&self) -> Result<Option<OnlyStatus>, String> {
        let Some(filter) = &self.filter else { return Ok(None) };
        let text = filter.expression.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let read = || {
            let rest = text.strip_prefix("response.code")?.trim_start();
            let number = |rest: &str| rest.trim().parse::<u32>().ok().filter(|number| *number < 1000);
            if let Some(rest) = rest.strip_prefix(">=") {
                return number(rest).map(OnlyStatus::AtLeast);
            }
            if let Some(rest) = rest.strip_prefix("<=") {
                return number(rest).map(OnlyStatus::AtMost);
            }
            if let Some(rest) = rest.strip_prefix("==") {
                return number(rest).map(OnlyStatus::Is);
            }
            if let Some(rest) = rest.strip_prefix('>') {
                return number(rest).map(|number| OnlyStatus::AtLeast(number + 1));
            }
            number(rest.strip_prefix('<')?)?.checked_sub(1).map(OnlyStatus::AtMost)
        };
        let why = || format!("{text:?} is not carried out; conditions on the status are, as response.code >= 400");
        read().map(Some).ok_or_else(why)
    }
}

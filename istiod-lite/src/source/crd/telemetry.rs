//! The `telemetry.istio.io` custom resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, PolicyStatus, PolicyTargetReference, WorkloadSelector};

mod tracing;

pub use self::tracing::{CustomTag, Tracing};

/// What proxies are to record. Waypoints heed what is said of spans ([`TelemetrySpec::spans`]); of the other parts only their number is read.
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
    pub access_logging: Vec<Value>,
}

impl TelemetrySpec {
    /// What it holds for.
    #[must_use]
    pub fn attachment(&self) -> Attachment<'_> {
        Attachment { selector: self.selector.as_ref(), several: &self.target_refs, one: self.target_ref.as_ref() }
    }
}

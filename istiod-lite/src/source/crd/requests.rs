//! The `ambit.dev` custom resource for what is done with requests on their way.

use std::fmt;
use std::time::Duration;

use gateway_api::Duration as Gep2257;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Faults that are put in the way of requests, limits of how often they may come, how large they may be and how long they may last, who
/// processes them, whether writes are retried, and what they may be upgraded to; carried out by waypoints.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct RequestPolicy {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: RequestPolicySpec,
    /// What was made of it, which several controllers may say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// The wish of a [`RequestPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestPolicySpec {
    /// The routes and Services of its namespace that it holds for.
    pub target_refs: Vec<RequestTarget>,
    /// What is put in the way of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How often they may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Who processes them and their responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_processing: Option<ExternalProcessing>,
    /// How large they may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<SizeLimits>,
    /// How long they may be silent and last, with their responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<StreamTimeouts>,
    /// What is sent again of what their route retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<RequestRetries>,
    /// What HTTP/1.1 may be upgraded to besides WebSocket, in any case: names of protocols, with or without a version (RFC 9110, section 7.8).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<String>,
}

/// What is sent again of what a route retries. How often, after what and with which waits the route says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RequestRetries {
    /// When requests are that may not arrive twice: those of POST, PATCH and methods of one's own (RFC 9110, section 9.2.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<RetriedWrites>,
}

/// When writes are sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum RetriedWrites {
    /// Only while no endpoint has seen anything of them.
    #[default]
    Unseen,
    /// As all other requests are.
    Allowed,
}

/// How large requests may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SizeLimits {
    /// The longest body, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u32>,
    /// The most that a head may take, in bytes: names and values, and 32 for each field. Only for Ambit's own waypoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_header_bytes: Option<u32>,
}

/// How long a stream may be silent and last: a request with its response, or what is carried after an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct StreamTimeouts {
    /// It ends when no byte has passed in either direction for so long (GEP-2257).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// It ends so long after it began, also in the middle of its response (GEP-2257).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// Who processes requests and their responses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ExternalProcessing {
    /// The extension provider of this name (`envoyExtProcGrpc`).
    pub provider: String,
}

/// What a [`RequestPolicy`] holds for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestTarget {
    /// API group, empty for core.
    pub group: String,
    /// Kind: `HTTPRoute`, `GRPCRoute` or `Service`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The rule of a route with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// What is put in the way of requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Fault {
    /// They wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// They are answered without the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Only those with these headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FaultHeader>,
}

/// How long a share of requests waits.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct FaultDelay {
    /// The time (GEP-2257).
    pub fixed: String,
    /// Of 100 so many; all when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

/// What a share of requests is answered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct FaultAbort {
    /// The status; gRPC clients are given the one that goes with it.
    pub status: i32,
    /// Of 100 so many; all when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
}

/// A header that a request must have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct FaultHeader {
    /// Its name.
    pub name: String,
    /// How the value is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<FaultHeaderType>,
    /// The value.
    pub value: String,
}

/// How the value of a header is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum FaultHeaderType {
    /// It is the same.
    #[default]
    Exact,
    /// The expression takes it whole.
    RegularExpression,
}

/// How often requests may come.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RateLimit {
    /// Counted by each replica of the waypoint for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalRateLimit>,
    /// Counted by a server that all waypoints ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalRateLimit>,
}

/// How often requests may come to one replica of a waypoint, for one port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct LocalRateLimit {
    /// So many …
    pub requests: u32,
    /// … in this time: `second`, `minute`, `hour`, or whole seconds (GEP-2257).
    pub per: String,
    /// So many at once after a pause; as many as `requests` when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Who is counted for himself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<LimitBy>,
    /// The header for `Header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// Who is counted for himself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum LimitBy {
    /// All together.
    #[default]
    Total,
    /// Each client, by its SPIFFE id.
    Identity,
    /// Each value of a header.
    Header,
}

/// How often requests may come to a mesh, as a rate limit server counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GlobalRateLimit {
    /// The extension provider that is asked.
    pub provider: String,
    /// Where the server looks for what counts.
    pub domain: String,
    /// Each is counted for itself.
    pub descriptors: Vec<LimitDescriptor>,
}

/// What requests are counted by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitDescriptor {
    /// Its keys and values in order, all of which a request must have that is counted by it.
    pub entries: Vec<LimitEntry>,
}

/// A key with a value of each request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct LimitEntry {
    /// Where the value is from.
    pub from: LimitSource,
    /// The key, where it is not that of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The header for `Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value for `Value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Requests without it are counted by the other entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Where the value of a [`LimitEntry`] is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum LimitSource {
    /// The client's SPIFFE id.
    Identity,
    /// A header.
    Header,
    /// It is said in the policy.
    Value,
    /// The client's address.
    RemoteAddress,
    /// The policy itself, as `namespace/name`.
    Policy,
}

impl LimitEntry {
    /// The key that is sent.
    #[must_use]
    pub fn key(&self) -> String {
        let of_source = || match self.from {
            LimitSource::Identity => "identity".to_owned(),
            LimitSource::Header => self.header.as_deref().unwrap_or_default().to_ascii_lowercase(),
            LimitSource::Value => "generic_key".to_owned(),
            LimitSource::RemoteAddress => "remote_address".to_owned(),
            LimitSource::Policy => "policy".to_owned(),
        };
        self.key.clone().unwrap_or_else(of_source)
    }
}

impl LocalRateLimit {
    /// The time in which so many requests may come; an error says what it may be.
    pub fn interval(&self) -> Result<Duration, String> {
        let seconds = match self.per.as_str() {
            "second" => 1,
            "minute" => 60,
            "hour" => 3600,
            other => {
                let parsed = other.parse::<Gep2257>().ok().map(|time| (time.as_secs(), time.subsec_nanos()));
                match parsed {
                    Some((seconds @ 1..=86_400, 0)) => seconds,
                    _ => return Err(format!("{other:?} is not second, minute, hour, or a time of 1s to 24h in whole seconds")),
                }
            }
        };
        Ok(Duration::from_secs(seconds))
    }
}

impl RequestTarget {
    /// Whether it is this object, and this rule of it if it is one of a route.
    #[must_use]
    pub fn is(&self, kind: &str, name: &str, section: Option<&str>) -> bool {
        self.kind == kind && self.name == name && self.section_name.as_deref() == section
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        match &self.section_name {
            Some(section) => write!(f, " ({section})"),
            None => Ok(()),
        }
    }
}

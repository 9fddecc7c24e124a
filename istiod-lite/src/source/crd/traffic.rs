//! The `ambit.dev` custom resource that says what is asked of a waypoint where it sends on to a Service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hash::HashOn;
use super::health::HealthCheck;

/// Which endpoints are left alone for a while, how much there may be at once, and how it is spread, of what waypoints send to Services.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct TrafficPolicy {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    pub spec: TrafficPolicySpec,
    /// What was made of it, a PolicyStatus of the Gateway API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// The wish of a [`TrafficPolicy`]. What is not given stays as it is without one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The Services of its namespace that it holds for, or single ports of them.
    pub target_refs: Vec<ServicePortReference>,
    /// How long a connection to an endpoint may take to stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// How much there may be at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How requests and connections are spread over endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Which endpoints are left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How many of the requests under way may be retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// How many requests are let in at once, by how long they take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// Which endpoints are given nothing because they say, when they are asked, that they are not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

impl TrafficPolicySpec {
    /// Whether endpoints that fail are found, so that others can take over.
    #[must_use]
    pub fn finds_failures(&self) -> bool {
        self.outlier_detection.is_some() || self.health_check.is_some()
    }
}

/// How many requests are let in at once, of one waypoint, to one port of a Service: more as long as they take hardly longer than when there are few.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Admission {
    /// Never fewer, and so many while it is measured what they take; 3 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_concurrency: Option<u32>,
    /// Never more; 1000 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// What requests take when there are few; measured when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normal_latency: Option<String>,
    /// What others are answered with: 503, or 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_on_reject: Option<u16>,
}

/// A Service, or a port of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortReference {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// Kind: `Service`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The name of a port; all of them when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// How much there may be at once, of one waypoint, to one port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Limits {
    /// Connections to all endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_requests: Option<u32>,
    /// Requests that are with endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Retries, in place of the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// How requests and connections are spread over endpoints.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancing {
    /// By what the next endpoint is chosen.
    pub policy: LoadBalancingPolicy,
    /// Endpoints that are new, or well again, are given their share by and by; at once when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// What requests are hashed by, all of it together, where hashes lead to endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hash_on: Vec<HashOn>,
    /// Which endpoints are asked before others by where they run; as the Service says it when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityBalancing>,
}

/// Which endpoints are asked before others by where they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityBalancing {
    /// Those of the waypoint's own place first; others take over as far as these fail, the nearest first.
    pub failover: bool,
}

/// How the share of an endpoint grows that is new, or well again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SlowStart {
    /// How long it takes until it is whole; 30 s when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// 1, which is the default, for evenly; more for faster at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggression: Option<f64>,
    /// The least that it is from the first moment on, of a hundred; 10 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_weight_percent: Option<u32>,
}

/// By what the next endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum LoadBalancingPolicy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// By chance.
    Random,
    /// Of two, the one with fewer requests under way.
    LeastRequest,
    /// By the hash of the request, on a ring.
    RingHash,
    /// By the hash of the request, in a table.
    Maglev,
    /// Of two, the one that answers sooner, by what is under way there.
    PeakEwma,
}

impl LoadBalancingPolicy {
    /// Whether hashes of requests decide.
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// Which endpoints are left alone for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Errors in a row, statuses 5xx and connections that fail; 5 when not given, 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<u32>,
    /// The same, of the statuses 502, 503 and 504 and connections that fail alone; never when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// How often it is seen to it who returns, and how the rates of success are; 10 s when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long an endpoint is left alone, times how often it was; 30 s when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<String>,
    /// How many of all endpoints at most; 50 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<u32>,
    /// Also those that succeed more seldom than the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Also those of which too many requests fail, however the others do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
}

/// Which endpoints fail too often, however the others do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FailurePercentage {
    /// Failures in a hundred requests that are too many; 85 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
    /// Endpoints that must have had enough requests; 5 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_hosts: Option<u32>,
    /// How many requests in an interval are enough; 50 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_volume: Option<u32>,
}

/// Which endpoints succeed more seldom than the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SuccessRate {
    /// Endpoints that must have had enough requests; 5 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_hosts: Option<u32>,
    /// How many requests in an interval are enough; 100 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_volume: Option<u32>,
    /// By how many thousandths of a standard deviation below the mean; 1900 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdev_factor: Option<u32>,
}

/// How many of the requests under way may be retries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of a hundred; 20 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// As many there may be in any case; 3 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_concurrent: Option<u32>,
}

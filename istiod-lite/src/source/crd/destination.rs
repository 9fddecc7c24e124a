//! The `networking.istio.io` custom resource that says how to send on to a host, as far as a waypoint carries it out. Of the rest, known
//! by name to be refused by it, only that it is there is read.

mod balancer;
mod locality;
mod pool;
mod subset;

use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration;
pub use balancer::{LoadBalancer, Simple, Warmup};
pub use locality::{Distribution, LocalitySetting, Part, RegionFailover, is_pattern, priority_label};
pub use pool::{ConnectionPool, HttpPool, TcpPool};
pub use subset::Subset;

/// The shortest time that Istio takes, and more than anybody means.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(365 * 24);

/// How to send on to a host.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct DestinationRule {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: DestinationRuleSpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// The wish of a [`DestinationRule`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// A Service of its namespace, or the whole host name of one, or of a ServiceEntry there.
    pub host: String,
    /// What is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<RulePolicy>,
    /// Parts of the host's endpoints, to which VirtualServices lead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// Namespaces that see it: all but `*` and `.` not carried out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Clients it is for: not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<Value>,
}

/// What is asked of all ports, and of single ones.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RulePolicy {
    /// How endpoints are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How much there may be at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Which endpoints are left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<RuleOutliers>,
    /// TLS to endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RuleTls>,
    /// The same of single ports, for which nothing of the above holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_level_settings: Vec<PortSettings>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Value>,
    /// Not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<Value>,
    /// How many of the requests under way may be retries, on every port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RuleBudget>,
}

/// What is asked of a port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSettings {
    /// Which.
    pub port: PortSelector,
    /// How endpoints are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How much there may be at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Which endpoints are left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<RuleOutliers>,
    /// TLS to endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RuleTls>,
}

/// A port by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PortSelector {
    /// The number.
    pub number: i64,
}

/// What of a rule holds for one port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// How endpoints are chosen.
    pub load_balancer: Option<&'a LoadBalancer>,
    /// How much there may be at once.
    pub connection_pool: Option<&'a ConnectionPool>,
    /// Which endpoints are left alone for a while.
    pub outlier_detection: Option<&'a RuleOutliers>,
    /// TLS to endpoints.
    pub tls: Option<&'a RuleTls>,
    /// How many of the requests under way may be retries.
    pub retry_budget: Option<&'a RuleBudget>,
}

impl RulePolicy {
    /// What is asked of a port: what is said of it alone, or else of all.
    #[must_use]
    pub fn for_port(&self, number: u16) -> Settings<'_> {
        match self.port_level_settings.iter().find(|settings| settings.port.number == i64::from(number)) {
            Some(settings) => Settings { retry_budget: self.retry_budget.as_ref(), ..settings.settings() },
            None => self.settings(),
        }
    }

    /// What is asked of the ports of which nothing is said alone.
    #[must_use]
    pub fn settings(&self) -> Settings<'_> {
        Settings {
            load_balancer: self.load_balancer.as_ref(),
            connection_pool: self.connection_pool.as_ref(),
            outlier_detection: self.outlier_detection.as_ref(),
            tls: self.tls.as_ref(),
            retry_budget: self.retry_budget.as_ref(),
        }
    }
}

impl PortSettings {
    /// What is asked of this port.
    #[must_use]
    pub fn settings(&self) -> Settings<'_> {
        Settings {
            load_balancer: self.load_balancer.as_ref(),
            connection_pool: self.connection_pool.as_ref(),
            outlier_detection: self.outlier_detection.as_ref(),
            tls: self.tls.as_ref(),
            retry_budget: None,
        }
    }
}

/// Which endpoints are left alone for a while.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleOutliers {
    /// Errors in a row; 5 when not given, 0 for never.
    #[serde(rename = "consecutive5xxErrors", skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx_errors: Option<i64>,
    /// Statuses 502, 503 and 504 in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<i64>,
    /// Whether failures on the way to an endpoint are counted by themselves.
    pub split_external_local_origin_errors: bool,
    /// Such failures in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_local_origin_failures: Option<i64>,
    /// How often it is seen to it who returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long an endpoint is left alone, times how often it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<String>,
    /// How many of all endpoints at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<i64>,
    /// Of how many in a hundred that are left no more is made of who is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_health_percent: Option<i64>,
    /// The older form of the first: not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<Value>,
}

/// TLS to endpoints. All but the mode matters only where a waypoint begins TLS, which none does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleTls {
    /// Which.
    pub mode: TlsMode,
    /// A file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<Value>,
    /// A file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Value>,
    /// A file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<Value>,
    /// A file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_crl: Option<Value>,
    /// A Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<Value>,
    /// Names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alt_names: Option<Value>,
    /// A name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<Value>,
    /// Whether anybody is believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<Value>,
}

impl RuleTls {
    /// Whether it asks for TLS that the mesh does not do by itself.
    #[must_use]
    pub fn begins(&self) -> bool {
        !matches!(self.mode, TlsMode::Disable | TlsMode::IstioMutual)
    }
}

/// Which TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// None but the mesh's own.
    #[default]
    Disable,
    /// As by a browser.
    Simple,
    /// With a certificate of the client's.
    Mutual,
    /// The mesh's own.
    IstioMutual,
    /// None of these.
    #[serde(other)]
    Unknown,
}

/// How many of the requests under way may be retries.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleBudget {
    /// Of a hundred; 20 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// As many there may be in any case; 3 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_retry_concurrency: Option<i64>,
}

/// A number of things; `None` when it cannot be one.
#[must_use]
pub fn as_u32(number: i64) -> Option<u32> {
    number.try_into().ok()
}

/// A percentage; `None` when it cannot be one.
#[must_use]
pub fn as_percent(number: i64) -> Option<u32> {
    as_u32(number).filter(|percent| *percent <= 100)
}

/// A part of a hundred; `None` when it cannot be one.
#[must_use]
pub fn as_share(number: f64) -> Option<f64> {
    (0.0..=100.0).contains(&number).then_some(number)
}

/// How fast a share grows; `None` when it cannot be that.
#[must_use]
pub fn as_aggression(number: f64) -> Option<f64> {
    (1.0..=1e6).contains(&number).then_some(number)
}

/// A length of time; `None` when it cannot be one.
#[must_use]
pub fn as_time(text: &str) -> Option<Duration> {
    duration::parse(text).filter(|time| TIMES.contains(time))
}

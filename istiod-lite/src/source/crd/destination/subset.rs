//! Subsets of a DestinationRule: parts of a host's endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DestinationRuleSpec, RulePolicy, Settings};

impl DestinationRuleSpec {
    /// The subsets that can be led to: those with a name, of several with the same one the first.
    pub fn usable_subsets(&self) -> impl Iterator<Item = &Subset> {
        let again = move |at: usize, name: &str| self.subsets.iter().take(at).any(|other| other.name == name);
        let usable = self.subsets.iter().enumerate().filter(move |(at, subset)| subset.has_name() && !again(*at, &subset.name));
        usable.map(|(_, subset)| subset)
    }

    /// What is asked of a port, for one of the subsets or for all endpoints.
    #[must_use]
    pub fn settings<'a>(&'a self, subset: Option<&'a Subset>, number: u16) -> Settings<'a> {
        let of_all = self.traffic_policy.as_ref().map(|policy| policy.for_port(number)).unwrap_or_default();
        match subset.and_then(|subset| subset.traffic_policy.as_ref()) {
            Some(own) => own.for_port_over(number, of_all),
            None => of_all,
        }
    }
}

/// A part of a host's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// What it is called.
    pub name: String,
    /// What labels its endpoints have; without any it is all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is asked of it. What this does not say is as for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<RulePolicy>,
}

impl Subset {
    /// Whether its name is one: letters, digits, `-`, `_` and `.`, at most 63.
    #[must_use]
    pub fn has_name(&self) -> bool {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=63).contains(&self.name.len()) && self.name.bytes().all(good)
    }
}

impl RulePolicy {
    /// The same for a subset, of whose host this is asked: each part of it that is said for the subset comes before the host's, and what is
    /// said of a port of the subset inherits nothing (Istio's rules).
    #[must_use]
    pub fn for_port_over<'a>(&'a self, number: u16, host: Settings<'a>) -> Settings<'a> {
        let own = self.settings();
        let merged = Settings {
            load_balancer: own.load_balancer.or(host.load_balancer),
            connection_pool: own.connection_pool.or(host.connection_pool),
            outlier_detection: own.outlier_detection.or(host.outlier_detection),
            tls: own.tls.or(host.tls),
            retry_budget: own.retry_budget.or(host.retry_budget),
        };
        match self.port_level_settings.iter().find(|settings| settings.port.number == i64::from(number)) {
            Some(settings) => Settings { retry_budget: merged.retry_budget, ..settings.settings() },
            None => merged,
        }
    }
}

//! Which places take over for which, and in what shares, as a DestinationRule says it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `localityLbSetting`: one of `distribute`, `failoverPriority` and `failover`, in this order where several are given.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalitySetting {
    /// Whether it holds; it does when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What goes from some places to others, in a hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribution>,
    /// Which region takes over for another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<RegionFailover>,
    /// Labels in whose order an endpoint is near: `key`, which is to be as the proxy's, or `key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
}

/// What goes from some places to others.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Distribution {
    /// `region/zone/subzone`; `*` stands for all from there on.
    pub from: String,
    /// So many of a hundred to each of such places.
    pub to: BTreeMap<String, i64>,
}

/// The region that takes over for another.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegionFailover {
    /// The proxy's.
    pub from: String,
    /// The one that comes before all others.
    pub to: String,
}

/// What an endpoint may have in common with a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The region.
    Region,
    /// The zone, by its name alone.
    Zone,
    /// The subzone, by its name alone.
    Subzone,
    /// The node.
    Node,
}

impl Part {
    /// What is known by a label; `None` when it is none of the topology's.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        match label {
            "topology.kubernetes.io/region" => Some(Self::Region),
            "topology.kubernetes.io/zone" => Some(Self::Zone),
            "topology.istio.io/subzone" => Some(Self::Subzone),
            "kubernetes.io/hostname" => Some(Self::Node),
            _ => None,
        }
    }
}

/// A label of `failoverPriority`, with the value that it asks for; `None` when it is none of the topology's.
#[must_use]
pub fn priority_label(text: &str) -> Option<(Part, Option<&str>)> {
    let (label, value) = text.split_once('=').map_or((text, None), |(label, value)| (label, Some(value)));
    Some((Part::of_label(label)?, value))
}

/// Whether a pattern of places can be one: up to three parts, a `*` only as the last.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let stars = parts.iter().rev().skip(1).any(|part| part.contains('*'));
    let last = parts.last().is_some_and(|last| *last == "*" || !last.contains('*'));
    (1..=3).contains(&parts.len()) && !parts.iter().any(|part| part.is_empty()) && !stars && last
}

//! How a DestinationRule has endpoints chosen.

use serde::{Deserialize, Serialize};

use super::LocalitySetting;
use crate::source::crd::hash::ConsistentHash;

/// How endpoints are chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// By what.
    pub simple: Simple,
    /// By hashes of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// Which places take over for which, and in what shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalitySetting>,
    /// New endpoints are given their share by and by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// The older form of its duration, which holds where there is no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_duration_secs: Option<String>,
}

/// How the share of a new endpoint grows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Warmup {
    /// How long it takes until it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// The least that it is, of a hundred; 10 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_percent: Option<f64>,
    /// 1, which is the default, for evenly; more for faster at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggression: Option<f64>,
}

/// By what endpoints are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Simple {
    /// As without a rule.
    #[default]
    Unspecified,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
    /// Of two, the one with fewer requests under way.
    LeastRequest,
    /// The same, by its older name.
    LeastConn,
    /// Where the client dialled: not carried out.
    Passthrough,
    /// None of these.
    #[serde(other)]
    Unknown,
}

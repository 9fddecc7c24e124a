//! New endpoints that are given their share by and by, as a TrafficPolicy or a DestinationRule asks for it.

use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::cluster::v3 as envoy;
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use ambit_api::envoy::pb::envoy::config::core::v3::RuntimeDouble;
use ambit_api::envoy::pb::envoy::r#type::v3::Percent;

use super::cluster::tell_ours;
use super::route::parse_duration;
use super::wire::duration;
use crate::source::crd::destination::{LoadBalancer, Simple, as_aggression, as_share, as_time};
use crate::source::crd::traffic;

/// How long it takes when nobody says it.
const WINDOW: Duration = Duration::from_secs(30);
/// By which an operator of an Envoy can change it there; Envoy takes no number without such a key.
const KEY: &str = "ambit.slow_start.aggression";

/// How the share of an endpoint grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    window: Duration,
    aggression: Option<f64>,
    least_percent: Option<f64>,
    /// Also when an endpoint returns that was ejected: only our own waypoint knows how, and it is asked in metadata of our own.
    after_ejection: bool,
}

impl SlowStart {
    /// What a TrafficPolicy asks for.
    pub fn of_policy(said: &traffic::SlowStart) -> Self {
        Self {
            window: said.window.as_deref().and_then(parse_duration).unwrap_or(WINDOW),
            aggression: said.aggression,
            least_percent: said.min_weight_percent.map(f64::from),
            after_ejection: true,
        }
    }

    /// What a DestinationRule asks for, as far as it can be; what comes before the older form is the newer one.
    pub fn of_rule(said: &LoadBalancer) -> Option<Self> {
        let asked = said.warmup.as_ref();
        let window = match asked {
            Some(asked) => asked.duration.as_deref(),
            None => said.warmup_duration_secs.as_deref(),
        };
        let window = window.and_then(as_time).filter(|_| said.simple != Simple::Random)?;
        Some(Self {
            window,
            aggression: asked.and_then(|asked| asked.aggression).and_then(as_aggression),
            least_percent: asked.and_then(|asked| asked.minimum_percent).and_then(as_share),
            after_ejection: false,
        })
    }

    /// Puts it into a cluster, whose policy is known by now.
    pub fn apply_to(self, cluster: &mut envoy::Cluster) {
        let aggression = |default_value| RuntimeDouble { default_value, runtime_key: KEY.into() };
        let slow_start_config = Some(SlowStartConfig {
            slow_start_window: duration(self.window),
            aggression: self.aggression.map(aggression),
            min_weight_percent: self.least_percent.map(|value| Percent { value }),
        });
        cluster.lb_config = Some(if cluster.lb_policy == i32::from(LbPolicy::LeastRequest) {
            LbConfig::LeastRequestLbConfig(LeastRequestLbConfig { slow_start_config, ..Default::default() })
        } else {
            LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })
        });
        if self.after_ejection {
            tell_ours(cluster, "slow_start", "after_ejection");
        }
    }
}

//! What a TrafficPolicy or a DestinationRule asks of the clusters of a service port. One of them holds, whole: the TrafficPolicy where there
//! is one. What it does not ask for stays as it is in clusters of which nobody asks anything.

use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::cluster::v3 as cluster;
use ambit_api::envoy::pb::envoy::config::cluster::v3::OutlierDetection;
use ambit_api::envoy::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds::RetryBudget};
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::{CommonLbConfig, LbPolicy};
use ambit_api::envoy::pb::envoy::config::core::v3::HealthCheck;
use ambit_api::envoy::pb::envoy::r#type::v3::Percent;
use ambit_api::envoy::pb::google::protobuf::{BoolValue, UInt32Value};

use super::cluster::RETRY_PERCENT;
use super::hash::Hashing;
use super::locality::{self, Near};
use super::names::Layer;
use super::route::parse_duration;
use super::slow_start::SlowStart;
use super::wire::{duration, u32_value};
use super::{backend, cluster as clusters, health};
use crate::index::{Index, ServiceRef};
use crate::source::crd::destination::{RuleOutliers, Settings, Simple, as_percent, as_time, as_u32};
use crate::source::crd::traffic::{self, LoadBalancing, LoadBalancingPolicy, TrafficPolicySpec};

/// Errors in a row after which an endpoint is ejected.
const ERRORS: u32 = 5;
/// How many of a hundred endpoints may be ejected: of two one, and the only one never.
const EJECTED_PERCENT: u32 = 50;

/// What is asked of the clusters of one port.
#[derive(Debug, Default)]
pub struct Asked {
    connect_timeout: Option<Duration>,
    max_connections: Option<u32>,
    max_pending_requests: Option<u32>,
    max_requests: Option<u32>,
    max_retries: Option<u32>,
    retry_budget: Option<(f64, Option<u32>)>,
    lb_policy: LbPolicy,
    panic_threshold: Option<u32>,
    outliers: Option<OutlierDetection>,
    /// Of our own waypoint; in any other an endpoint that was ejected returns as if it had never failed.
    probation: bool,
    health_check: Option<HealthCheck>,
    slow_start: Option<SlowStart>,
    by_locality: bool,
    hashing: Option<Hashing>,
    /// Of our own waypoint; any other goes by what is under way.
    peak_ewma: bool,
}

/// By what requests to a port of a service, or to a subset of it, are told apart, where hashes lead to its endpoints.
pub fn hashing(index: &Index, service: &ServiceRef, number: u16, subset: Option<&str>) -> Option<Hashing> {
    of_ours(index, service, number, subset).hashing
}

/// What is asked of a port of a service, or of a subset of it.
pub fn asked(index: &Index, service: &ServiceRef, number: u16, subset: Option<&str>) -> Asked {
    let by_locality = matches!(locality::asked(index, service, number, subset), Some(Near::Shares(_)));
    let asked = Asked { by_locality, ..of_ours(index, service, number, subset) };
    // The Gateway API's own comes first, for the one thing that it says.
    match backend::budget(index, service) {
        Some((percent, least)) => Asked { retry_budget: Some((percent, Some(least))), max_retries: None, ..asked },
        None => asked,
    }
}

/// The same by a TrafficPolicy or a DestinationRule.
fn of_ours(index: &Index, service: &ServiceRef, number: u16, subset: Option<&str>) -> Asked {
    let port = index.service_ports(service).into_iter().find(|port| port.port == number);
    if let Some((protocol, policy)) = port.and_then(|port| Some((port.protocol, index.traffic_policy_of(service, &port)?))) {
        let check = |said| health::check(said, &service.hostname(index.config()), protocol);
        return Asked { health_check: policy.spec.health_check.as_ref().map(check), ..of_policy(&policy.spec) };
    }
    let Some(rule) = index.destination_rule_of(service) else { return Asked::default() };
    let subset = subset.and_then(|name| index.subset(service, name).ok());
    of_rule(&rule.spec.settings(subset, number))
}

impl Asked {
    /// Puts it into a cluster.
    pub fn apply_to(self, cluster: &mut cluster::Cluster, layer: Layer) {
        if let Some(timeout) = self.connect_timeout {
            cluster.connect_timeout = duration(timeout);
        }
        cluster.lb_policy = self.lb_policy.into();
        if let Some(slow) = self.slow_start {
            slow.apply_to(cluster);
        }
        if let Some(hashing) = self.hashing.as_ref().filter(|_| layer == Layer::Http) {
            hashing.apply_to(cluster);
        }
        if self.peak_ewma && layer == Layer::Http {
            clusters::tell_ours(cluster, "load_balancing", "peak_ewma");
        }
        for thresholds in cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds) {
            self.limit(thresholds, layer);
        }
        if let Some(percent) = self.panic_threshold {
            let healthy_panic_threshold = Some(Percent { value: percent.into() });
            cluster.common_lb_config = Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() });
        }
        // What the proxy looks up itself is of no place.
        if self.by_locality && cluster.load_assignment.is_none() {
            let by = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig::default());
            cluster.common_lb_config.get_or_insert_default().locality_config_specifier = Some(by);
        }
        if self.probation {
            clusters::tell_ours(cluster, "outlier_detection", "probation");
        }
        cluster.outlier_detection = self.outliers;
        let Some(check) = self.health_check.filter(|check| health::fits(check, layer)) else { return };
        // What answers a check well may fail at all else.
        if let Some(outliers) = &mut cluster.outlier_detection {
            outliers.successful_active_health_check_uneject_host = Some(BoolValue { value: false });
        }
        // Who is gone is gone, however well it was.
        cluster.ignore_health_on_host_removal = true;
        cluster.health_checks = vec![check];
    }

    fn limit(&self, thresholds: &mut Thresholds, layer: Layer) {
        let set = |field: &mut Option<UInt32Value>, asked: Option<u32>| {
            if let Some(asked) = asked {
                *field = u32_value(asked);
            }
        };
        set(&mut thresholds.max_connections, self.max_connections);
        set(&mut thresholds.max_pending_requests, self.max_pending_requests);
        set(&mut thresholds.max_requests, self.max_requests);
        if layer == Layer::Tcp {
            return;
        }
        if let Some(retries) = self.max_retries {
            // A budget would hold in its place.
            thresholds.max_retries = u32_value(retries);
            thresholds.retry_budget = None;
        }
        if let Some((percent, least)) = self.retry_budget {
            let budget_percent = Some(Percent { value: percent });
            let min_retry_concurrency = least.and_then(u32_value);
            thresholds.retry_budget = Some(RetryBudget { budget_percent, min_retry_concurrency, ..Default::default() });
        }
    }
}

fn of_policy(spec: &TrafficPolicySpec) -> Asked {
    let limits = spec.limits.clone().unwrap_or_default();
    let budget = spec.retry_budget.as_ref();
    Asked {
        connect_timeout: spec.connect_timeout.as_deref().and_then(parse_duration),
        max_connections: limits.connections,
        max_pending_requests: limits.pending_requests,
        max_requests: limits.requests,
        max_retries: limits.retries,
        retry_budget: budget.map(|budget| (budget.percent.map_or(RETRY_PERCENT, f64::from), budget.min_concurrent)),
        lb_policy: match spec.load_balancing.as_ref().map(|said| said.policy) {
            // Connections have no hash.
            None | Some(LoadBalancingPolicy::RoundRobin | LoadBalancingPolicy::RingHash | LoadBalancingPolicy::Maglev) => {
                LbPolicy::RoundRobin
            }
            Some(LoadBalancingPolicy::Random) => LbPolicy::Random,
            Some(LoadBalancingPolicy::LeastRequest | LoadBalancingPolicy::PeakEwma) => LbPolicy::LeastRequest,
        },
        panic_threshold: None,
        outliers: spec.outlier_detection.as_ref().map(of_outliers),
        probation: spec.outlier_detection.is_some(),
        health_check: None,
        slow_start: spec.load_balancing.as_ref().and_then(of_new),
        hashing: spec.load_balancing.as_ref().and_then(Hashing::of_policy),
        peak_ewma: spec.load_balancing.as_ref().is_some_and(|said| said.policy == LoadBalancingPolicy::PeakEwma),
        by_locality: false,
    }
}

/// How the share of new endpoints grows; at once where all have the same whatever their weights.
fn of_new(said: &LoadBalancing) -> Option<SlowStart> {
    let slow = said.slow_start.as_ref().filter(|_| said.policy != LoadBalancingPolicy::Random && !said.policy.hashes());
    slow.map(SlowStart::of_policy)
}

/// How many in a row, and in how many of a hundred cases it counts that there were as many.
fn in_a_row(count: u32) -> (Option<UInt32Value>, Option<UInt32Value>) {
    if count == 0 { (None, u32_value(0)) } else { (u32_value(count), u32_value(100)) }
}

fn of_outliers(said: &traffic::OutlierDetection) -> OutlierDetection {
    let (consecutive_5xx, enforcing_consecutive_5xx) = in_a_row(said.consecutive_errors.unwrap_or(ERRORS));
    let (consecutive_gateway_failure, enforcing_consecutive_gateway_failure) =
        in_a_row(said.consecutive_gateway_errors.unwrap_or(0));
    let time = |text: &Option<String>| text.as_deref().and_then(parse_duration).and_then(duration);
    let rates = said.success_rate.as_ref();
    let failures = said.failure_percentage.as_ref();
    OutlierDetection {
        consecutive_5xx,
        enforcing_consecutive_5xx,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        interval: time(&said.interval),
        base_ejection_time: time(&said.base_ejection_time),
        max_ejection_percent: u32_value(said.max_ejection_percent.unwrap_or(EJECTED_PERCENT)),
        // Envoy would go by rates unless it is told not to.
        enforcing_success_rate: u32_value(if rates.is_some() { 100 } else { 0 }),
        success_rate_minimum_hosts: rates.and_then(|rates| rates.minimum_hosts).and_then(u32_value),
        success_rate_request_volume: rates.and_then(|rates| rates.request_volume).and_then(u32_value),
        success_rate_stdev_factor: rates.and_then(|rates| rates.stdev_factor).and_then(u32_value),
        // Of these it is the other way round.
        enforcing_failure_percentage: failures.and_then(|_| u32_value(100)),
        failure_percentage_threshold: failures.and_then(|failures| failures.threshold).and_then(u32_value),
        failure_percentage_minimum_hosts: failures.and_then(|failures| failures.minimum_hosts).and_then(u32_value),
        failure_percentage_request_volume: failures.and_then(|failures| failures.request_volume).and_then(u32_value),
        ..Default::default()
    }
}

/// As Istio has it: what is 0, or cannot be, is as good as not said.
fn of_rule(said: &Settings<'_>) -> Asked {
    let most = |count: Option<i64>| count.and_then(as_u32).filter(|count| *count > 0);
    let pool = said.connection_pool.cloned().unwrap_or_default();
    let (tcp, http) = (pool.tcp.unwrap_or_default(), pool.http.unwrap_or_default());
    let hashing = said.load_balancer.and_then(Hashing::of_rule);
    Asked {
        connect_timeout: tcp.connect_timeout.as_deref().and_then(as_time),
        max_connections: most(tcp.max_connections),
        max_pending_requests: most(http.http1_max_pending_requests),
        max_requests: most(http.http2_max_requests),
        max_retries: most(http.max_retries),
        retry_budget: said.retry_budget.map(|budget| {
            let percent = budget.percent.filter(|percent| (0.0..=100.0).contains(percent));
            (percent.unwrap_or(RETRY_PERCENT), budget.min_retry_concurrency.and_then(as_u32))
        }),
        lb_policy: match said.load_balancer.map(|balancer| balancer.simple) {
            Some(Simple::Random) => LbPolicy::Random,
            Some(Simple::LeastRequest | Simple::LeastConn) => LbPolicy::LeastRequest,
            None | Some(Simple::RoundRobin | Simple::Unspecified | Simple::Passthrough | Simple::Unknown) => LbPolicy::RoundRobin,
        },
        // Istio's default is that however few are left, those that were ejected stay so.
        panic_threshold: said.outlier_detection.map(|outliers| outliers.min_health_percent.and_then(as_percent).unwrap_or(0)),
        outliers: said.outlier_detection.map(of_rule_outliers),
        // Istio knows no such thing.
        probation: false,
        health_check: None,
        slow_start: said.load_balancer.filter(|_| hashing.is_none()).and_then(SlowStart::of_rule),
        hashing,
        peak_ewma: false,
        by_locality: false,
    }
}

fn of_rule_outliers(said: &RuleOutliers) -> OutlierDetection {
    let count = |count: Option<i64>| count.and_then(as_u32);
    let time = |text: &Option<String>| text.as_deref().and_then(as_time).and_then(duration);
    let mut made = OutlierDetection {
        interval: time(&said.interval),
        base_ejection_time: time(&said.base_ejection_time),
        max_ejection_percent: said.max_ejection_percent.and_then(as_percent).filter(|percent| *percent > 0).and_then(u32_value),
        enforcing_success_rate: u32_value(0),
        ..Default::default()
    };
    if let Some(errors) = count(said.consecutive_5xx_errors) {
        (made.consecutive_5xx, made.enforcing_consecutive_5xx) = in_a_row(errors);
    }
    if let Some(errors) = count(said.consecutive_gateway_errors) {
        (made.consecutive_gateway_failure, made.enforcing_consecutive_gateway_failure) = in_a_row(errors);
    }
    if said.split_external_local_origin_errors {
        made.split_external_local_origin_errors = true;
        made.enforcing_local_origin_success_rate = u32_value(0);
        if let Some(failures) = count(said.consecutive_local_origin_failures).filter(|failures| *failures > 0) {
            (made.consecutive_local_origin_failure, made.enforcing_consecutive_local_origin_failure) = in_a_row(failures);
        }
    }
    made
}

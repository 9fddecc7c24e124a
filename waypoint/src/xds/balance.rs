//! How a cluster's requests are spread over its endpoints, and which of them are ejected (`envoy.config.cluster.v3.OutlierDetection`).

use std::{mem::take, time::Duration};

use ambit_api::envoy::pb::{
    envoy::config::{
        cluster::v3::{
            self as pb,
            cluster::{
                CommonLbConfig, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig, SlowStartConfig,
                common_lb_config::LocalityConfigSpecifier, ring_hash_lb_config::HashFunction,
            },
        },
        core::v3::RuntimeDouble,
    },
    google::protobuf::{Duration as ProtoDuration, UInt32Value},
};
use ambit_model::balance::{
    Enforced, FailurePercentage, Hashing, OutlierDetection, PANIC_THRESHOLD, Policy, Rules, SlowStart, SuccessRate,
};

use super::read::{Compiled, Problem, Under, boolean, duration, finish, number};

/// Envoy's default, and the fewest that it takes.
const CHOICES: u32 = 2;
/// How many endpoints a request looks at, however many are asked for: so many at random hold one of the best as good as always.
const MOST_CHOICES: u32 = 64;
/// Envoy's default of how many places a ring has at least.
const LEAST_PLACES: u64 = 1024;
/// The most that Envoy takes for either bound of a ring, and its default of the upper one.
const MOST_PLACES: u64 = 8_388_608;
/// So many places of a ring there is room for, however many are asked for: a hundred for each of ten thousand endpoints.
const ROOM: u64 = 1 << 20;
/// Envoy's default of the size of a Maglev table, and the most that it takes.
const TABLE: u64 = 65_537;
const LARGEST_TABLE: u64 = 5_000_011;
/// Envoy's default: the least that a new endpoint has of its share, in a hundred.
const LEAST_PERCENT: f64 = 10.0;

/// What a cluster says of load balancing, but for what its kind of discovery says.
pub fn rules(cluster: &mut pb::Cluster) -> Compiled<Rules> {
    let (policy, slow_start) = policy(take(&mut cluster.lb_policy), cluster.lb_config.take())?;
    let common = cluster.common_lb_config.take().unwrap_or_default();
    Ok(Rules { slow_start, ..common_rules(common, policy).under("common_lb_config")? })
}

fn policy(policy: i32, config: Option<LbConfig>) -> Compiled<(Policy, Option<SlowStart>)> {
    let policy = LbPolicy::try_from(policy).map_err(|_| Problem::new("lb_policy is not implemented"))?;
    match (policy, config) {
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(mut config))) => {
            let slow = slow_start(config.slow_start_config.take()).under("round_robin_lb_config")?;
            finish(&config).under("round_robin_lb_config")?;
            Ok((Policy::RoundRobin, slow))
        }
        (LbPolicy::RoundRobin | LbPolicy::ClusterProvided, None) => Ok((Policy::RoundRobin, None)),
        (LbPolicy::Random, None) => Ok((Policy::Random, None)),
        (LbPolicy::LeastRequest, None) => Ok((Policy::LeastRequest { choices: CHOICES }, None)),
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(mut config))) => {
            let choices = number(config.choice_count.take()).unwrap_or(CHOICES);
            let slow = slow_start(config.slow_start_config.take()).under("least_request_lb_config")?;
            finish(&config).under("least_request_lb_config")?;
            if choices < CHOICES {
                return Err(
                    Problem::new(format!("choice_count: {choices} is less than {CHOICES}")).under("least_request_lb_config")
                );
            }
            Ok((Policy::LeastRequest { choices: choices.min(MOST_CHOICES) }, slow))
        }
        (LbPolicy::RingHash, None) => Ok((Policy::Hash(ring(RingHashLbConfig::default())?), None)),
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            Ok((Policy::Hash(ring(config).under("ring_hash_lb_config")?), None))
        }
        (LbPolicy::Maglev, None) => Ok((Policy::Hash(maglev(MaglevLbConfig::default())?), None)),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            Ok((Policy::Hash(maglev(config).under("maglev_lb_config")?), None))
        }
        (
            LbPolicy::RoundRobin
            | LbPolicy::Random
            | LbPolicy::LeastRequest
            | LbPolicy::ClusterProvided
            | LbPolicy::RingHash
            | LbPolicy::Maglev,
            Some(_),
        ) => Err(Problem::new("lb_config of another lb_policy is not implemented")),
        (other, _) => Err(Problem::new(format!("{} is not implemented", other.as_str_name())).under("lb_policy")),
    }
}

fn ring(mut said: RingHashLbConfig) -> Compiled<Hashing> {
    match HashFunction::try_from(take(&mut said.hash_function)) {
        Ok(HashFunction::XxHash) => {}
        Ok(HashFunction::MurmurHash2) => return Err(Problem::new("MURMUR_HASH_2 is not implemented").under("hash_function")),
        Err(_) => return Err(Problem::new("is not implemented").under("hash_function")),
    }
    let least = said.minimum_ring_size.take().map_or(LEAST_PLACES, |size| size.value);
    let most = said.maximum_ring_size.take().map_or(MOST_PLACES, |size| size.value);
    finish(&said)?;
    for (size, name) in [(least, "minimum_ring_size"), (most, "maximum_ring_size")] {
        if size > MOST_PLACES {
            return Err(Problem::new(format!("{size} is more than {MOST_PLACES}")).under(name));
        }
    }
    if least > most {
        return Err(Problem::new(format!("{least} is more than maximum_ring_size, {most}")).under("minimum_ring_size"));
    }
    Ok(Hashing::Ring { least: least.min(ROOM) as u32, most: most.min(ROOM) as u32 })
}

fn maglev(mut said: MaglevLbConfig) -> Compiled<Hashing> {
    let size = said.table_size.take().map_or(TABLE, |size| size.value);
    finish(&said)?;
    if size > LARGEST_TABLE {
        return Err(Problem::new(format!("{size} is more than {LARGEST_TABLE}")).under("table_size"));
    }
    // Else an endpoint would not come to all places of the table.
    if !is_prime(size) {
        return Err(Problem::new(format!("{size} is no prime")).under("table_size"));
    }
    Ok(Hashing::Maglev { size: size as u32 })
}

fn is_prime(number: u64) -> bool {
    let mut possible = (2_u64..).take_while(|factor| factor * factor <= number);
    number > 1 && possible.all(|factor| !number.is_multiple_of(factor))
}

/// How the share of a new endpoint grows, if not at once.
fn slow_start(said: Option<SlowStartConfig>) -> Compiled<Option<SlowStart>> {
    said.map(growing).transpose().under("slow_start_config").map(Option::flatten)
}

fn growing(mut said: SlowStartConfig) -> Compiled<Option<SlowStart>> {
    let window = said.slow_start_window.take().map(duration).transpose().under("slow_start_window")?.unwrap_or_default();
    let aggression = match said.aggression.take() {
        None => 1.0,
        // Nothing here changes at run time, so that what is said holds.
        Some(RuntimeDouble { default_value, .. }) if default_value > 0.0 && default_value.is_finite() => default_value,
        Some(RuntimeDouble { default_value, .. }) => {
            return Err(Problem::new(format!("{default_value} is not more than nothing")).under("aggression"));
        }
    };
    let least_percent = match said.min_weight_percent.take() {
        None => LEAST_PERCENT,
        Some(percent) if (0.0..=100.0).contains(&percent.value) => percent.value,
        Some(percent) => return Err(Problem::new(format!("{} is no percentage", percent.value)).under("min_weight_percent")),
    };
    finish(&said)?;
    Ok((!window.is_zero()).then_some(SlowStart { window, aggression, least_percent, new: true, after_ejection: false }))
}

fn common_rules(mut common: CommonLbConfig, policy: Policy) -> Compiled<Rules> {
    let panic_threshold = match common.healthy_panic_threshold.take() {
        None => PANIC_THRESHOLD,
        Some(percent) if (0.0..=100.0).contains(&percent.value) => percent.value.round() as u32,
        Some(percent) => return Err(Problem::new(format!("{} is no percentage", percent.value)).under("healthy_panic_threshold")),
    };
    let by_locality = match common.locality_config_specifier.take() {
        None => false,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            return Err(Problem::new("zone_aware_lb_config is not implemented"));
        }
    };
    finish(&common)?;
    Ok(Rules { policy, panic_threshold, by_locality, slow_start: None })
}

/// Which endpoints are ejected.
pub fn outliers(mut said: pb::OutlierDetection) -> Compiled<OutlierDetection> {
    let or = OutlierDetection::default();
    let server_errors = enforced(
        (said.consecutive_5xx.take(), said.enforcing_consecutive_5xx.take()),
        or.server_errors,
        "enforcing_consecutive_5xx",
    )?;
    let gateway_failures = enforced(
        (said.consecutive_gateway_failure.take(), said.enforcing_consecutive_gateway_failure.take()),
        or.gateway_failures,
        "enforcing_consecutive_gateway_failure",
    )?;
    let local_failures = enforced(
        (said.consecutive_local_origin_failure.take(), said.enforcing_consecutive_local_origin_failure.take()),
        or.local_failures,
        "enforcing_consecutive_local_origin_failure",
    )?;
    let base_time = time(said.base_ejection_time.take(), or.base_time, "base_ejection_time")?;
    // Envoy's default is no less than the least there is.
    let max_time = time(said.max_ejection_time.take(), or.max_time.max(base_time), "max_ejection_time")?;
    let rules = OutlierDetection {
        server_errors,
        gateway_failures,
        local_failures,
        split: take(&mut said.split_external_local_origin_errors),
        success_rate: success_rate(&mut said, or.success_rate)?,
        interval: time(said.interval.take(), or.interval, "interval")?,
        base_time,
        max_time,
        max_jitter: said
            .max_ejection_time_jitter
            .take()
            .map(duration)
            .transpose()
            .under("max_ejection_time_jitter")?
            .unwrap_or_default(),
        max_percent: percent(said.max_ejection_percent.take(), or.max_percent, "max_ejection_percent")?,
        always_one: boolean(said.always_eject_one_host.take(), false),
        failure_percentage: failure_percentage(&mut said, or.failure_percentage)?,
        probation: or.probation,
    };
    // It is the health check's.
    said.successful_active_health_check_uneject_host = None;
    finish(&said)?;
    if max_time < base_time {
        return Err(Problem::new("is less than base_ejection_time").under("max_ejection_time"));
    }
    Ok(rules)
}

fn success_rate(said: &mut pb::OutlierDetection, or: SuccessRate) -> Compiled<SuccessRate> {
    Ok(SuccessRate {
        enforcing: percent(said.enforcing_success_rate.take(), or.enforcing, "enforcing_success_rate")?,
        enforcing_local: percent(
            said.enforcing_local_origin_success_rate.take(),
            or.enforcing_local,
            "enforcing_local_origin_success_rate",
        )?,
        minimum_hosts: number(said.success_rate_minimum_hosts.take()).unwrap_or(or.minimum_hosts),
        request_volume: number(said.success_rate_request_volume.take()).unwrap_or(or.request_volume),
        stdev_factor: number(said.success_rate_stdev_factor.take()).unwrap_or(or.stdev_factor),
    })
}

fn failure_percentage(said: &mut pb::OutlierDetection, or: FailurePercentage) -> Compiled<FailurePercentage> {
    Ok(FailurePercentage {
        threshold: percent(said.failure_percentage_threshold.take(), or.threshold, "failure_percentage_threshold")?,
        enforcing: percent(said.enforcing_failure_percentage.take(), or.enforcing, "enforcing_failure_percentage")?,
        enforcing_local: percent(
            said.enforcing_failure_percentage_local_origin.take(),
            or.enforcing_local,
            "enforcing_failure_percentage_local_origin",
        )?,
        minimum_hosts: number(said.failure_percentage_minimum_hosts.take()).unwrap_or(or.minimum_hosts),
        request_volume: number(said.failure_percentage_request_volume.take()).unwrap_or(or.request_volume),
    })
}

fn enforced((failures, enforcing): (Option<UInt32Value>, Option<UInt32Value>), or: Enforced, name: &str) -> Compiled<Enforced> {
    Ok(Enforced { failures: number(failures).unwrap_or(or.failures), percent: percent(enforcing, or.percent, name)? })
}

fn percent(value: Option<UInt32Value>, or: u32, name: &str) -> Compiled<u32> {
    match number(value).unwrap_or(or) {
        percent @ 0..=100 => Ok(percent),
        percent => Err(Problem::new(format!("{percent} is no percentage")).under(name)),
    }
}

/// A length of time, which is not nothing.
fn time(value: Option<ProtoDuration>, or: Duration, name: &str) -> Compiled<Duration> {
    match value.map(duration).transpose().under(name)?.unwrap_or(or) {
        time if time.is_zero() => Err(Problem::new("is nothing").under(name)),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests;

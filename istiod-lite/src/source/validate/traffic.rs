//! Values of TrafficPolicies: what the schema of the kind says, for YAML that no API server has seen.

use gateway_api::Duration;
use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;

use super::{Errors, hash, health};
use crate::source::crd::traffic::{
    Admission, LoadBalancing, LoadBalancingPolicy, OutlierDetection, TrafficPolicy, TrafficPolicySpec,
};

/// How much may be targeted: as many ancestors a status has.
const MOST_TARGETS: usize = 16;

pub(super) fn policy(policy: &TrafficPolicy, errors: &mut Errors) {
    let spec = &policy.spec;
    targets(spec, errors);
    time(errors, "spec.connectTimeout", spec.connect_timeout.as_deref());
    if let Some(limits) = &spec.limits {
        for (field, limit) in
            [("connections", limits.connections), ("pendingRequests", limits.pending_requests), ("requests", limits.requests)]
        {
            errors.check(limit != Some(0), &format!("spec.limits.{field}"), || "must be at least 1: nothing would pass".into());
        }
        errors.check(limits.retries.is_none() || spec.retry_budget.is_none(), "spec.limits.retries", || {
            "only one of limits.retries and retryBudget may be given".into()
        });
    }
    if let Some(budget) = &spec.retry_budget {
        percent(errors, "spec.retryBudget.percent", budget.percent);
    }
    if let Some(asked) = &spec.load_balancing {
        balancing(asked, errors);
    }
    if let Some(detection) = &spec.outlier_detection {
        outliers(detection, errors);
    }
    if let Some(check) = &spec.health_check {
        health::check(check, errors);
    }
    if let Some(asked) = &spec.admission {
        admission(asked, errors);
    }
    let asks = TrafficPolicySpec { target_refs: spec.target_refs.clone(), ..TrafficPolicySpec::default() } != *spec;
    errors.check(asks, "spec", || "it asks for nothing".into());
}

/// Values of an XBackendTrafficPolicy.
pub(super) fn backend(policy: &XBackendTrafficPolicy, errors: &mut Errors) {
    let spec = &policy.spec;
    errors.check(!spec.target_refs.is_empty(), "spec.targetRefs", || "at least one is required".into());
    errors.at_most(MOST_TARGETS, "spec.targetRefs", spec.target_refs.len());
    if let Some(constraint) = &spec.retry_constraint {
        let path = "spec.retryConstraint";
        if let Some(given) = constraint.budget.as_ref().and_then(|budget| budget.percent) {
            errors.check((0..=100).contains(&given), &format!("{path}.budget.percent"), || {
                format!("{given} is no percentage (0 to 100)")
            });
        }
        time(
            errors,
            &format!("{path}.budget.interval"),
            constraint.budget.as_ref().and_then(|budget| budget.interval.as_deref()),
        );
        let rate = constraint.min_retry_rate.as_ref();
        if let Some(count) = rate.and_then(|rate| rate.count) {
            let good = (1..=1_000_000).contains(&count);
            errors.check(good, &format!("{path}.minRetryRate.count"), || format!("{count} is not between 1 and 1000000"));
        }
        time(errors, &format!("{path}.minRetryRate.interval"), rate.and_then(|rate| rate.interval.as_deref()));
    }
}

fn targets(spec: &TrafficPolicySpec, errors: &mut Errors) {
    errors.check(!spec.target_refs.is_empty(), "spec.targetRefs", || "at least one is required".into());
    errors.at_most(MOST_TARGETS, "spec.targetRefs", spec.target_refs.len());
    for (at, target) in spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{at}]");
        errors.check(target.group.is_empty() && target.kind == "Service", &format!("{path}.kind"), || {
            format!("{} of group {:?} cannot be targeted; Service of group \"\" can", target.kind, target.group)
        });
        errors.check(!target.name.is_empty(), &format!("{path}.name"), || "must not be empty".into());
        let twice = spec.target_refs.iter().take(at).any(|other| other == target);
        errors.check(!twice, &path, || "is given twice".into());
    }
}

fn balancing(asked: &LoadBalancing, errors: &mut Errors) {
    hash::policy(asked, errors);
    let Some(slow) = &asked.slow_start else { return };
    let path = "spec.loadBalancing.slowStart";
    errors.check(asked.policy != LoadBalancingPolicy::Random, path, || {
        "with policy Random endpoints are chosen whatever their weights: choose RoundRobin or LeastRequest".into()
    });
    errors.check(!asked.policy.hashes(), path, || {
        "hashes lead to an endpoint with its whole share from the first moment on: choose RoundRobin, LeastRequest or PeakEwma".into()
    });
    time(errors, &format!("{path}.window"), slow.window.as_deref());
    let good = slow.aggression.is_none_or(|aggression| (0.1..=100.0).contains(&aggression));
    errors.check(good, &format!("{path}.aggression"), || "must be between 0.1 and 100".into());
    percent(errors, &format!("{path}.minWeightPercent"), slow.min_weight_percent);
}

fn outliers(detection: &OutlierDetection, errors: &mut Errors) {
    let path = "spec.outlierDetection";
    time(errors, &format!("{path}.interval"), detection.interval.as_deref());
    time(errors, &format!("{path}.baseEjectionTime"), detection.base_ejection_time.as_deref());
    percent(errors, &format!("{path}.maxEjectionPercent"), detection.max_ejection_percent);
    if let Some(failures) = &detection.failure_percentage {
        let path = format!("{path}.failurePercentage");
        let good = failures.threshold.is_none_or(|percent| (1..=100).contains(&percent));
        errors.check(good, &format!("{path}.threshold"), || "must be between 1 and 100".into());
        for (field, count) in [("minimumHosts", failures.minimum_hosts), ("requestVolume", failures.request_volume)] {
            errors.check(count != Some(0), &format!("{path}.{field}"), || "must be at least 1".into());
        }
    }
    let never = detection.consecutive_errors == Some(0)
        && detection.consecutive_gateway_errors.is_none_or(|errors| errors == 0)
        && detection.success_rate.is_none()
        && detection.failure_percentage.is_none();
    errors
        .check(!never, &format!("{path}.consecutiveErrors"), || "with 0 and nothing besides no endpoint is ever ejected".into());
}

fn admission(asked: &Admission, errors: &mut Errors) {
    let path = "spec.admission";
    time(errors, &format!("{path}.normalLatency"), asked.normal_latency.as_deref());
    // What holds of the one that is not given.
    let (least, most) = (asked.min_concurrency.unwrap_or(3), asked.max_concurrency.unwrap_or(1000));
    errors.check(least > 0, &format!("{path}.minConcurrency"), || "must be at least 1: nothing would pass".into());
    errors.check(least <= most, &format!("{path}.maxConcurrency"), || format!("{most} is less than minConcurrency, {least}"));
    errors.check(
        asked.status_on_reject.is_none_or(|status| [429, 503].contains(&status)),
        &format!("{path}.statusOnReject"),
        || "must be 429 or 503".into(),
    );
}

fn percent(errors: &mut Errors, path: &str, percent: Option<u32>) {
    if let Some(percent) = percent {
        errors.check(percent <= 100, path, || format!("{percent} is no percentage (0 to 100)"));
    }
}

/// A length of time (GEP-2257), which is not nothing.
pub(super) fn time(errors: &mut Errors, path: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    let good = text.parse::<Duration>().is_ok_and(|time| time.as_nanos() > 0);
    errors.check(good, path, || format!("{text:?} is not a duration such as 10s or 1m30s, longer than nothing"));
}

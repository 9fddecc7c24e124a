//! The health checks of TrafficPolicies.

use gateway_api::Duration;

use super::{Errors, traffic::time};
use crate::source::crd::health::{HealthCheck, HttpCheck};

/// The shortest time from one check to the next, and for one, in nanoseconds.
const SHORTEST: u128 = 10_000_000;
/// The longest path, in bytes, and the most statuses.
const MOST: (usize, usize) = (1024, 16);

pub(super) fn check(check: &HealthCheck, errors: &mut Errors) {
    let path = "spec.healthCheck";
    let given = [check.http.is_some(), check.grpc.is_some(), check.tcp.is_some()].into_iter().filter(|given| *given).count();
    errors.check(given == 1, path, || format!("just one of http, grpc and tcp is to be given, not {given}"));
    if let Some(check) = &check.http {
        http(check, errors);
    }
    for (field, text) in [("interval", &check.interval), ("timeout", &check.timeout)] {
        time(errors, &format!("{path}.{field}"), text.as_deref());
        let short = text.as_deref().and_then(|text| text.parse::<Duration>().ok()).is_some_and(|time| time.as_nanos() < SHORTEST);
        errors.check(!short, &format!("{path}.{field}"), || "must be at least 10ms".into());
    }
    for (field, threshold) in [("unhealthyThreshold", check.unhealthy_threshold), ("healthyThreshold", check.healthy_threshold)] {
        errors.check(threshold != Some(0), &format!("{path}.{field}"), || "must be at least 1".into());
    }
}

fn http(check: &HttpCheck, errors: &mut Errors) {
    let path = "spec.healthCheck.http";
    let visible = check.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let good = check.path.starts_with('/') && visible && check.path.len() <= MOST.0;
    errors.check(good, &format!("{path}.path"), || {
        format!("{:?} is no path: it begins with / and has no blanks, and at most {} bytes", check.path, MOST.0)
    });
    if let Some(host) = &check.host {
        let good = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
        errors.check(good, &format!("{path}.host"), || format!("{host:?} is no host, with or without a port"));
    }
    errors.at_most(MOST.1, &format!("{path}.expectedStatuses"), check.expected_statuses.len());
    for status in &check.expected_statuses {
        errors.check((100..600).contains(status), &format!("{path}.expectedStatuses"), || format!("{status} is no status"));
    }
}

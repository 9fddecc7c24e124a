//! When requests are sent again (`envoy.config.route.v3.RetryPolicy`), and how many there may be at once.

use std::{mem::take, time::Duration};

use ambit_api::envoy::pb::envoy::config::{
    cluster::v3::{
        CircuitBreakers,
        circuit_breakers::{Thresholds, thresholds::RetryBudget as Share},
    },
    route::v3 as pb,
};
use ambit_model::{
    balance::Limits,
    route::{RetryBudget, RetryOn, RetryPolicy},
};

use super::read::{Compiled, Problem, Under, duration, finish, number, required};

/// Envoy's default wait before the first retry, and how many times as long the longest is.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST: u32 = 10;
/// Envoy's default of how many in a hundred requests under way may be there for another time.
const PERCENT: f64 = 20.0;

/// A policy.
pub fn policy(mut policy: pb::RetryPolicy) -> Compiled<RetryPolicy> {
    let on = conditions(&take(&mut policy.retry_on)).under("retry_on")?;
    let statuses = take(&mut policy.retriable_status_codes)
        .into_iter()
        .map(|code| u16::try_from(code).map_err(|_| Problem::new(format!("{code} is not a status"))))
        .collect::<Compiled<_>>()
        .under("retriable_status_codes")?;
    let retries = number(policy.num_retries.take()).unwrap_or(1);
    let per_try = policy.per_try_timeout.take().map(duration).transpose().under("per_try_timeout")?.filter(|t| !t.is_zero());
    let (mut backoff, mut longest) = (BACKOFF, None);
    if let Some(mut said) = policy.retry_back_off.take() {
        backoff = required(said.base_interval.take(), "base_interval").and_then(duration).under("retry_back_off")?;
        longest = said.max_interval.take().map(duration).transpose().under("retry_back_off")?;
        finish(&said).under("retry_back_off")?;
    }
    finish(&policy)?;
    let max_backoff = longest.unwrap_or(backoff.saturating_mul(LONGEST));
    Ok(RetryPolicy { on, statuses, retries, per_try, backoff, max_backoff })
}

fn conditions(text: &str) -> Compiled<RetryOn> {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let flag = match word {
            "connect-failure" => &mut on.unreached,
            "refused-stream" => &mut on.refused,
            "reset-before-request" => &mut on.reset_before_request,
            "reset" => &mut on.reset,
            "5xx" => &mut on.server_errors,
            "gateway-error" => &mut on.gateway_errors,
            "retriable-4xx" => &mut on.conflicts,
            "retriable-status-codes" => &mut on.statuses,
            // Envoy's of `x-envoy-retry-grpc-on`, which it takes in the same list.
            "cancelled" => &mut on.calls.cancelled,
            "deadline-exceeded" => &mut on.calls.deadline_exceeded,
            "internal" => &mut on.calls.internal,
            "resource-exhausted" => &mut on.calls.resource_exhausted,
            "unavailable" => &mut on.calls.unavailable,
            other => return Err(Problem::new(format!("{other} is not implemented"))),
        };
        *flag = true;
    }
    Ok(on)
}

/// How many retries, and how much of everything else, a cluster bears at once; all requests have the one priority.
pub fn thresholds(breakers: Option<CircuitBreakers>) -> Compiled<(RetryBudget, Limits)> {
    let mut found = Default::default();
    let Some(mut breakers) = breakers else { return Ok(found) };
    for threshold in take(&mut breakers.thresholds) {
        found = self::threshold(threshold).under("thresholds")?;
    }
    finish(&breakers)?;
    Ok(found)
}

fn threshold(mut threshold: Thresholds) -> Compiled<(RetryBudget, Limits)> {
    let most = number(threshold.max_retries.take());
    let share = threshold.retry_budget.take();
    let or = Limits::default();
    let limits = Limits {
        connections: number(threshold.max_connections.take()).unwrap_or(or.connections),
        pending: number(threshold.max_pending_requests.take()).unwrap_or(or.pending),
        requests: number(threshold.max_requests.take()).unwrap_or(or.requests),
    };
    // What Envoy's own statistics show.
    threshold.track_remaining = false;
    finish(&threshold)?;
    let budget = match share {
        Some(share) => self::share(share).under("retry_budget")?,
        None => most.map_or_else(RetryBudget::default, RetryBudget::Count),
    };
    Ok((budget, limits))
}

fn share(mut said: Share) -> Compiled<RetryBudget> {
    let percent = match said.budget_percent.take() {
        None => PERCENT,
        Some(percent) if (0.0..=100.0).contains(&percent.value) => percent.value,
        Some(percent) => return Err(Problem::new(format!("{} is no percentage", percent.value)).under("budget_percent")),
    };
    let least = number(said.min_retry_concurrency.take());
    finish(&said)?;
    Ok(RetryBudget::Share { percent, least })
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::{envoy::r#type::v3::Percent, google::protobuf::Duration as Time};
    use ambit_model::route::CallStatuses;

    use super::*;

    #[test]
    fn a_budget_is_a_percentage_and_what_else_is_said_of_it_is_refused_by_name() {
        let of = |value: f64| Share { budget_percent: Some(Percent { value }), ..Share::default() };
        assert_eq!(share(Share::default()), Ok(RetryBudget::Share { percent: 20.0, least: None }));
        for percent in [0.0, 12.5, 100.0] {
            assert_eq!(share(of(percent)), Ok(RetryBudget::Share { percent, least: None }));
        }
        for percent in [-0.5, 100.5, f64::INFINITY, f64::NAN] {
            let problem = share(of(percent)).unwrap_err().to_string();
            assert_eq!(problem, format!("budget_percent: {percent} is no percentage"));
        }
        let over_time = Share { budget_interval: Some(Time { seconds: 1, nanos: 0 }), ..of(20.0) };
        assert_eq!(share(over_time), Err(Problem::new("budget_interval is not implemented")));
    }

    #[test]
    fn each_condition_is_read_by_its_name_and_what_is_not_known_is_refused_by_its_own() {
        let (none, no) = (RetryOn::default(), CallStatuses::default());
        let of_calls = |calls| RetryOn { calls, ..none };
        for (word, expected) in [
            ("", none),
            ("connect-failure", RetryOn { unreached: true, ..none }),
            ("refused-stream", RetryOn { refused: true, ..none }),
            ("reset-before-request", RetryOn { reset_before_request: true, ..none }),
            ("reset", RetryOn { reset: true, ..none }),
            ("5xx", RetryOn { server_errors: true, ..none }),
            ("gateway-error", RetryOn { gateway_errors: true, ..none }),
            ("retriable-4xx", RetryOn { conflicts: true, ..none }),
            ("retriable-status-codes", RetryOn { statuses: true, ..none }),
            ("cancelled", of_calls(CallStatuses { cancelled: true, ..no })),
            ("deadline-exceeded", of_calls(CallStatuses { deadline_exceeded: true, ..no })),
            ("internal", of_calls(CallStatuses { internal: true, ..no })),
            ("resource-exhausted", of_calls(CallStatuses { resource_exhausted: true, ..no })),
            ("unavailable", of_calls(CallStatuses { unavailable: true, ..no })),
            (" cancelled, ,unavailable", of_calls(CallStatuses { cancelled: true, unavailable: true, ..no })),
        ] {
            assert_eq!(conditions(word), Ok(expected), "{word}");
        }
        for word in ["retriable-headers", "envoy-ratelimited", "http3-post-connect-failure", "Unavailable", "14"] {
            let said = conditions(&format!("5xx,{word}"));
            assert_eq!(said, Err(Problem::new(format!("{word} is not implemented"))));
        }
    }
}

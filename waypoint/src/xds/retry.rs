//! When requests are sent again (`envoy.config.route.v3.RetryPolicy`), and how many there may be at once.

use std::{mem::take, time::Duration};

use ambit_api::envoy::pb::envoy::config::{
    cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
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
        Some(share) => RetryBudget::Share {
            // Envoy's default.
            percent: share.budget_percent.map_or(20.0, |percent| percent.value),
            least: number(share.min_retry_concurrency),
        },
        None => most.map_or_else(RetryBudget::default, RetryBudget::Count),
    };
    Ok((budget, limits))
}

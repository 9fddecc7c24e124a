//! When what a VirtualService routes is sent again.

use ambit_api::envoy::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use ambit_api::envoy::pb::envoy::config::route::v3::{RetryPolicy, Route, route::Action};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::super::wire::{duration, header_is, matches, regex, u32_value};
use super::retry::{REPEATABLE, UNSEEN};
use super::writes;
use crate::source::crd::destination::as_time;
use crate::source::crd::virtual_service::{HttpMatch, HttpRule, Retries};
use crate::source::{NamespacedName, RetryOn};

/// A route as the routes that send again what may be sent again, the first that applies first. Methods that may not arrive twice are sent again
/// only where the endpoint has seen nothing, whatever is asked for, unless `by` says otherwise, a RequestPolicy. So are calls, which are all POST:
/// that a call was answered with `UNAVAILABLE` does not say that nothing of it was done.
pub fn again(rule: &HttpRule, said: &HttpMatch, mut route: Route, by: Option<&NamespacedName>) -> Vec<Route> {
    let retries = rule.retries.as_ref().filter(|retries| retries.attempts > 0);
    let (Some(retries), Some(Action::Route(action))) = (retries, &mut route.action) else { return vec![route] };
    let on = RetryOn::of(retries);
    if on.is_empty() {
        action.retry_policy = of_one_try(retries);
        return vec![route];
    }
    let method = said.method.as_ref().and_then(|method| method.exact.as_deref());
    let repeatable = method.is_some_and(|method| REPEATABLE.split('|').any(|known| known == method));
    let by = by.filter(|_| !repeatable);
    action.retry_policy = Some(policy(retries, &on, repeatable || by.is_some()));
    if let Some(by) = by {
        writes::say(&mut route, by);
    }
    if by.is_some() || method.is_some() {
        return vec![route];
    }
    let mut again = route.clone();
    if let (Some(condition), Some(Action::Route(action))) = (&mut again.r#match, &mut again.action) {
        action.retry_policy = Some(policy(retries, &on, true));
        condition.headers.push(header_is(":method", matches(MatchPattern::SafeRegex(regex(REPEATABLE)))));
    }
    vec![again, route]
}

/// For what is asked for nothing that is known: the time of a try holds all the same, for the only one.
fn of_one_try(retries: &Retries) -> Option<RetryPolicy> {
    let limit = retries.per_try_timeout.as_deref().and_then(as_time)?;
    Some(RetryPolicy { num_retries: u32_value(0), per_try_timeout: duration(limit), ..Default::default() })
}

fn policy(retries: &Retries, on: &RetryOn<'_>, repeatable: bool) -> RetryPolicy {
    let mut conditions = on.conditions.clone();
    if !on.statuses.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let time = |text: &Option<String>| text.as_deref().and_then(as_time);
    RetryPolicy {
        retry_on: if repeatable { conditions.join(",") } else { UNSEEN.to_owned() },
        num_retries: u32_value(u32::try_from(retries.attempts).unwrap_or(0)),
        per_try_timeout: time(&retries.per_try_timeout).and_then(duration),
        retriable_status_codes: if repeatable { on.statuses.clone() } else { Vec::new() },
        retry_back_off: time(&retries.backoff).map(|base| RetryBackOff { base_interval: duration(base), ..Default::default() }),
        ..Default::default()
    }
}

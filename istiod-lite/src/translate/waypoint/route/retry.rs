//! When requests are sent again.
//!
//! A request that changes something each time it arrives (RFC 9110, section 9.2.2) is sent again only while nothing of it was sent, and
//! Envoy's policies know no methods. So a rule with a retry becomes two routes where its match names no method. Where a RequestPolicy says
//! that such requests may arrive twice, it is one.

use ambit_api::envoy::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use ambit_api::envoy::pb::envoy::config::route::v3::{RetryPolicy, Route, route::Action};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use gateway_api::experimental::httproutes::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesMethod, HttpRouteRulesRetry,
};

use super::super::wire::{duration, header_is, matches, regex, u32_value};
use super::action::parse_duration;
use super::writes;
use crate::source::NamespacedName;

/// Methods that may arrive twice.
pub const REPEATABLE: &str = "GET|HEAD|OPTIONS|PUT|DELETE|TRACE";
/// Retries where the number is not said.
const ATTEMPTS: u32 = 1;
/// Nothing of the request has been seen by the service.
pub const UNSEEN: &str = "connect-failure,refused-stream,reset-before-request";
/// There was no response, in the time of the try or at all.
const UNANSWERED: &str = "connect-failure,refused-stream,reset";

/// What a rule says of retries, if it wants any.
pub fn wanted(rule: &HttpRouteRules) -> Option<&HttpRouteRulesRetry> {
    rule.retry.as_ref().filter(|retry| retry.attempts.is_none_or(|attempts| attempts > 0))
}

/// A rule's route for one of its matches as the routes that send again what may be sent again, the first that applies first. `by` is the policy
/// that lets it be sent again whatever its method is, if there is one.
pub fn routes(
    rule: &HttpRouteRules,
    condition: &HttpRouteRulesMatches,
    mut route: Route,
    by: Option<&NamespacedName>,
) -> Vec<Route> {
    let (Some(retry), Some(Action::Route(action))) = (wanted(rule), &mut route.action) else { return vec![route] };
    let repeatable = condition.method.as_ref().map(|method| {
        !matches!(
            method,
            HttpRouteRulesMatchesMethod::Post | HttpRouteRulesMatchesMethod::Patch | HttpRouteRulesMatchesMethod::Connect
        )
    });
    let by = by.filter(|_| repeatable != Some(true));
    action.retry_policy = Some(policy(rule, retry, by.is_some() || repeatable == Some(true)));
    if let Some(by) = by {
        writes::say(&mut route, by);
    }
    if by.is_some() || repeatable.is_some() {
        return vec![route];
    }
    let mut again = route.clone();
    if let (Some(condition), Some(Action::Route(action))) = (&mut again.r#match, &mut again.action) {
        condition.headers.push(header_is(":method", matches(MatchPattern::SafeRegex(regex(REPEATABLE)))));
        action.retry_policy = Some(policy(rule, retry, true));
    }
    vec![again, route]
}

fn policy(rule: &HttpRouteRules, retry: &HttpRouteRulesRetry, repeatable: bool) -> RetryPolicy {
    let codes: Vec<u32> = retry.codes.iter().flatten().filter_map(|code| u32::try_from(*code).ok()).collect();
    let retry_on = match (repeatable, codes.is_empty()) {
        (false, _) => UNSEEN.to_owned(),
        (true, true) => UNANSWERED.to_owned(),
        (true, false) => format!("{UNANSWERED},retriable-status-codes"),
    };
    let time = |text: Option<&String>| text.and_then(|text| parse_duration(text)).filter(|time| !time.is_zero());
    let per_try = rule.timeouts.as_ref().and_then(|timeouts| time(timeouts.backend_request.as_ref()));
    let backoff = time(retry.backoff.as_ref());
    RetryPolicy {
        retry_on,
        num_retries: u32_value(retry.attempts.map_or(ATTEMPTS, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX))),
        per_try_timeout: per_try.and_then(duration),
        retriable_status_codes: if repeatable { codes } else { Vec::new() },
        retry_back_off: backoff.map(|base| RetryBackOff { base_interval: duration(base), ..Default::default() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::translate::waypoint::route::action::to_cluster;

    /// The routes of a rule with one match: the methods each is for, and its policy.
    fn of(rule: &str) -> Vec<(Vec<String>, Option<RetryPolicy>)> {
        by(rule, None)
    }

    /// The same where this RequestPolicy has writes sent again.
    fn by(rule: &str, policy: Option<&NamespacedName>) -> Vec<(Vec<String>, Option<RetryPolicy>)> {
        let rule: HttpRouteRules = serde_json::from_str(rule).unwrap();
        let condition = rule.matches.iter().flatten().next().cloned().unwrap_or_default();
        let action = Some(Action::Route(to_cluster("c".into())));
        let route = Route { action, r#match: Some(Default::default()), ..Default::default() };
        let shown = |route: Route| {
            let headers = route.r#match.unwrap().headers.into_iter().map(|header| header.name).collect();
            let Some(Action::Route(action)) = route.action else { panic!("no action") };
            (headers, action.retry_policy)
        };
        routes(&rule, &condition, route, policy).into_iter().map(shown).collect()
    }

    #[test]
    fn what_may_arrive_twice_has_a_route_of_its_own() {
        let both =
            of(r#"{"retry": {"attempts": 3, "codes": [500, 503], "backoff": "100ms"}, "timeouts": {"backendRequest": "1s"}}"#);
        let [(methods, Some(again)), (others, Some(unseen))] = both.as_slice() else { panic!("{both:?}") };
        assert_eq!((methods.as_slice(), others.len()), ([":method".to_owned()].as_slice(), 0));
        assert_eq!(again.retry_on, "connect-failure,refused-stream,reset,retriable-status-codes");
        assert_eq!(again.retriable_status_codes, [500, 503]);
        assert_eq!(unseen.retry_on, "connect-failure,refused-stream,reset-before-request");
        assert!(unseen.retriable_status_codes.is_empty(), "a response means that the request was seen");
        for policy in [again, unseen] {
            assert_eq!((policy.num_retries, policy.per_try_timeout), (u32_value(3), duration(Duration::from_secs(1))));
            let back_off = policy.retry_back_off.as_ref().unwrap();
            assert_eq!(back_off.base_interval, duration(Duration::from_millis(100)));
        }
    }

    #[test]
    fn a_match_that_names_its_method_has_one_route() {
        for (method, retry_on) in [("GET", UNANSWERED), ("PUT", UNANSWERED), ("POST", UNSEEN), ("PATCH", UNSEEN)] {
            let routes = of(&format!(r#"{{"matches": [{{"method": "{method}"}}], "retry": {{}}}}"#));
            let [(_, Some(policy))] = routes.as_slice() else { panic!("{method}: {routes:?}") };
            assert_eq!((policy.retry_on.as_str(), policy.num_retries), (retry_on, u32_value(1)), "{method}");
        }
    }

    #[test]
    fn where_writes_may_arrive_twice_there_is_one_route_for_all_methods() {
        let policy = NamespacedName::new("shop", "twice");
        for method in ["", r#""matches": [{"method": "POST"}], "#, r#""matches": [{"method": "GET"}], "#] {
            let routes = by(&format!(r#"{{{method}"retry": {{"attempts": 3, "codes": [503]}}}}"#), Some(&policy));
            let [(methods, Some(again))] = routes.as_slice() else { panic!("{method}: {routes:?}") };
            assert!(methods.is_empty(), "{method}: {methods:?}");
            assert_eq!(again.retry_on, "connect-failure,refused-stream,reset,retriable-status-codes", "{method}");
            assert_eq!(
                (again.retriable_status_codes.as_slice(), again.num_retries),
                ([503].as_slice(), u32_value(3)),
                "{method}"
            );
        }
        assert_eq!(by("{}", Some(&policy)), [(vec![], None)], "a policy does not ask for retries");
    }

    #[test]
    fn without_retries_there_is_no_policy() {
        assert_eq!(of("{}"), [(vec![], None)]);
        assert_eq!(of(r#"{"retry": {"attempts": 0, "codes": [500]}}"#), [(vec![], None)]);
    }
}

//! What is decided, in words.

use std::time::Duration;

use ambit_model::{
    explain::{Stage, Step, request::HostConsidered},
    route::{
        AdmissionSettings, Claim, Counted, HashPolicy, Hashed, HeaderMutations, RequestView, RetryBudget, RetryOn, RetryPolicy,
        Route, Session, StreamTimes,
    },
};
use http::{HeaderMap, HeaderName};

use crate::{
    compiled::HttpChain,
    http::{
        ahead::{fault_of, limit_of, policy_of},
        deadline::Deadline,
        sizes,
    },
    terminate::Tunnel,
};

/// How many virtual hosts that were not chosen are named, and routes that were not taken.
const NAMED: usize = 8;

/// What comes of what a request says of its session; `found` if the endpoint that it goes on with is there.
pub(super) fn session(session: &Session, claim: Claim, found: bool) -> String {
    let place = session.in_words();
    match (claim, found) {
        (Claim::Nothing, _) => {
            format!("it has no session yet: its answer begins one with the endpoint that gives it, by {place}")
        }
        (_, true) if session.strict => format!("its session decides: {place} names this endpoint, and no other is tried"),
        (_, true) => format!("its session decides: {place} names this endpoint, and others are tried only if it is not reached"),
        (_, false) => format!("{place} names no endpoint that takes requests: its answer begins another session"),
    }
}

/// What a request is hashed by, and what comes of it.
pub(super) fn hash(policies: &[HashPolicy], hashed: &Hashed) -> String {
    let by = policies.iter().map(HashPolicy::in_words).collect::<Vec<_>>().join(", ");
    match (hashed.hash, by.as_str(), hashed.cookies.is_empty()) {
        (_, "", _) => "its route says nothing to hash it by: it goes where chance leads".to_owned(),
        (None, by, _) => format!("it has nothing of what it would be hashed by ({by}): it goes where chance leads"),
        (Some(hash), by, true) => format!("its hash {hash:016x} decides, of {by}"),
        (Some(_), by, false) => {
            format!(
                "its hash decides, of {by}: its answer gives the client the cookie that it lacks, which depends on its connection"
            )
        }
    }
}

/// A name that may be empty.
pub(super) fn named(name: &str) -> &str {
    if name.is_empty() { "without a name" } else { name }
}

/// `step` with what was looked at as its grounds.
pub(super) fn considered(mut step: Step, table: Option<&str>, hosts: &[HostConsidered]) -> Step {
    let table = table.unwrap_or_default();
    for host in hosts.iter().filter(|host| !host.chosen).take(NAMED) {
        step = step.because(match &host.differs {
            Some(differs) => format!("the virtual host {} is not for it: {differs}", host.name),
            None => format!("the virtual host {} fits its host less exactly than another", host.name),
        });
    }
    let Some(chosen) = hosts.iter().find(|host| host.chosen) else {
        return if hosts.is_empty() { step } else { step.because(format!("no virtual host of {table} is for its host")) };
    };
    step = step.because(format!("the virtual host {} of {table} is for its host", chosen.name));
    let left = chosen.routes.iter().filter_map(|route| Some((route, route.differs.as_ref()?)));
    for (route, differs) in left.clone().take(NAMED) {
        step = step.because(format!("the route {} is not for it: {differs}", named(&route.name)));
    }
    if let more @ 1.. = left.count().saturating_sub(NAMED) {
        step = step.because(format!("{more} more routes are not for it (--json has them all)"));
    }
    match chosen.after {
        0 => step,
        after => step.because(format!("the first that matches counts: {after} after it are not looked at")),
    }
}

/// What is put in the way of the request before its route does anything with it. Nothing is drawn, and nothing is counted.
pub(super) fn ahead(http: &HttpChain, route: &Route, tunnel: &Tunnel, view: RequestView<'_>) -> Option<Step> {
    let fault = fault_of(http, route).filter(|fault| fault.concerns(&view, 0));
    let faults = fault.map(|fault| fault.in_words()).unwrap_or_default();
    let counted = counted(route, tunnel, view);
    let limits = limit_of(http, route).map(|limit| limit.in_words(&counted)).unwrap_or_default();
    let says = match (faults.is_empty(), limits.is_empty()) {
        (true, true) => return None,
        (false, true) => "a fault is put in its way",
        (true, false) => "a limit holds of how often requests may come",
        (false, false) => "a fault is put in its way, and a limit holds of how often requests may come",
    };
    let faults = faults.into_iter().map(|fault| format!("of such requests {fault}"));
    let limits = limits.into_iter().map(|limit| format!("they may come {limit}, and are refused beyond"));
    Some(faults.chain(limits).fold(Step::new(Stage::Policy, says), |step, ground| step.because(ground)))
}

/// How large it may be. Of a body whose length it does not say nothing is known here.
pub(super) fn sized(http: &HttpChain, route: &Route) -> Option<Step> {
    let limits = sizes::in_words(http, route);
    let step = Step::new(Stage::Policy, "a limit holds of how large requests may be");
    (!limits.is_empty()).then(|| limits.into_iter().fold(step, |step, limit| step.because(limit)))
}

/// How many requests are let in at once of what nothing has refused before, and nobody has answered.
pub(super) fn admitted(http: &HttpChain, view: RequestView<'_>) -> Option<Step> {
    let admission = http.admission.as_ref().filter(|admission| !admission.is_probe(&view))?;
    let AdmissionSettings { least, most, .. } = admission.settings;
    let now = admission.limit();
    let step = Step::new(Stage::Policy, "a limit holds of how many requests are let in at once");
    Some(step.because(format!("{now} such requests are let in at once by now, from {least} to {most} by how long they take")))
}

/// What a request is counted by.
fn counted<'a>(route: &'a Route, tunnel: &'a Tunnel, request: RequestView<'a>) -> Counted<'a> {
    let remote = Some(tunnel.peer.address.ip());
    Counted { request, peer: tunnel.peer.uri.as_deref(), metadata: &route.filters().metadata, remote }
}

/// The servers of limits that would be asked about the request.
pub(super) fn limiters(http: &HttpChain, route: &Route, tunnel: &Tunnel, view: RequestView<'_>) -> Vec<Step> {
    let counted = counted(route, tunnel, view);
    let asked = http.limiters.iter().filter_map(|limiter| {
        let descriptors = route.filters().global_limits.get(&*limiter.name)?.in_words(&counted, &limiter.domain);
        if descriptors.is_empty() {
            return None;
        }
        let says = format!("a rate limit server is asked whether it may be sent on, by the cluster {}", limiter.cluster);
        let step =
            descriptors.into_iter().fold(Step::new(Stage::Policy, says), |step, told| step.because(format!("it counts {told}")));
        let otherwise = if limiter.failure_mode_deny { "is refused" } else { "passes" };
        let step = step.because(format!("without an answer within {:?} the request {otherwise}", limiter.timeout));
        Some(step.because("what it answers is not known here; the rest holds if it lets the request pass as it is"))
    });
    asked.collect()
}

/// Who is told of it before its route does anything with it. What they would answer is not known here.
pub(super) fn processed(http: &HttpChain, route: &Route) -> Vec<Step> {
    let told = http.processors.iter().filter(|config| config.holds_for(route)).map(|config| {
        let says = format!("an external processor is told of it, by the cluster {}", config.cluster);
        let otherwise = if config.failure_mode_allow { "goes on" } else { "is refused" };
        let step = Step::new(Stage::Action, says);
        let step = step.because(format!("without an answer within {:?} the request {otherwise}", config.message_timeout));
        step.because("what it answers is not known here; the rest holds if it leaves the request as it is")
    });
    told.collect()
}

/// A time, or none.
fn limit(limit: Option<Duration>) -> String {
    match limit {
        Some(limit) => format!("the response must end within {limit:?} of the end of the request"),
        None => "no limit of time is set for the response".to_owned(),
    }
}

/// How long its answer may take, by its route and by who has sent it.
pub(super) fn due(due: &Deadline) -> Vec<String> {
    let mut words = vec![limit(due.route)];
    if let Some(expected) = due.expected {
        words.push(format!(
            "who has sent it on waits for {expected:?} after its end (x-envoy-expected-rq-timeout-ms): the shorter time holds"
        ));
    }
    if let Some(call) = due.call {
        words.push(format!(
            "its client waits for {call:?} after its beginning (grpc-timeout), and is then told DEADLINE_EXCEEDED"
        ));
    }
    if due.expected.is_some() || due.call.is_some() {
        words.push("its endpoint is told what is left of that at each try".to_owned());
    }
    words
}

/// How long its stream may be silent, and last; of a call whose client says how long it waits, that is said before.
pub(super) fn stream(times: &StreamTimes, due: &Deadline) -> Vec<String> {
    let idle = times.idle.map(|limit| format!("it ends when no byte has passed in either direction for {limit:?}"));
    let longest = times.longest_beside(due.call);
    let longest = longest.map(|limit| format!("it ends {limit:?} after its beginning, also in the middle of its response"));
    idle.into_iter().chain(longest).collect()
}

/// When a request is sent again.
pub(super) fn retries(policy: &RetryPolicy) -> String {
    let RetryPolicy { retries, per_try, backoff, max_backoff, .. } = policy;
    let per_try = per_try.map_or(String::new(), |limit| format!(", each try within {limit:?} to the head of its response"));
    let times = if *retries == 1 { "once".to_owned() } else { format!("up to {retries} times") };
    format!(
        "it is sent again {times} on {}{per_try}; between tries are at least {backoff:?}, doubled each time up to {max_backoff:?}",
        conditions(&policy.on, &policy.statuses).join(", ")
    )
}

/// That what may not arrive twice is sent again as well, where a policy of the control plane says so.
pub(super) fn writes(route: &Route) -> Option<String> {
    let (namespace, name) = policy_of(route, |kind| kind == "retries")?;
    Some(format!("writes too, also after an endpoint has seen them, by RequestPolicy {namespace}/{name}"))
}

/// Which policy has upgrades passed on that its chain would refuse, where the control plane says so.
pub(super) fn upgrades(route: &Route) -> Option<String> {
    let (namespace, name) = policy_of(route, |kind| kind == "upgrades")?;
    Some(format!(" by RequestPolicy {namespace}/{name}"))
}

fn conditions(on: &RetryOn, statuses: &[u16]) -> Vec<String> {
    let named = [
        (on.unreached, "connect-failure"),
        (on.refused, "refused-stream"),
        (on.reset_before_request, "reset-before-request"),
        (on.reset, "reset"),
        (on.server_errors, "5xx"),
        (on.gateway_errors, "gateway-error"),
        (on.conflicts, "retriable-4xx"),
    ];
    let mut conditions: Vec<String> = named.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect();
    conditions.extend(on.calls.each().iter().filter(|(on, ..)| *on).map(|(_, name, _)| (*name).to_owned()));
    if on.statuses {
        conditions.extend(statuses.iter().map(u16::to_string));
    }
    if conditions.is_empty() {
        conditions.push("nothing".to_owned());
    }
    conditions
}

/// How many requests to a cluster may be sent again at once.
pub(super) fn budget(budget: &RetryBudget) -> String {
    match budget {
        RetryBudget::Count(count) => format!("at most {count} of its requests are sent again at once"),
        RetryBudget::Share { percent, least } => {
            format!(
                "at most {percent}% of its requests are sent again at once, and {} in any case; over time, {}% of those that go well",
                least.unwrap_or(RetryBudget::LEAST),
                percent / 4.0
            )
        }
    }
}

/// What became of header fields.
pub(super) fn changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let values = |map: &HeaderMap, name: &HeaderName| -> Vec<String> {
        map.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let removed = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("the header {name} is removed"));
    let set = after.keys().filter_map(|name| {
        let now = values(after, name);
        (now != values(before, name)).then(|| format!("the header {name} becomes {:?}", now.join(", ")))
    });
    removed.chain(set).collect()
}

/// Changes of header fields that are not there yet.
pub(super) fn to_response<'a>(changes: impl Iterator<Item = &'a HeaderMutations>) -> Option<String> {
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for change in changes {
        removed.extend(change.remove.iter().map(|name| name.as_str().to_owned()));
        set.extend(change.set.iter().map(|option| option.name.as_str().to_owned()));
    }
    let mut parts = Vec::new();
    if !set.is_empty() {
        parts.push(format!("sets {}", set.join(", ")));
    }
    if !removed.is_empty() {
        parts.push(format!("removes {}", removed.join(", ")));
    }
    (!parts.is_empty()).then(|| format!("of its response it {}", parts.join(" and ")))
}

#[cfg(test)]
mod tests {
    use ambit_model::route::Carrier;

    use super::*;

    #[test]
    fn of_a_strict_session_no_other_endpoint_is_told() {
        for (strict, others) in [(false, true), (true, false)] {
            let says = session(&Session { carrier: Carrier::Header("x-session".into()), strict }, Claim::Nonsense, true);
            assert_eq!((says.contains("others are tried"), says.contains("no other is tried")), (others, strict), "{says}");
        }
    }
}

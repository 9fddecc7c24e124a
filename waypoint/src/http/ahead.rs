//! What a request meets between authorization and what its route does with it: faults that are put in its way, and limits of how often
//! requests may come. How many are let in at once is looked at after that, and after all who are asked (`admission`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_model::{
    Reason, Refusal,
    policy::PolicyKey,
    route::{Abort, Counted, Fault, LocalLimit, RequestView, Route, Taken},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    ResponseBody,
    answer::{self, Style},
    forward::head,
    select::Target,
    serve::view,
};
use crate::{compiled::HttpChain, observe::Record, terminate::Tunnel};

/// Envoy's text of an answer to what comes too often.
const LIMITED: &str = "local_rate_limited";
/// Under which name routes say by which policies of the control plane they do so.
const POLICIES: &str = "ambit.dev";

/// What the response of a request that may pass tells of its limit.
#[derive(Debug)]
pub struct Left(Taken);

impl Left {
    /// Adds the headers (`draft-polli-ratelimit-headers-03`).
    pub fn tell(&self, headers: &mut HeaderMap) {
        let now = Instant::now();
        let bucket = &self.0.bucket;
        for (name, value) in [
            ("x-ratelimit-limit", u64::from(bucket.filling().most)),
            ("x-ratelimit-remaining", u64::from(bucket.remaining(now))),
            ("x-ratelimit-reset", whole_seconds(bucket.wait(now))),
        ] {
            headers.append(name, HeaderValue::from(value));
        }
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Lets the request meet all of it.
///
/// # Errors
/// With what it is answered, if it comes no further.
pub async fn meet(
    http: &HttpChain,
    route: &Route,
    tunnel: &Tunnel,
    (request, target): (&mut Request<Incoming>, &Target),
    style: Style,
    record: &mut Record,
) -> Result<Option<Left>, Box<Response<ResponseBody>>> {
    let (delay, abort) = fault(http, route, &view(request, target), record);
    if let Some(delay) = delay {
        record.delayed = true;
        // Few wait, and those who do not shall not have the room for it.
        Box::pin(tokio::time::sleep(delay)).await;
    }
    if let Some(abort) = abort {
        let status = StatusCode::from_u16(abort.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let refusal = by_policy(Refusal::new(Reason::FaultInjected, ""), route, |kind| kind == "fault");
        record.refused(&refusal);
        let headers = crate::terminate::reason_headers(&refusal);
        return Err(Box::new(answer::plain(record, style, status, abort.body.clone(), headers)));
    }
    match limit_of(http, route) {
        Some(limit) => count(limit, route, tunnel, (request, target), style, record),
        None => Ok(None),
    }
}

/// The limit that holds for requests of a route.
pub fn limit_of<'a>(http: &'a HttpChain, route: &'a Route) -> Option<&'a Arc<LocalLimit>> {
    let otherwise = http.limits.as_ref()?;
    route.filters().limit.as_ref().or(otherwise.as_ref())
}

/// The fault that is put in the way of requests of a route.
pub fn fault_of<'a>(http: &'a HttpChain, route: &'a Route) -> Option<&'a Arc<Fault>> {
    http.faults.as_ref().map(|faults| route.filters().fault.as_ref().unwrap_or(&faults.otherwise))
}

/// How long a request is to wait, and what it is answered then.
fn fault<'a>(
    http: &'a HttpChain,
    route: &'a Route,
    request: &RequestView<'_>,
    record: &mut Record,
) -> (Option<Duration>, Option<&'a Abort>) {
    let (Some(faults), Some(fault)) = (&http.faults, fault_of(http, route)) else { return (None, None) };
    if !fault.concerns(request, faults.active()) {
        return (None, None);
    }
    let (delay, abort) = (fault.delays(fastrand::u64(..)), fault.aborts(fastrand::u64(..)));
    if delay.is_some() || abort.is_some() {
        record.suffering = Some(faults.suffers());
    }
    (delay, abort)
}

fn count(
    limit: &LocalLimit,
    route: &Route,
    tunnel: &Tunnel,
    (request, target): (&mut Request<Incoming>, &Target),
    style: Style,
    record: &mut Record,
) -> Result<Option<Left>, Box<Response<ResponseBody>>> {
    let settings = &limit.settings;
    if !settings.enabled.takes(fastrand::u64(..)) {
        return Ok(None);
    }
    let peer = tunnel.peer.uri.as_deref();
    let remote = Some(tunnel.peer.address.ip());
    let counted = Counted { request: view(request, target), peer, metadata: &route.filters().metadata, remote };
    let taken = limit.take(&counted, Instant::now());
    if taken.allowed {
        return Ok(settings.tells.then_some(Left(taken)));
    }
    if !settings.enforced.takes(fastrand::u64(..)) {
        if !settings.passed.is_empty() {
            let before = head(request);
            settings.passed.apply(request.headers_mut(), &view(&before, target), peer);
        }
        return Ok(settings.tells.then_some(Left(taken)));
    }
    let detail = format!("{} are allowed", taken.bucket.filling().in_words());
    let refusal = by_policy(Refusal::new(Reason::RateLimited, detail), route, |kind| kind.starts_with("limit"));
    record.refused(&refusal);
    let mut headers = crate::terminate::reason_headers(&refusal);
    settings.refused.apply(&mut headers, &view(request, target), peer);
    if settings.tells_when && settings.status == 429 && !headers.contains_key(header::RETRY_AFTER) {
        let seconds = whole_seconds(taken.bucket.wait(Instant::now())).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let status = StatusCode::from_u16(settings.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut response = answer::plain(record, style, status, LIMITED.to_owned(), headers);
    if style.grpc && settings.exhausted {
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("8"));
    }
    if settings.tells {
        Left(taken).tell(response.headers_mut());
    }
    Err(Box::new(response))
}

/// The policy that a route names for something of this kind, its namespace and its name, if the control plane says so.
pub fn policy_of(route: &Route, of: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let said = route.filters().metadata.get(POLICIES)?.as_object()?;
    said.iter().find(|(kind, _)| of(kind)).and_then(|(_, name)| name.as_str()?.split_once('/'))
}

/// The refusal with the policy that the route names for it, if the control plane says so.
pub fn by_policy(refusal: Refusal, route: &Route, of: impl Fn(&str) -> bool) -> Refusal {
    match policy_of(route, of) {
        Some((namespace, name)) => refusal.by(PolicyKey::new(namespace, name), None),
        None => refusal,
    }
}

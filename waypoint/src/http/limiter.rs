//! Rate limit servers: asked about a request that nothing else refuses before it is sent on, each with what the one before has made of it.
//! Without an answer in time it passes, unless the configuration says otherwise: a limit guards what bears load, and authorizes nobody.

use std::borrow::Cow;

use ambit_api::envoy::pb::envoy::{
    config::core::v3::HeaderValue as Header,
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus},
    },
};
use ambit_model::{
    Reason, Refusal,
    route::{Action, Counted},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use metrics::counter;
use tokio::time::timeout;

use super::{
    ResponseBody,
    ahead::{self, Left, by_policy},
    answer,
    call::{Call, MOST_CHANGES, Question, grpc, is_of_the_connection},
    forward::Exchange,
    serve::view,
};
use crate::{compiled::Limiter, observe::Record};

/// Counts what became of questions, by `result`: `ok`, `over_limit`, `error`, and `failure_mode_allowed` for those that passed without an
/// answer.
const ASKED: &str = "ambit_rate_limit_requests_total";
/// What is called.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Envoy's header of what was too much.
const LIMITED: &str = "x-envoy-ratelimited";

type Headers = Vec<(HeaderName, HeaderValue)>;

/// What the response of a request tells that met all that is in its way.
#[derive(Debug)]
pub struct Met {
    left: Option<Left>,
    /// What servers have said of it.
    told: Headers,
}

impl Met {
    /// Adds the headers.
    pub fn tell(self, headers: &mut HeaderMap) {
        if let Some(left) = self.left {
            left.tell(headers);
        }
        add(headers, self.told);
    }
}

/// Lets a request meet the faults and limits that are there for it.
///
/// # Errors
/// With what it is answered, if it comes no further.
pub async fn meet(
    exchange: &Exchange,
    request: &mut Request<Incoming>,
    record: &mut Record,
) -> Result<Met, Box<Response<ResponseBody>>> {
    let Exchange { http, route, target, tunnel, style, .. } = exchange;
    let left = ahead::meet(http, route, tunnel, (&mut *request, target), *style, record).await?;
    let mut met = Met { left, told: Headers::new() };
    // What the waypoint answers itself bears no load on anybody (so does Envoy).
    if http.limiters.is_empty() || route.filters().global_limits.is_empty() || !matches!(route.action, Action::Forward(_)) {
        return Ok(met);
    }
    match Box::pin(ask(exchange, request, record, &mut met.told)).await {
        Ok(()) => Ok(met),
        Err(mut refused) => {
            met.tell(refused.headers_mut());
            Err(refused)
        }
    }
}

/// Asks all servers that are to be asked. What they have the response told comes to `told`.
async fn ask(
    exchange: &Exchange,
    request: &mut Request<Incoming>,
    record: &mut Record,
    told: &mut Headers,
) -> Result<(), Box<Response<ResponseBody>>> {
    let Exchange { proxy, snapshot, tunnel, http, route, .. } = exchange;
    for limiter in &http.limiters {
        let Some(question) = question(limiter, exchange, request) else { continue };
        if let Some(beside) = &record.beside {
            beside.asks("rate limit server", &limiter.cluster);
        }
        let call = Call { proxy, snapshot, tunnel, cluster: &limiter.cluster };
        let answer = timeout(limiter.timeout, call.send(question, Version::HTTP_2)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", limiter.timeout)));
        let result = match answer.and_then(|answer| Said::of(grpc::message(&answer)?)) {
            Ok(said) if said.over => {
                counter!(ASKED, "result" => "over_limit").increment(1);
                return Err(Box::new(over(limiter, exchange, request, said, record)));
            }
            Ok(said) => {
                add(request.headers_mut(), said.request);
                told.extend(said.response);
                "ok"
            }
            Err(text) if limiter.failure_mode_deny => {
                counter!(ASKED, "result" => "error").increment(1);
                let text = format!("cluster {}: {text}", limiter.cluster);
                let refusal = by_policy(Refusal::new(Reason::RateLimitError, text), route, |kind| kind == "global");
                record.refused(&refusal);
                let headers = crate::terminate::reason_headers(&refusal);
                return Err(Box::new(answer::plain(record, exchange.style, limiter.status_on_error, Bytes::new(), headers)));
            }
            Err(failure) => {
                tracing::debug!(cluster = %limiter.cluster, failure, "a request passes without an answer");
                "failure_mode_allowed"
            }
        };
        counter!(ASKED, "result" => result).increment(1);
    }
    Ok(())
}

/// What a server is asked about a request; nothing where the route says nothing for it, or the request has none of what it says.
fn question(limiter: &Limiter, exchange: &Exchange, request: &Request<Incoming>) -> Option<Question> {
    let Exchange { route, target, tunnel, .. } = exchange;
    let limit = route.filters().global_limits.get(&*limiter.name)?;
    let peer = tunnel.peer.uri.as_deref();
    let remote = Some(tunnel.peer.address.ip());
    let descriptors = limit.of(&Counted { request: view(request, target), peer, metadata: &route.filters().metadata, remote });
    if descriptors.is_empty() {
        return None;
    }
    let entry = |(key, value): (&str, Cow<'_, str>)| Entry { key: key.to_owned(), value: value.into_owned() };
    let descriptor = |entries: Vec<(&str, Cow<'_, str>)>| RateLimitDescriptor {
        entries: entries.into_iter().map(entry).collect(),
        ..Default::default()
    };
    let asked = RateLimitRequest {
        domain: limit.domain.as_ref().unwrap_or(&limiter.domain).clone(),
        descriptors: descriptors.into_iter().map(descriptor).collect(),
        // Which is one (so does Envoy).
        hits_addend: 0,
    };
    Some(grpc::question(&asked, SHOULD_RATE_LIMIT, &limiter.authority))
}

/// What a server says.
#[derive(Debug, PartialEq)]
struct Said {
    /// The request is one too many.
    over: bool,
    /// In so many seconds there may be room again.
    wait: Option<u64>,
    /// Headers that are added to the request.
    request: Headers,
    /// Headers that are added to its response.
    response: Headers,
    /// The body of a refusal.
    body: Bytes,
}

impl Said {
    fn of(message: RateLimitResponse) -> Result<Self, String> {
        let (request, response) = (message.request_headers_to_add, message.response_headers_to_add);
        if request.len().max(response.len()) > MOST_CHANGES {
            return Err(format!("it has more than {MOST_CHANGES} headers added"));
        }
        let over = |code: i32| code == i32::from(Code::OverLimit);
        let wait = message.statuses.iter().filter(|status| over(status.code)).map(seconds).max();
        Ok(Self {
            over: over(message.overall_code),
            wait,
            request: headers(request),
            response: headers(response),
            body: message.raw_body.into(),
        })
    }
}

/// Until a limit begins anew, at least one.
fn seconds(status: &DescriptorStatus) -> u64 {
    let whole = |time: &ambit_api::envoy::pb::google::protobuf::Duration| u64::try_from(time.seconds).unwrap_or(0);
    status.duration_until_reset.as_ref().map_or(0, whole).max(1)
}

/// What can be headers of something that goes on. What is about a connection, or how a body comes on it, is not the server's to say.
fn headers(said: Vec<Header>) -> Headers {
    let read = |header: Header| {
        let name = header.key.parse::<HeaderName>().ok()?;
        Some((name, HeaderValue::from_bytes(header.value.as_bytes()).ok()?))
    };
    said.into_iter().filter_map(read).filter(|(name, _)| !is_of_the_connection(name)).collect()
}

fn add(headers: &mut HeaderMap, more: Headers) {
    for (name, value) in more {
        headers.append(name, value);
    }
}

/// The answer to a request that is one too many.
fn over(
    limiter: &Limiter,
    exchange: &Exchange,
    request: &Request<Incoming>,
    said: Said,
    record: &mut Record,
) -> Response<ResponseBody> {
    let Exchange { route, target, tunnel, style, .. } = exchange;
    let refusal = Refusal::new(Reason::RateLimited, format!("cluster {} says so", limiter.cluster));
    let refusal = by_policy(refusal, route, |kind| kind == "global");
    record.refused(&refusal);
    let reasons = crate::terminate::reason_headers(&refusal);
    let mut response = answer::plain(record, *style, limiter.status, said.body, reasons);
    let headers = response.headers_mut();
    if style.grpc && limiter.exhausted {
        headers.insert("grpc-status", HeaderValue::from_static("8"));
    }
    dress(headers, limiter, said.response, said.wait);
    limiter.refused.apply(headers, &view(request, target), tunnel.peer.uri.as_deref());
    response
}

/// The headers of such an answer: those that the server says, in place of our own where it says what the body is.
fn dress(headers: &mut HeaderMap, limiter: &Limiter, said: Headers, wait: Option<u64>) {
    let of_body = said.iter().any(|(name, value)| *name == header::CONTENT_TYPE && !value.is_empty());
    if of_body {
        headers.remove(header::CONTENT_TYPE);
    }
    add(headers, said);
    if limiter.tells {
        headers.insert(LIMITED, HeaderValue::from_static("true"));
    }
    if let Some(wait) = wait
        && limiter.tells_when
        && limiter.status == StatusCode::TOO_MANY_REQUESTS
        && !headers.contains_key(header::RETRY_AFTER)
    {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
}

#[cfg(test)]
mod tests;

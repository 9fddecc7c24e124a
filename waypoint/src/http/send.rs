//! One try of a request: the endpoints in turn until one has it.

use std::time::Duration;

use ambit_model::{Reason, Refusal, route::Ended};
use http::{Method, Request, StatusCode};
use http_body::Body as _;

use super::{forward::head, select::Refused};
use crate::{
    observe::Record,
    proxy::Proxy,
    upstream::{Candidates, Checkout, RequestBody, Sent, Unsent},
};

/// A try without a response.
pub struct Failure {
    /// What the client is answered, if it was the last one.
    pub refused: Refused,
    /// How it ended; `None` when another try would end no better.
    pub ended: Option<Ended>,
    /// The request, if nothing of it was sent.
    pub request: Option<Request<RequestBody>>,
}

/// Tries the candidates until one has the request. The next is tried only while no byte of the request was sent, or when the request
/// can be repeated and the connection at hand turned out to be closed.
pub async fn send(
    proxy: &Proxy,
    candidates: &Candidates,
    mut request: Request<RequestBody>,
    record: &mut Record,
    http2: bool,
) -> Result<Sent, Box<Failure>> {
    let repeatable = repeatable(&request);
    let mut last = Refusal::new(Reason::NoHealthyEndpoint, "");
    for (to, upstream) in &candidates.endpoints {
        record.upstream = Some(upstream.clone());
        let mut fresh = false;
        // Each round either returns, goes on to the next endpoint, or closes one connection at hand for good.
        loop {
            let checkout = match fresh {
                false => proxy.http.checkout(proxy, to, http2, candidates.connect_timeout).await,
                true => proxy.http.fresh(proxy, to, http2, candidates.connect_timeout).await,
            };
            let checkout = match checkout {
                Ok(checkout) => checkout,
                Err(refusal) if refusal.reason.is_policy() => {
                    let refused = (StatusCode::SERVICE_UNAVAILABLE, refusal);
                    return Err(Box::new(Failure { refused, ended: None, request: None }));
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "an endpoint is not reached");
                    last = refusal;
                    break;
                }
            };
            let reused = !matches!(checkout, Checkout::Http1(_, false));
            let again = (reused && !fresh && repeatable).then(|| head(&request));
            match proxy.http.send(to, checkout, request).await {
                Ok(sent) => return Ok(sent),
                Err(mut unsent) => match (unsent.request.take(), again) {
                    (Some(unsent), _) if reused && !fresh => {
                        request = unsent;
                        fresh = true;
                    }
                    (None, Some(head)) if record.sent() == 0 => {
                        request = head.map(|()| RequestBody::empty());
                        fresh = true;
                    }
                    (request, _) => return Err(failure(*unsent, request)),
                },
            }
        }
    }
    let refused = (StatusCode::SERVICE_UNAVAILABLE, last);
    Err(Box::new(Failure { refused, ended: Some(Ended::Unreached), request: Some(request) }))
}

fn failure(unsent: Unsent, request: Option<Request<RequestBody>>) -> Box<Failure> {
    let ended = match (&request, unsent.refused) {
        (Some(_), _) => Ended::BeforeRequest,
        (None, true) => Ended::Refused,
        (None, false) => Ended::Reset,
    };
    Box::new(Failure { refused: (StatusCode::SERVICE_UNAVAILABLE, unsent.refusal), ended: Some(ended), request })
}

/// A try whose time is over.
pub fn late(limit: Duration) -> Box<Failure> {
    let refusal = Refusal::new(Reason::RequestTimeout, format!("no response within {limit:?}"));
    Box::new(Failure { refused: (StatusCode::GATEWAY_TIMEOUT, refusal), ended: Some(Ended::TimedOut), request: None })
}

/// Whether a request may be sent once more although it may have arrived: it changes nothing, or no more a second time
/// (RFC 9110, section 9.2.2), and has no body.
fn repeatable(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
        && request.body().is_end_stream()
}

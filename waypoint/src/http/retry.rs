//! A request that is sent again when a try failed, as its route says.

use std::sync::Arc;

use ambit_model::route::{Ended, RetryPolicy};
use http::Request;

use super::{
    forward::head,
    select::Refused,
    send::{self, Failure},
};
use crate::{
    compiled::Cluster,
    observe::Record,
    proxy::Proxy,
    upstream::{Candidates, Kept, RequestBody, Sent},
};

/// Sends a request until a try ends as the policy accepts, or may not be followed by another one. `endpoints` chooses for each
/// further try.
pub async fn send(
    proxy: &Proxy,
    policy: &RetryPolicy,
    cluster: &Arc<Cluster>,
    mut candidates: Candidates,
    (request, kept): (Request<RequestBody>, &Kept),
    (record, http2): (&mut Record, bool),
    endpoints: impl Fn() -> Result<Candidates, Refused>,
) -> Result<Sent, Box<Failure>> {
    let first = head(&request);
    let _counted = cluster.retries.request();
    let mut next = request;
    // Held from the decision until it is known how the try ended.
    let mut place = None;
    let mut before = 0;
    loop {
        let mut outcome = one(proxy, policy, &candidates, next, record, http2).await;
        drop(place.take());
        let ended = match &outcome {
            Ok(sent) => Some(Ended::Status(sent.response.status().as_u16())),
            Err(failure) => failure.ended,
        };
        if before >= policy.retries || !ended.is_some_and(|ended| policy.asks_for_another(ended)) {
            return outcome;
        }
        let unsent = outcome.as_mut().err().and_then(|failure| failure.request.take());
        let Some(again) = unsent.map(Request::into_body).or_else(|| kept.again()) else { return outcome };
        place = cluster.retries.another(&cluster.retry_budget);
        if place.is_none() {
            return outcome;
        }
        // A response that nobody wants must not hold its connection through the wait.
        drop(outcome);
        tokio::time::sleep(policy.wait(before, fastrand::u64(..))).await;
        before += 1;
        candidates = endpoints().map_err(|refused| Box::new(Failure { refused, ended: None, request: None }))?;
        next = head(&first).map(|()| again);
    }
}

/// One try.
async fn one(
    proxy: &Proxy,
    policy: &RetryPolicy,
    candidates: &Candidates,
    request: Request<RequestBody>,
    record: &mut Record,
    http2: bool,
) -> Result<Sent, Box<Failure>> {
    let attempt = send::send(proxy, candidates, request, record, http2);
    match policy.per_try {
        None => attempt.await,
        Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(send::late(limit))),
    }
}

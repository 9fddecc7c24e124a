//! A request that is sent again when a try failed, as its route says.

use std::{net::SocketAddr, time::Instant};

use ambit_model::route::{Ended, RetryPolicy};
use http::Request;
use metrics::counter;

use super::{
    arrival::Arrival,
    deadline::Deadline,
    forward::head,
    select::Refused,
    send::{self, Failure, Sender},
};
use crate::{
    observe::{Given, RETRIES, Record},
    upstream::{Candidates, Kept, RequestBody, Sent},
};

/// Sends a request until a try ends as the policy accepts, or may not be followed by another one. `endpoints` chooses for each
/// further try, and is told which ones were tried before.
pub async fn send(
    sender: &mut Sender<'_>,
    policy: &RetryPolicy,
    mut candidates: Candidates,
    (request, kept): (Request<RequestBody>, &Kept),
    (record, arrival, due): (&mut Record, &Arrival, &Deadline),
    endpoints: impl Fn(&[SocketAddr]) -> Result<Candidates, Refused>,
) -> Result<Sent, Box<Failure>> {
    let (first, began) = (head(&request), Instant::now());
    let mut next = request;
    // Held from the decision until it is known how the try ended.
    let mut place = None;
    let mut before = 0;
    let mut tried = Vec::new();
    loop {
        let mut outcome = one(sender, policy, &candidates, next, record, arrival).await;
        drop(place.take());
        let ended = match &outcome {
            Ok(sent) => Some(Ended::answered(sent.response.status(), sent.response.headers())),
            Err(failure) => failure.ended,
        };
        let Some(ended) = ended.filter(|ended| policy.asks_for_another(*ended)) else {
            if outcome.is_ok() {
                sender.went_well();
            }
            return outcome;
        };
        if before >= policy.retries {
            counter!(RETRIES, "result" => "exhausted").increment(1);
            record.given = Some(Given::Exhausted);
            return outcome;
        }
        let unsent = outcome.as_mut().err().and_then(|failure| failure.request.take());
        let Some(again) = unsent.map(Request::into_body).or_else(|| kept.again()) else { return outcome };
        place = sender.another(ended);
        if place.is_none() {
            record.given = Some(Given::OverBudget);
            return outcome;
        }
        // A response that nobody wants must not hold its connection through the wait.
        drop(outcome);
        tokio::time::sleep(policy.wait(before, fastrand::u64(..))).await;
        before += 1;
        add_tried(&mut tried, &candidates, record);
        candidates = endpoints(&tried).map_err(|refused| Box::new(Failure { refused, ended: None, request: None }))?;
        next = head(&first).map(|()| again);
        due.tell(next.headers_mut(), policy.per_try, arrival.passed(began));
        counter!(RETRIES, "result" => "retried").increment(1);
    }
}

/// Those of the candidates that were tried: up to the last one that is recorded.
fn add_tried(tried: &mut Vec<SocketAddr>, candidates: &Candidates, record: &Record) {
    let last = record.upstream.as_ref().map(|upstream| upstream.address);
    for candidate in &candidates.endpoints {
        tried.push(candidate.to.address);
        if Some(candidate.to.address) == last {
            break;
        }
    }
}

/// One try. Its time begins when the request has come whole: a client that takes its time is not the endpoint's fault (so does Envoy).
async fn one(
    sender: &mut Sender<'_>,
    policy: &RetryPolicy,
    candidates: &Candidates,
    request: Request<RequestBody>,
    record: &mut Record,
    arrival: &Arrival,
) -> Result<Sent, Box<Failure>> {
    let attempt = sender.send(candidates, request, record);
    match policy.per_try {
        None => attempt.await,
        Some(limit) => tokio::select! {
            biased;
            outcome = attempt => outcome,
            () = arrival.after(limit) => {
                record.timed_out();
                Err(send::late(limit))
            }
            () = arrival.clone().stuck(limit) => Err(send::late(limit)),
        },
    }
}

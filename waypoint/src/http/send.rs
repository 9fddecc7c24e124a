//! One try of a request: the endpoints in turn until one has it.

use std::{sync::Arc, time::Duration};

use ambit_model::{
    Reason, Refusal,
    balance::Outcome,
    route::{Ended, may_leave_again},
};
use http::{Request, StatusCode};
use http_body::Body as _;
use metrics::counter;
use tokio::{sync::Semaphore, time::timeout};

use super::{answer, forward::head, select::Refused};
use crate::{
    compiled::{Cluster, Counted},
    observe::{RETRIES, Record},
    proxy::Proxy,
    upstream::{Candidate, Candidates, Kept, RequestBody, Sent, Unsent},
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

/// Sends one request to endpoints of a cluster. Whatever its route says of retries it may be sent once more, and never more than that:
/// a connection at hand may have ended while nobody looked, which says nothing about the endpoint.
pub struct Sender<'a> {
    /// The shared state.
    pub proxy: &'a Proxy,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The endpoints are spoken to in HTTP/2.
    pub http2: bool,
    /// The request has been sent once more for that reason; it is not again.
    resent: bool,
}

impl<'a> Sender<'a> {
    /// For a request that has not been sent.
    pub fn new(proxy: &'a Proxy, cluster: &'a Cluster, http2: bool) -> Self {
        Self { proxy, cluster, http2, resent: false }
    }

    /// One try: the next candidate is tried only while nothing of the request was sent.
    pub async fn send(
        &mut self,
        candidates: &Candidates,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Sent, Box<Failure>> {
        let mut last = Refusal::new(Reason::NoHealthyEndpoint, "");
        record.attempts += 1;
        let before = self.resent;
        for to in &candidates.endpoints {
            record.upstream = Some(to.upstream.clone());
            record.note(|told| told.tried.push(to.upstream.address));
            // What is sent for the second time is not to meet another connection that is over.
            let anew = self.resent != before;
            match self.to(&candidates.cluster, to, request, record, anew).await {
                Ok(sent) => return Ok(sent),
                Err(Missed::Failed(failure)) => return Err(failure),
                Err(Missed::Unreached(refusal, unsent)) => (last, request) = (refusal, *unsent),
            }
        }
        let refused = (StatusCode::SERVICE_UNAVAILABLE, last);
        Err(Box::new(Failure { refused, ended: Some(Ended::Unreached), request: Some(request) }))
    }

    /// To one endpoint, on a new connection if it is to be `anew`, and once more on one if it was the connection at hand that failed.
    async fn to(
        &mut self,
        cluster: &Arc<Cluster>,
        to: &Candidate,
        mut request: Request<RequestBody>,
        record: &mut Record,
        mut anew: bool,
    ) -> Result<Sent, Missed> {
        let proxy = self.proxy;
        let http = &proxy.http;
        loop {
            let awaited = || cluster.is_noted().then(|| (cluster.clone(), to.host.clone()));
            // Also while it is connected to, as the request's time may be shorter than the one for that.
            let checkout = http.checkout(proxy, cluster, to, self.http2, anew, || record.awaiting = awaited()).await;
            if checkout.is_err() {
                record.awaiting = None;
            }
            let checkout = match checkout {
                Ok(checkout) => checkout,
                // Another endpoint would be no better.
                Err(refusal) if refusal.reason.is_policy() || refusal.reason == Reason::ClusterOverloaded => {
                    let refused = (StatusCode::SERVICE_UNAVAILABLE, refusal);
                    return Err(Missed::Failed(Box::new(Failure { refused, ended: None, request: None })));
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "an endpoint is not reached");
                    cluster.note(&to.host, unreached(refusal.reason));
                    return Err(Missed::Unreached(refusal, Box::new(request)));
                }
            };
            let at_hand = checkout.at_hand;
            let may = at_hand && !self.resent;
            let spare = may.then(|| Spare::of(&mut request, self.http2, &proxy.kept_bodies)).flatten();
            record.awaiting = awaited();
            let waiting = cluster.wait_for(&to.host);
            let sent = http.send(&to.to, checkout, request).await;
            record.awaiting = None;
            let mut unsent = match sent {
                Ok(sent) => {
                    drop(waiting);
                    if cluster.outliers.is_some() {
                        cluster.note(&to.host, Outcome::Status(answer::status(&sent.response)));
                    }
                    return Ok(sent);
                }
                Err(unsent) => {
                    waiting.failed();
                    unsent
                }
            };
            let back = unsent.request.take();
            // What is ended, or answered as nobody may, on a connection that stood is a failure of its endpoint as any other.
            let again = match spare.filter(|_| back.is_none() && !unsent.alone) {
                Some(spare) => spare.request(unsent.refused, cluster.connect_timeout).await,
                None => None,
            };
            request = match (back, again) {
                // Nothing of it has left.
                (Some(back), _) if at_hand => back,
                // It takes no place of the cluster's budget: when an endpoint goes, all requests on its connections fail at once.
                (None, Some(again)) => {
                    self.resent = true;
                    counter!(RETRIES, "result" => "resent").increment(1);
                    record.attempts += 1;
                    again
                }
                (back, _) => {
                    cluster.note(&to.host, Outcome::Failed);
                    return Err(Missed::Failed(failure(*unsent, back)));
                }
            };
            anew = true;
        }
    }

    /// A try went well that could have been followed by another one.
    pub fn went_well(&self) {
        self.cluster.retries.well(&self.cluster.retry_budget);
    }

    /// A place in the cluster's budget for another try after one that ended so.
    pub fn another(&self, after: Ended) -> Option<Counted> {
        let (retries, budget) = (&self.cluster.retries, &self.cluster.retry_budget);
        let place = if after.unseen() { retries.another(budget) } else { retries.earned(budget) };
        if place.is_none() {
            counter!(RETRIES, "result" => "over_budget").increment(1);
        }
        place
    }
}

/// What a request that has left could be sent once more from.
struct Spare {
    head: Request<()>,
    /// `None` for a request without one.
    body: Option<Kept>,
}

impl Spare {
    /// Of a request that is about to leave; `None` if it could not be.
    fn of(request: &mut Request<RequestBody>, http2: bool, room: &Arc<Semaphore>) -> Option<Self> {
        let body = match request.body().is_end_stream() {
            true => None,
            false if http2 => Some(request.body_mut().spare(room)?),
            // An endpoint cannot say of a request of HTTP/1 that it has not looked at it.
            false => return None,
        };
        Some(Self { head: head(request), body })
    }

    /// The request, if it may leave again; it waits up to `limit` for its body, which the connection that failed still has.
    async fn request(self, unseen: bool, limit: Duration) -> Option<Request<RequestBody>> {
        if !may_leave_again(self.head.method().as_str(), self.body.is_some(), unseen) {
            return None;
        }
        let body = match &self.body {
            None => RequestBody::empty(),
            Some(kept) => timeout(limit, kept.resumed()).await.ok()??,
        };
        Some(self.head.map(|()| body))
    }
}

/// How an endpoint did not answer.
enum Missed {
    /// No connection stands; nothing of the request was sent.
    Unreached(Refusal, Box<Request<RequestBody>>),
    /// The try is over.
    Failed(Box<Failure>),
}

/// How it ended for an endpoint to which no connection stood for this reason.
pub fn unreached(reason: Reason) -> Outcome {
    match reason {
        Reason::UpstreamTimeout => Outcome::TimedOut,
        _ => Outcome::Failed,
    }
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

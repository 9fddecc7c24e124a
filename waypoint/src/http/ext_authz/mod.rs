//! External authorizers: asked about a request before any rule on it is, each with what the one before has made of it. None that fails lets
//! anything pass, unless its configuration says so.
//!
//! | file | what it does |
//! |---|---|
//! | `check.rs` | what an authorizer is told |
//! | `http.rs` | from that to an HTTP request, and from the answer to what it says |
//! | `answer.rs` | what was said, as changes of the request and of its response, or as an answer to the client |
//!
//! The request on its way to the authorizer's cluster is in `http::call`.

mod answer;
mod check;
mod http;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ::http::{Request, StatusCode, Version};
use ambit_model::{Reason, Refusal, route::RequestView};
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use metrics::counter;
use serde_json::Value;
use tokio::time::timeout;

pub use self::answer::{Passed, Refused};
use self::{
    answer::{Denial, Said},
    check::Told,
};
use super::{
    Phase,
    call::{Call, grpc},
    select::Target,
    serve::view,
};
use crate::{
    authz,
    compiled::{AuthorizerService, Buffered, ExtAuthz, HttpChain, Snapshot},
    observe::Beside,
    proxy::Proxy,
    terminate::Tunnel,
    upstream::{Beginning, Unread},
};

/// Counts what became of questions, by `result`: `ok`, `denied`, `error`, and `failure_mode_allowed` for those that passed without an answer.
const ASKED: &str = "ambit_ext_authz_requests_total";

/// What is called by gRPC.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// How long the part of a body may take to come that an authorizer is to be told. Meanwhile it has of the room for all bodies that are kept,
/// and a client that sends nothing more would have it for ever.
const BODY: Duration = Duration::from_mins(1);

/// What goes with the questions about a request.
pub struct Asking<'a> {
    /// The shared state.
    pub proxy: &'a Proxy,
    /// The configuration that the request is handled by.
    pub snapshot: &'a Snapshot,
    /// The tunnel it came through.
    pub tunnel: &'a Tunnel,
    /// The HTTP part of its filter chain.
    pub http: &'a HttpChain,
    /// What its token says.
    pub metadata: Option<&'a Value>,
    /// Told when its body has ended, on a connection of one request at a time.
    pub phase: Option<&'a Phase>,
    /// Where it is noted who was asked, if somebody wants to know.
    pub beside: Option<&'a Beside>,
}

impl Asking<'_> {
    /// Asks all that are to be asked, and makes of the request what they say.
    ///
    /// # Errors
    /// With what the client is answered.
    pub async fn ask(&self, request: &mut Request<Incoming>, target: &mut Target) -> Result<Passed, Box<Refused>> {
        let mut passed = Passed::default();
        for authorizer in &self.http.asks {
            let subject = authz::subject(self.tunnel, Some(view(request, target)), self.metadata);
            let Some(rule) = authz::marked(authorizer.when.as_ref(), &subject) else { continue };
            let by = |refusal: Refusal| match rule.and_then(authz::named) {
                Some((policy, rule)) => refusal.by(policy, rule),
                None => refusal,
            };
            if let Some(beside) = self.beside {
                beside.asks("external authorizer", &authorizer.cluster);
            }
            let body = match authorizer.body {
                Some(wanted) => {
                    let read = self.read(wanted, request, &mut passed.before).await;
                    Some(read.map_err(|(status, refusal)| Refused::new(status, by(refusal)))?)
                }
                None => None,
            };
            let told = Told::new(authorizer.body, body, length(request, passed.before.as_deref()), request.version());
            let asked = self.one(authorizer, view(request, target), &told);
            let said = timeout(authorizer.timeout, asked).await;
            let said = said.unwrap_or_else(|_| Err(format!("no answer within {:?}", authorizer.timeout).into()));
            let carried = said.and_then(|said| match said {
                Said::Allowed(changes) => changes.apply(request.headers_mut(), target, &mut passed).map(|()| None),
                Said::Denied(denial) => Ok(Some(denial)),
            });
            match carried {
                Ok(None) => counter!(ASKED, "result" => "ok").increment(1),
                Ok(Some(denial)) => {
                    counter!(ASKED, "result" => "denied").increment(1);
                    let refusal = by(Refusal::new(Reason::ExtAuthzDenied, format!("cluster {}", authorizer.cluster)));
                    return Err(Box::new(Refused { refusal, denial }));
                }
                Err(failure) if authorizer.failure_mode_allow => {
                    counter!(ASKED, "result" => "failure_mode_allowed").increment(1);
                    tracing::debug!(cluster = %authorizer.cluster, failure = failure.text, "a request passes without an answer");
                }
                Err(failure) => {
                    counter!(ASKED, "result" => "error").increment(1);
                    let text = format!("cluster {}: {}", authorizer.cluster, failure.text);
                    let denial = failure.denial.unwrap_or_default().or_status(authorizer.status_on_error);
                    return Err(Box::new(Refused { refusal: by(Refusal::new(Reason::ExtAuthzError, text)), denial }));
                }
            }
        }
        Ok(passed)
    }

    /// Asks one, without a limit of time.
    async fn one(&self, authorizer: &ExtAuthz, view: RequestView<'_>, told: &Told) -> Result<Said, Failure> {
        let call = Call { proxy: self.proxy, snapshot: self.snapshot, tunnel: self.tunnel, cluster: &authorizer.cluster };
        match &authorizer.service {
            AuthorizerService::Grpc { authority } => {
                let check = check::request(self.tunnel, view, authorizer.allowed_headers.as_deref(), told);
                let answer = call.send(grpc::question(&check, CHECK, authority), Version::HTTP_2).await?;
                Said::of(grpc::message(&answer)?)
            }
            AuthorizerService::Http(service) => {
                let allowed = authorizer.allowed_headers.as_deref().unwrap_or_default();
                http::said(call.send(http::question(service, view, allowed, told)?, Version::HTTP_11).await?, service)
            }
        }
    }

    /// The beginning of a body, as much as is wanted of it; what is read is put into `before`.
    async fn read(
        &self,
        wanted: Buffered,
        request: &mut Request<Incoming>,
        before: &mut Option<Box<Beginning>>,
    ) -> Result<Bytes, (StatusCode, Refusal)> {
        // What follows an upgrade is no body, and an offer of one does not hide a body that the request has.
        if before.is_none() && request.body().is_end_stream() {
            return Ok(Bytes::new());
        }
        let beginning = before.get_or_insert_with(|| Box::new(Beginning::new(&self.proxy.kept_bodies)));
        // One byte more shows that a body is too long.
        let enough = wanted.max_bytes + usize::from(!wanted.partial);
        let read = timeout(BODY, beginning.read(request.body_mut(), enough)).await.map_err(|_| {
            let text = format!("what an authorizer is to be told of a body took more than {BODY:?}");
            (StatusCode::REQUEST_TIMEOUT, Refusal::new(Reason::RequestTimeout, text))
        })?;
        read.map_err(|unread| match unread {
            Unread::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, Refusal::new(Reason::MemoryLimit, "bodies that are kept")),
            Unread::Broke(error) => (StatusCode::BAD_REQUEST, Refusal::new(Reason::ClientReset, error.to_string())),
        })?;
        if beginning.is_whole()
            && let Some(phase) = self.phase
        {
            phase.complete();
        }
        if !wanted.partial && beginning.length() > wanted.max_bytes {
            let text = format!("a body of more than {} bytes, of which an authorizer is to be told", wanted.max_bytes);
            return Err((StatusCode::PAYLOAD_TOO_LARGE, Refusal::new(Reason::RequestTooLarge, text)));
        }
        Ok(beginning.start(wanted.max_bytes))
    }
}

/// Why there is no answer that could be carried out.
#[derive(Debug)]
struct Failure {
    text: String,
    /// What the authorizer has the client told.
    denial: Option<Denial>,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, denial: None }
    }
}

/// How long a body is, if that is known, of which some was read `before`.
fn length(request: &Request<Incoming>, before: Option<&Beginning>) -> Option<u64> {
    let rest = request.body().size_hint().exact();
    match before {
        Some(before) if before.is_whole() => Some(before.length() as u64),
        Some(before) => rest.map(|rest| rest + before.length() as u64),
        None => rest,
    }
}

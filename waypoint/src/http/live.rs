//! `x-ambit-explain`: a request that asks the waypoint on its way what becomes of it.
//!
//! An administrator of the mesh gets `answer`, the explanation in place of the response, and nothing is sent anywhere; or `beside`, the
//! response of the request that is carried out, and in a header of it what has happened. Who is one is told by the control plane, and goes by
//! the identity that the client has proven; at the edge of the mesh nobody has any. For everybody else the request is as if it had no such
//! header. It is taken out before anything looks at the request: no rule, no route, no authorizer and no endpoint ever sees it.

use std::sync::Arc;

use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use metrics::counter;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::TaskTracker;

use super::{
    Over, Phase, ResponseBody,
    answer::{self, Style},
    forward::head,
    headers::EXPLAIN,
    serve::handle,
};
use crate::{
    compiled::{AppProtocol, Snapshot},
    explain::{self, Question},
    observe::{Beside, Record},
    proxy::Proxy,
    terminate::{self, Tunnel, reason_headers},
};

/// Counts requests that asked, by `result`: `answer`, `beside`, `unreadable`, and `denied` for those of anybody else.
const ASKED: &str = "ambit_explain_requests_total";
/// What tells in a response that, and what, it was asked.
const EXPLAINED: HeaderName = HeaderName::from_static("x-ambit-explained");
/// How many explanations are made at once: each walks over the whole configuration, and requests come before them.
static MAKING: Semaphore = Semaphore::const_new(2);
/// Who asks reads text, also of a call.
const STYLE: Style = Style { grpc: false };

/// What comes of it that a request asks.
#[derive(Debug)]
pub enum Asks {
    /// Nothing: it may not.
    Denied,
    /// An answer that says how to ask.
    Unreadable,
    /// It is carried out, and what has happened is told.
    Beside,
    /// It is explained.
    Answer(Box<Question>, Arc<Snapshot>),
}

impl Asks {
    const fn result(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unreadable => "unreadable",
            Self::Beside => "beside",
            Self::Answer(..) => "answer",
        }
    }
}

/// Takes out of a request what it asks. `None` where it asks nothing, as hardly any does.
pub fn asks<B>(config: &ArcSwap<Snapshot>, tunnel: &Tunnel, request: &mut Request<B>) -> Option<Asks> {
    if !request.headers().contains_key(EXPLAIN) {
        return None;
    }
    let said: Vec<HeaderValue> = request.headers().get_all(EXPLAIN).iter().cloned().collect();
    request.headers_mut().remove(EXPLAIN);
    let snapshot = config.load_full();
    let Some(identity) = administrator(&snapshot, tunnel) else { return Some(Asks::Denied) };
    Some(match said.as_slice() {
        [said] if said == "beside" => Asks::Beside,
        [said] if said == "answer" => {
            let question = Question {
                identity: identity.clone(),
                address: tunnel.peer.address.ip(),
                destination: tunnel.destination,
                request: head(request),
            };
            Asks::Answer(Box::new(question), snapshot)
        }
        _ => Asks::Unreadable,
    })
}

/// Who asks, if it is an administrator of the mesh whose tunnels are still taken.
fn administrator<'a>(snapshot: &Snapshot, tunnel: &'a Tunnel) -> Option<&'a SpiffeId> {
    let identity = tunnel.peer.identity.as_ref().filter(|_| tunnel.edge.is_none())?;
    let named = snapshot.inbound.as_ref()?.administrators.contains(identity);
    (named && terminate::known(snapshot, &tunnel.peer).is_ok()).then_some(identity)
}

/// Serves a request that asks.
pub async fn serve(
    asks: Asks,
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    protocol: AppProtocol,
    upgrades: TaskTracker,
    (over, phase): (Over, Option<Phase>),
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    counter!(ASKED, "result" => asks.result()).increment(1);
    let told = match asks {
        Asks::Unreadable => return unreadable(record(&proxy, &tunnel, &request)),
        Asks::Answer(question, snapshot) => {
            return explained(record(&proxy, &tunnel, &request), &proxy, *question, snapshot).await;
        }
        Asks::Denied => None,
        Asks::Beside => Some(Arc::new(Beside::default())),
    };
    let mut response = handle(proxy, tunnel, protocol, upgrades, (over, phase, told.clone()), request).await;
    match told.and_then(|told| told.header()) {
        Some(told) => drop(response.headers_mut().insert(EXPLAINED, told)),
        // An endpoint says nothing in the waypoint's name.
        None => drop(response.headers_mut().remove(EXPLAINED)),
    }
    response
}

fn record<B>(proxy: &Proxy, tunnel: &Tunnel, request: &Request<B>) -> Record {
    let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "http");
    record.request = Some((request.method().clone(), request.uri().path().to_owned()));
    record
}

/// Nothing is sent: who has mistyped `answer` does not want the request carried out.
fn unreadable(mut record: Record) -> Response<ResponseBody> {
    let refusal = Refusal::new(Reason::RequestInvalid, "x-ambit-explain is to be answer or beside, and to be there once");
    record.refused(&refusal);
    answer::plain(&mut record, STYLE, StatusCode::BAD_REQUEST, refusal.detail.clone(), reason_headers(&refusal))
}

/// What would become of the request, by what is in force now.
async fn explained(mut record: Record, proxy: &Proxy, question: Question, snapshot: Arc<Snapshot>) -> Response<ResponseBody> {
    let Some(_place) = proxy.telemetry.admit(proxy.limits.requests) else {
        let refusal = Refusal::new(Reason::RequestLimit, "");
        return answer::refused(&mut record, STYLE, StatusCode::SERVICE_UNAVAILABLE, &refusal);
    };
    let made = {
        let turn = MAKING.acquire().await;
        // It goes with the explanation, which is made to its end even if nobody waits for it any more.
        spawn_blocking(move || {
            let _turn = turn;
            explain::answer(&snapshot, &question)
        })
        .await
    };
    let json = made.map_err(|error| error.to_string()).and_then(|made| made.map_err(|error| error.to_string()));
    match json {
        Ok(json) => {
            record.reason = Reason::Ok;
            record.error = Some("explained, as x-ambit-explain asks; nothing was sent".to_owned());
            let mut response = answer::plain(&mut record, STYLE, StatusCode::OK, json, HeaderMap::new());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(EXPLAINED, HeaderValue::from_static("answer"));
            response
        }
        Err(error) => {
            let refusal = Refusal::new(Reason::Internal, error);
            answer::refused(&mut record, STYLE, StatusCode::INTERNAL_SERVER_ERROR, &refusal)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ambit_runtime::drain;

    use super::*;
    use crate::{
        compiled::{Inbound, Map, MatchNode},
        terminate::Peer,
    };

    const ADMINISTRATOR: &str = "spiffe://cluster.local/ns/ops/sa/admin";

    /// What comes of it that a client asks so, and what the request is then.
    fn asked(identity: Option<&str>, edge: Option<u16>, said: &[&str]) -> (&'static str, Request<()>) {
        let administrators = BTreeSet::from([ADMINISTRATOR.parse().unwrap()]);
        let matcher = MatchNode::Port { ports: Map::default(), otherwise: None };
        let inbound = Inbound { matcher, chains: Map::default(), administrators };
        let config = ArcSwap::from_pointee(Snapshot { inbound: Some(Arc::new(inbound)), ..Snapshot::default() });
        let destination = "10.0.0.1:80".parse().unwrap();
        let peer = Arc::new(Peer::new(destination, identity.map(|identity| identity.parse().unwrap())));
        let (_, drain) = drain::channel();
        let tunnel = Tunnel { peer, destination, passed_on: HeaderMap::new(), drain, edge, secure: None };
        let mut request = Request::get("/a?b=c").header("host", "shop").body(()).unwrap();
        for said in said {
            request.headers_mut().append(EXPLAIN, HeaderValue::from_str(said).unwrap());
        }
        let asks = asks(&config, &tunnel, &mut request);
        (asks.as_ref().map_or("nothing", Asks::result), request)
    }

    #[test]
    fn only_an_administrator_in_a_tunnel_is_told_anything_and_the_header_is_gone_in_any_case() {
        type Case<'a> = (Option<&'a str>, Option<u16>, &'a [&'a str], &'a str);
        let cases: [Case<'_>; 14] = [
            (Some(ADMINISTRATOR), None, &["answer"], "answer"),
            (Some(ADMINISTRATOR), None, &["beside"], "beside"),
            (Some(ADMINISTRATOR), None, &[], "nothing"),
            (Some(ADMINISTRATOR), None, &["Answer"], "unreadable"),
            (Some(ADMINISTRATOR), None, &["answer", "answer"], "unreadable"),
            (Some(ADMINISTRATOR), None, &["beside", "answer"], "unreadable"),
            (Some(ADMINISTRATOR), None, &["answer, beside"], "unreadable"),
            (Some(ADMINISTRATOR), None, &[""], "unreadable"),
            (Some(ADMINISTRATOR), Some(80), &["answer"], "denied"),
            (Some("spiffe://cluster.local/ns/ops/sa/admin2"), None, &["answer"], "denied"),
            (Some("spiffe://cluster.local/ns/ops2/sa/admin"), None, &["answer"], "denied"),
            (Some("spiffe://other.mesh/ns/ops/sa/admin"), None, &["beside"], "denied"),
            (Some("spiffe://cluster.local/ns/ops/sa/admin2"), None, &["nonsense", "answer"], "denied"),
            (None, None, &["answer"], "denied"),
        ];
        for (identity, edge, said, expected) in cases {
            let (result, request) = asked(identity, edge, said);
            assert_eq!(result, expected, "{identity:?} {edge:?} {said:?}");
            assert_eq!(request.headers().len(), 1, "{:?}", request.headers());
        }
    }

    #[test]
    fn where_nobody_is_an_administrator_nobody_is_told_anything() {
        let config = ArcSwap::from_pointee(Snapshot::default());
        let address = "10.0.0.1:80".parse().unwrap();
        let peer = Arc::new(Peer::new(address, Some(ADMINISTRATOR.parse().unwrap())));
        let (_, drain) = drain::channel();
        let tunnel = Tunnel { peer, destination: address, passed_on: HeaderMap::new(), drain, edge: None, secure: None };
        let mut request = Request::get("/").header(EXPLAIN, "answer").body(()).unwrap();
        assert!(matches!(asks(&config, &tunnel, &mut request), Some(Asks::Denied)));
        assert!(request.headers().is_empty());
    }
}

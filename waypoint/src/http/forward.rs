//! A request on its way to an endpoint, and the response on its way back.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use ambit_model::{
    Reason, Refusal,
    route::{Action, Claim, ClusterWeight, EndpointName, Hashed, Route, Upstream as Forwarding},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use tokio_util::{sync::DropGuard, task::TaskTracker};

use super::{
    Over, Phase, ResponseBody,
    answer::{self, Style},
    arrival::{Arrival, Expiry},
    body::Streaming,
    deadline::Deadline,
    ext_proc::{End, Passage, Passes, Stopped},
    framing, headers,
    mirror::{self, Copy},
    retry, select,
    send::Sender,
    serve,
    times::Times,
    upgrade,
};
use crate::{
    compiled::{Chain, Cluster, Counted, HttpChain, Snapshot},
    observe::{InFlight, Record},
    proxy::Proxy,
    terminate::Tunnel,
    upstream::{Beginning, Candidates, RequestBody, Sent, Wish, for_request},
};

/// Everything that was decided about a request.
pub struct Exchange {
    /// The shared state.
    pub proxy: Arc<Proxy>,
    /// The tunnel it came through.
    pub tunnel: Arc<Tunnel>,
    /// The configuration it is handled by, from beginning to end.
    pub snapshot: Arc<Snapshot>,
    /// Its filter chain.
    pub chain: Arc<Chain>,
    /// The HTTP part of it.
    pub http: Arc<HttpChain>,
    /// Its route.
    pub route: Arc<Route>,
    /// Its target before rewriting.
    pub target: select::Target,
    /// How answers of ours look.
    pub style: Style,
    /// Where a connection that is upgraded goes on.
    pub upgrades: TaskTracker,
}

/// What a request holds until its response has ended.
pub struct Hold {
    /// Its place among those in flight.
    pub place: InFlight,
    /// Its end on the client's connection.
    pub over: Over,
    /// Told when its body has ended, on a connection of one request at a time.
    pub phase: Option<Phase>,
    /// What was read of its body.
    pub before: Option<Box<Beginning>>,
    /// By whom the rest passes on its way.
    pub passage: Option<Box<Passage>>,
}

/// Sends a request on and answers with the upstream's response, or with why there is none.
pub async fn forward(
    exchange: Exchange,
    request: Request<Incoming>,
    mut record: Box<Record>,
    mut hold: Hold,
) -> Response<ResponseBody> {
    let Action::Forward(forwarding) = &exchange.route.action else {
        return answer::refused(
            &mut record,
            exchange.style,
            StatusCode::INTERNAL_SERVER_ERROR,
            &Refusal::new(Reason::Internal, ""),
        );
    };
    // What clients and other proxies say of their time is all that it has to do with how long ago that was.
    let age = if exchange.http.deadlines || exchange.style.grpc { record.age() } else { Duration::ZERO };
    // Of a body that was read before, nobody knows how long ago it had come.
    let came = (age, hold.before.is_none() && request.body().is_end_stream());
    let due = Deadline::of(&exchange.http, forwarding, request.headers(), exchange.style.grpc, came);
    let timed = due.limit().is_some() || forwarding.retry.as_ref().is_some_and(|retry| retry.per_try.is_some());
    // Who is outside of the mesh may be anybody, and is not waited for as long as it likes.
    let outside = exchange.tunnel.edge.is_some();
    let (arrival, arriving) =
        Arrival::new(!(timed || outside || forwarding.stream.is_some()) || request.body().is_end_stream(), &record.sent);
    let limits = &exchange.proxy.limits;
    let pause = if request.body().size_hint().exact().is_some() { limits.body } else { limits.idle };
    let paused = outside.then(|| arrival.clone().paused(pause));
    let weight = match choose(&exchange, forwarding, &mut record) {
        Ok(weight) => weight,
        Err((status, refusal)) => return answer::refused(&mut record, exchange.style, status, &refusal),
    };
    // What its route and its cluster change of responses they change of the waypoint's own as well (so does Envoy).
    let changed = exchange.route.response_changes(&weight.response_headers).any(|change| !change.is_empty());
    // In memory of its own: hardly a request needs it, and all of them would have room for it.
    let asked = changed.then(|| Box::new(head(&request)));
    let mut deadline = due.expiry(&arrival);
    let mut times = Times::of(forwarding, &due, &record, &arrival);
    let stuck = due.limit().map(|limit| arrival.clone().stuck(limit));
    let (through, mut stopped) = hold.passage.take().map(|passage| passage.parts()).unwrap_or_default();
    let passing = Passing { phase: hold.phase.clone(), before: hold.before.take(), arrival, arriving, due: &due, through };
    let attempt = attempt(&exchange, forwarding, &weight, request, &mut record, passing);
    let late = |text: &str| Err((StatusCode::GATEWAY_TIMEOUT, Refusal::new(Reason::RequestTimeout, text)));
    let mut end = None;
    let outcome = match (deadline.as_mut(), paused, stopped.as_mut(), times.as_deref_mut()) {
        _ if due.is_over() => {
            drop(attempt);
            record.service = exchange.chain.service();
            late("nobody waits for a response any more")
        }
        (None, None, None, None) => attempt.await,
        (deadline, paused, stopped, times) => tokio::select! {
            biased;
            said = if_any(stopped.map(Stopped::ended)) => {
                end = Some(said);
                late("its external processor goes before it")
            }
            outcome = attempt => outcome,
            () = if_any(deadline) => {
                if due.is_of_route() {
                    record.timed_out();
                }
                late("no response in time")
            }
            () = if_any(stuck) => late("no response in time, and nothing more of the request is passed on"),
            () = if_any(paused) => {
                let detail = format!("nothing more of the request has come for {pause:?}");
                Err((StatusCode::REQUEST_TIMEOUT, Refusal::new(Reason::RequestTimeout, detail)))
            }
            refused = if_any(times) => Err(refused),
        },
    };
    if let Some(end) = end {
        let refused = end.is_refusal();
        let mut response = ended(end, &mut record, exchange.style);
        // As one that is refused before it is sent on; what a processor says is as it says it, there as well.
        if let Some(asked) = asked.as_deref().filter(|_| refused) {
            answer::changed(response.headers_mut(), |headers| change_response(&exchange, &weight, asked, headers));
        }
        return response;
    }
    match outcome {
        Ok(outcome) => respond(exchange, outcome, &weight, record, hold, (deadline, times)),
        Err((status, refusal)) => {
            let mut response = answer::refused(&mut record, exchange.style, status, &refusal);
            if due.answer(refusal.reason, response.headers_mut()) {
                record.answered(response.headers());
            }
            if refusal.reason == Reason::ClusterOverloaded && exchange.http.envoy_headers {
                response.headers_mut().insert("x-envoy-overloaded", HeaderValue::from_static("true"));
            }
            if let Some(asked) = &asked {
                answer::changed(response.headers_mut(), |headers| change_response(&exchange, &weight, asked, headers));
            }
            response
        }
    }
}

/// The answer to a request that its external processor has ended on its way, which is no fault of the endpoint's.
fn ended(end: End, record: &mut Record, style: Style) -> Response<ResponseBody> {
    record.awaiting = None;
    end.answer(Some(record), style)
}

/// Completes when this does, and never where there is none.
pub(super) async fn if_any<T>(expiry: Option<impl Future<Output = T>>) -> T {
    match expiry {
        Some(expiry) => expiry.await,
        None => std::future::pending().await,
    }
}

/// Who is to know how far a request has come.
struct Passing<'a> {
    phase: Option<Phase>,
    before: Option<Box<Beginning>>,
    arrival: Arrival,
    arriving: Option<DropGuard>,
    due: &'a Deadline,
    through: Option<Box<Passes>>,
}

/// A response, with what is needed to finish it.
struct Outcome {
    sent: Sent,
    counted: Counted,
    /// What the request said of its session, if its route has them.
    claim: Option<Claim>,
    /// What the client is to be told apart by from now on.
    cookies: Vec<HeaderValue>,
    /// The request's head, for placeholders in response headers.
    head: Request<()>,
    /// The client's side of an upgrade.
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    version: Version,
}

async fn attempt(
    exchange: &Exchange,
    forwarding: &Forwarding,
    weight: &ClusterWeight,
    mut request: Request<Incoming>,
    record: &mut Record,
    Passing { phase, before, arrival, arriving, due, through }: Passing<'_>,
) -> Result<Outcome, select::Refused> {
    let view = serve::view(&request, &exchange.target);
    let session = select::session(&exchange.route, &exchange.http, &view);
    let Hashed { hash, cookies } = select::hashed(&exchange.snapshot, &exchange.tunnel, (forwarding, weight), &view);
    let (cluster, mut candidates) = endpoints(exchange, forwarding, weight, Wish { session, hash, failed: &[] })?;
    record.service = candidates.service.take();
    let version = request.version();
    let wanted = select::upgrade(&exchange.http, forwarding, request.headers())?;
    let upgrade = wanted.map(|_| hyper::upgrade::on(&mut request));
    let http2 = upgrade.is_none() && candidates.protocol.is_http2(version);
    let head = match changes_headers(exchange, weight) {
        true => head(&request),
        false => Request::new(()),
    };
    let (path, authority) = prepare(exchange, forwarding, weight, &head, &mut request, upgrade.is_some(), http2)?;
    let retry = forwarding.retry.as_ref().filter(|_| upgrade.is_none());
    due.tell(request.headers_mut(), retry.and_then(|retry| retry.per_try), Duration::ZERO);
    if let Some(span) = &record.span {
        span.write(request.headers_mut());
    }
    if let Some(logged) = &mut record.logged {
        logged.sent(request.headers(), &path, authority);
    }
    let sent = record.sent.clone();
    let came = request.body().size_hint().exact();
    let mut request = request.map(|body| {
        let whole = before.as_deref().is_some_and(Beginning::is_whole);
        let body = RequestBody::new(body, before, sent, phase, arriving);
        match through {
            Some(through) => through.request(body, whole),
            None => body,
        }
    });
    if !http2 && upgrade.is_none() && !framing::says_end(request.headers(), came, request.body().size_hint().exact()) {
        framing::delimit(&mut request);
    }
    if let Some(logged) = &record.logged {
        request.body_mut().note_end(&logged.whole);
    }
    if !http2 && upgrade.is_none() && request.body().is_end_stream() {
        framing::without_body(&mut request);
    }
    let proxy = &*exchange.proxy;
    let mirrors: Vec<_> =
        forwarding.mirrors.iter().filter(|mirror| upgrade.is_none() && mirror.takes(fastrand::u64(..))).collect();
    let kept = (retry.is_some() || !mirrors.is_empty()).then(|| request.body_mut().keep(&proxy.kept_bodies));
    record.note(|told| told.copied_to = mirrors.iter().map(|mirror| mirror.cluster.clone()).collect());
    for (mirror, kept) in mirrors.into_iter().zip(kept.iter().cycle().cloned()) {
        let head = self::head(&request);
        mirror::start(exchange, mirror, Copy { head, path: &path, authority, kept, version });
    }
    let counted = cluster.retries.request();
    let mut sender = Sender::new(proxy, cluster, http2);
    let sent = match (retry, &kept) {
        (Some(policy), Some(kept)) => {
            // Each further try goes where any request would; where hashes lead to endpoints, to another one.
            let others = |failed: &[SocketAddr]| {
                endpoints(exchange, forwarding, weight, Wish { session: None, hash, failed }).map(|(_, candidates)| candidates)
            };
            // Most requests have no such policy, and need no room for what it takes.
            Box::pin(retry::send(&mut sender, policy, candidates, (request, kept), (record, &arrival, due), others)).await
        }
        _ => sender.send(&candidates, request, record).await,
    };
    let (sent, claim) = (sent.map_err(|failure| failure.refused)?, session.map(|(_, claim)| claim));
    Ok(Outcome { sent, counted, claim, cookies, head, upgrade, version })
}

/// The cluster for this request.
fn choose(exchange: &Exchange, forwarding: &Forwarding, record: &mut Record) -> Result<Arc<ClusterWeight>, select::Refused> {
    let Some(weight) = forwarding.choose(fastrand::u64(..)) else {
        return Err(select::nowhere(&exchange.route));
    };
    record.cluster = Some(weight.cluster.clone());
    Ok(weight.clone())
}

fn endpoints<'a>(
    exchange: &'a Exchange,
    forwarding: &Forwarding,
    weight: &ClusterWeight,
    wish: Wish<'_>,
) -> Result<(&'a Arc<Cluster>, Candidates), select::Refused> {
    let cluster = select::cluster(&exchange.snapshot, forwarding, weight)?;
    for_request(cluster, exchange.tunnel.destination, exchange.chain.upstream_identity.as_ref(), wish)
        .map(|candidates| (cluster, candidates))
        .map_err(|refusal| (StatusCode::SERVICE_UNAVAILABLE, refusal))
}

/// Whether any header is changed on the way, whose placeholders would need the request as it came.
fn changes_headers(exchange: &Exchange, weight: &ClusterWeight) -> bool {
    let route = &exchange.route;
    route.request_changes(&weight.request_headers).chain(route.response_changes(&weight.response_headers)).any(|c| !c.is_empty())
}

/// A copy of a request's head, without its body.
pub(super) fn head<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

/// Brings the request into the form it is sent on in, and says the path and the host that it has then.
fn prepare<'a>(
    exchange: &'a Exchange,
    forwarding: &'a Forwarding,
    weight: &'a ClusterWeight,
    head: &Request<()>,
    request: &mut Request<Incoming>,
    upgrades: bool,
    http2: bool,
) -> Result<(Cow<'a, str>, &'a str), select::Refused> {
    let view = serve::view(head, &exchange.target);
    let path = match &forwarding.path {
        Some(rewrite) => Cow::Owned(rewrite.apply(&view, &exchange.route.when.path)),
        None => Cow::Borrowed(exchange.target.path_and_query.as_str()),
    };
    // The route has the last word, as with headers.
    let host = forwarding.host.as_ref().or(weight.host.as_ref());
    let authority = host.map_or(exchange.target.authority.as_str(), |host| &host.0);
    let map = request.headers_mut();
    // As the client spelled it: it is told apart without regard to case here, and by some endpoints with it.
    let upgrade = map.get(header::UPGRADE).filter(|_| upgrades).cloned();
    headers::strip_hop(map);
    headers::strip_orders(map);
    // The expectation is met here: reading the body makes the server side send 100 (RFC 9110, section 10.1.1).
    if map.get(header::EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        map.remove(header::EXPECT);
    }
    if !map.contains_key(headers::FORWARDED_PROTO) {
        map.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    let peer = exchange.tunnel.peer.uri.as_deref();
    for changes in exchange.route.request_changes(&weight.request_headers) {
        changes.apply(map, &view, peer);
    }
    if let Some(upgrade) = upgrade {
        map.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        map.insert(header::UPGRADE, upgrade);
    }
    headers::target(request, &path, authority, http2)
        .map_err(|error| (StatusCode::BAD_REQUEST, Refusal::new(Reason::RequestInvalid, error.to_string())))?;
    Ok((path, authority))
}

/// Makes the changes of the route and of the cluster. `head` is the request's, for placeholders.
fn change_response(exchange: &Exchange, weight: &ClusterWeight, head: &Request<()>, headers: &mut HeaderMap) {
    let view = serve::view(head, &exchange.target);
    for changes in exchange.route.response_changes(&weight.response_headers) {
        changes.apply(headers, &view, exchange.tunnel.peer.uri.as_deref());
    }
}

fn respond(
    exchange: Exchange,
    outcome: Outcome,
    weight: &ClusterWeight,
    mut record: Box<Record>,
    hold: Hold,
    (deadline, mut times): (Option<Expiry>, Option<Box<Times>>),
) -> Response<ResponseBody> {
    let Outcome { sent: Sent { mut response, lease }, counted, claim, cookies, head, upgrade, version } = outcome;
    record.status = Some(response.status().as_u16());
    record.tell();
    if let Some(times) = &mut times {
        times.moved();
    }
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upstream = switched.then(|| hyper::upgrade::on(&mut response));
    let name = response.headers().get(header::UPGRADE).cloned();
    let map = response.headers_mut();
    headers::strip_hop(map);
    for cookie in cookies {
        map.append(header::SET_COOKIE, cookie);
    }
    change_response(&exchange, weight, &head, map);
    record.responded(map);
    if let (Some(session), Some(claim), Some(from)) = (&exchange.route.filters().session, claim, &record.upstream) {
        session.tell(map, claim, EndpointName { address: from.address, tunnelled: from.identity.is_some() }, select::now());
    }
    if let (Some(client), Some(upstream)) = (upgrade, upstream) {
        map.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(name) = name {
            map.insert(header::UPGRADE, name);
        }
        if let Some(phase) = &hold.phase {
            phase.upgraded();
        }
        // It may last for days, which says nothing of how long requests take, and keeps none from being let in.
        record.admitted = None;
        let held = (hold.place, lease.connected(), lease, counted);
        exchange.upgrades.spawn(upgrade::carry(client, upstream, record, held, exchange.tunnel.drain.clone(), times));
        return response.map(|_| ResponseBody::local(bytes::Bytes::new()));
    }
    if switched {
        let refusal = Refusal::new(Reason::UpstreamProtocolError, "it switched protocols without being asked to");
        return answer::refused(&mut record, exchange.style, StatusCode::BAD_GATEWAY, &refusal);
    }
    // A client of HTTP/1.0 that wants to keep its connection is told so with an answer of HTTP/1.1, and only where the answer's end is known.
    let kept = version == Version::HTTP_10 && response.body().size_hint().exact().is_some();
    *response.version_mut() = if kept { Version::HTTP_11 } else { version };
    let hold = (hold.place, hold.over);
    response.map(|inner| ResponseBody::streaming(Streaming { inner, lease: Some(lease), record, hold, counted, deadline, times }))
}

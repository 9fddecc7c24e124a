//! One connection inside a tunnel: its requests, one after the other (HTTP/1.1) or at once (HTTP/2).

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use ambit_model::{
    Reason, Refusal,
    route::{Action, Crossing, RequestView, Route},
};
use ambit_runtime::drain::Watch;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::coop::unconstrained;
use tokio_util::task::TaskTracker;

use super::{
    Over, Phase, ResponseBody, admission,
    answer::{self, Style},
    clock::Clock,
    detect::Detected,
    ext_authz::{Asking, Passed},
    ext_proc::Processors,
    forward::{self, Exchange, Hold},
    headers, limiter, live, select, sizes,
};
use crate::{
    authn, authz,
    compiled::{AppProtocol, Chain, HttpChain, ServiceInfo, Snapshot},
    explain,
    observe::{Beside, Logged, Record, Span},
    proxy::Proxy,
    terminate::Tunnel,
};

/// How long after the drain began a client may still ask: on HTTP/1.1 each answer tells it that it was the last. A connection is closed only
/// when its client was silent for as long, for a request that meets the end of its connection on the way is lost.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Serves the connection until its client closes it, or the drain has begun and it has finished its last request.
pub async fn serve(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, detected: Detected) {
    let detected = tokio::select! {
        detected = detected.version(proxy.limits.idle, proxy.limits.head) => detected,
        // Nothing was asked for.
        () = silent(&tunnel.drain) => return,
    };
    let (Ok(Some(detected)), drain) = (detected, tunnel.drain.clone()) else { return };
    let protocol = detected.seen.protocol.unwrap_or(AppProtocol::Http1);
    let upgrades = TaskTracker::new();
    let mut stream = detected.into_stream();
    if protocol == AppProtocol::Http1 {
        stream = stream.with_head_limit(proxy.limits.head).strict();
    }
    let phase = stream.phase();
    let io = TokioIo::new(stream);
    let max_header = max_header(&proxy, &tunnel, protocol);
    let service = service_fn(|mut request: Request<Incoming>| {
        // Now and not when the future is first polled: in between the server may already look for the end of the connection.
        let over = phase.begin(protocol == AppProtocol::Http1 && request.body().is_end_stream());
        let told = (protocol == AppProtocol::Http1).then(|| phase.clone());
        let (proxy, tunnel, upgrades) = (proxy.clone(), tunnel.clone(), upgrades.clone());
        let head = protocol == AppProtocol::Http2 && request.method() == Method::HEAD;
        let old = request.version() == Version::HTTP_10;
        let asks = live::asks(&proxy.config, &tunnel, &mut request);
        // What a request needs is gone with it: a connection that waits for its next one keeps no room for that.
        Box::pin(async move {
            let own = tunnel.clone();
            let mut response = match asks {
                None => handle(proxy, tunnel, protocol, upgrades, (over, told, None), request).await,
                // Hardly any does.
                Some(asks) => Box::pin(live::serve(asks, proxy, tunnel, protocol, upgrades, (over, told), request)).await,
            };
            if head {
                response.body_mut().leave_out();
            }
            if own.edge.is_some() {
                // Who is outside of the mesh need not know what policies are called in it.
                response.headers_mut().remove("x-ambit-policy");
            }
            let last = protocol == AppProtocol::Http1 && own.drain.is_draining();
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                if old {
                    // Else hyper would tell a client that wants to keep its connection that it may.
                    *response.version_mut() = Version::HTTP_10;
                }
            }
            Ok::<_, Infallible>(response)
        })
    });
    let result = match protocol {
        AppProtocol::Http1 => {
            let connection = http1::Builder::new()
                .timer(Clock::default())
                .header_read_timeout(proxy.limits.idle)
                .max_buf_size(max_header.max(64 * 1024))
                .serve_connection(io, service)
                .with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => result,
                () = silent(&drain) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        AppProtocol::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(proxy.limits.http2_streams)
                .max_header_list_size(u32::try_from(max_header).unwrap_or(u32::MAX))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .max_send_buf_size(256 << 10)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => result,
                () = begins(&drain) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = unused(tunnel.edge.is_some(), &phase, proxy.limits.idle) => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        result = connection.as_mut() => result,
                        // It does not answer that either.
                        () = unused(true, &phase, proxy.limits.head) => Ok(()),
                    }
                }
            }
        }
    };
    if phase.late() {
        let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "http");
        record.service = asked_for(&proxy.config.load(), &tunnel, protocol);
        record.refused(&Refusal::new(
            Reason::RequestTimeout,
            format!("the head of a request took more than {:?}", proxy.limits.head),
        ));
    } else if let Err(error) = result {
        if error.is_parse() {
            unreadable(&proxy, &tunnel, protocol, &error);
        }
        tracing::debug!(%error, peer = tunnel.peer.uri.as_deref(), "connection inside a tunnel ended");
    }
    upgrades.close();
    upgrades.wait().await;
}

/// Tells of what cannot be read as a request, which the parser has answered itself. So does Envoy (`DPE`).
fn unreadable(proxy: &Proxy, tunnel: &Tunnel, protocol: AppProtocol, error: &hyper::Error) {
    let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "http");
    if let Ok((chain, http)) = select::chain(&proxy.config.load(), tunnel, protocol) {
        record.service = chain.service();
        record.metrics.clone_from(&chain.metrics);
        record.logged = Logged::connection(&http.logs);
    }
    let status = match error.is_parse_too_large() {
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        false => StatusCode::BAD_REQUEST,
    };
    record.status = Some(status.as_u16());
    record.refused(&Refusal::new(Reason::RequestUnreadable, error.to_string()));
}

/// Completes when a client outside of the mesh, which may be anybody, keeps a connection open and has asked nothing on it for so long. A
/// connection in a tunnel is kept.
async fn unused(edge: bool, phase: &Phase, limit: Duration) {
    match edge {
        // The others need no room for it.
        true => Box::pin(phase.idle(limit)).await,
        false => std::future::pending::<()>().await,
    }
}

/// Completes when the drain has gone on for so long that a client which has not asked since does not seem to ask any more.
async fn silent(drain: &Watch) {
    begins(drain).await;
    tokio::time::sleep(LAST_REQUEST).await;
}

/// Completes when the drain begins. A connection is woken several times for each request, and has itself told of the drain only once: all who
/// wait for that share a lock.
async fn begins(drain: &Watch) {
    // So that it is told whatever else it has done in its turn.
    let mut begins = pin!(unconstrained(drain.draining()));
    let mut told: Option<Waker> = None;
    poll_fn(|cx| {
        if !drain.is_draining() && told.as_ref().is_some_and(|told| told.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        told = Some(cx.waker().clone());
        begins.as_mut().poll(cx)
    })
    .await;
}

fn max_header(proxy: &Proxy, tunnel: &Tunnel, protocol: AppProtocol) -> usize {
    const DEFAULT: usize = 60 * 1024;
    select::chain(&proxy.config.load(), tunnel, protocol).map_or(DEFAULT, |(_, http)| http.max_header_bytes)
}

/// One request, to the head of its response.
pub(super) async fn handle(
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    protocol: AppProtocol,
    upgrades: TaskTracker,
    (over, phase, beside): (Over, Option<Phase>, Option<Arc<Beside>>),
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let style = Style { grpc: is_grpc(request.headers()) };
    let kind = if style.grpc { "grpc" } else { "http" };
    // It goes from hand to hand until the response has ended, and each would have room for it.
    let mut record = Box::new(Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, kind));
    record.request = Some((request.method().clone(), request.uri().path().to_owned()));
    record.beside.clone_from(&beside);
    record.on = (protocol == AppProtocol::Http2).then(|| over.phase());
    let Some(place) = proxy.telemetry.admit(proxy.limits.requests) else {
        return answer::refused(&mut record, style, StatusCode::SERVICE_UNAVAILABLE, &Refusal::new(Reason::RequestLimit, ""));
    };
    headers::arrived(&mut request, tunnel.edge.map(|_| (tunnel.peer.address.ip(), tunnel.scheme())));
    let snapshot = proxy.config.load_full();
    let arrived = arrive(&proxy, &tunnel, &snapshot, protocol, &mut request, &mut record);
    let Arrived { chain, http, mut target, known } = match arrived {
        Ok(arrived) => arrived,
        Err(refused) => {
            record.service = asked_for(&snapshot, &tunnel, protocol);
            return refuse(&mut record, style, &request, refused);
        }
    };
    let mut passed = Passed::default();
    // For what nobody takes, and whose token is not believed, nobody is asked.
    if !http.asks.is_empty() && known.route.is_ok() && known.believed.is_ok() {
        let asking = Asking {
            proxy: &proxy,
            snapshot: &snapshot,
            tunnel: &tunnel,
            http: &http,
            metadata: known.metadata(),
            phase: phase.as_ref(),
            beside: beside.as_deref(),
        };
        match Box::pin(asking.ask(&mut request, &mut target)).await {
            Ok(allowed) => passed = allowed,
            Err(refused) => {
                record.service = chain.service();
                let mut response = refused.answer(&mut record, style);
                told_by(known.route.as_ref().ok(), &tunnel, &view(&request, &target), &mut record, &mut response);
                return response;
            }
        }
    }
    let before = passed.before.take();
    let admitted = select::admits(&tunnel, &http, view(&request, &target), &known);
    if admitted.is_ok() {
        record.dry_run = select::dry_run(&tunnel, &chain, &http, view(&request, &target), &known);
    }
    record.note(|told| {
        if known.believed.is_err() {
            return;
        }
        let connection = explain::decided(&chain.rbac, &authz::subject(&tunnel, None, None));
        let subject = authz::subject(&tunnel, Some(view(&request, &target)), known.metadata());
        told.rules = connection.into_iter().chain(explain::decided(&http.rbac, &subject)).collect();
    });
    let mut response = match (admitted, known.route) {
        (Ok(()), Ok(route)) => {
            let exchange = Exchange { proxy, tunnel, snapshot, chain, http, route, target, style, upgrades };
            act(exchange, request, record, Hold { place, over, phase, before, passage: None }).await
        }
        (Err(refused), route) => {
            record.service = chain.service();
            let mut response = refuse(&mut record, style, &request, refused);
            told_by(route.as_ref().ok(), &tunnel, &view(&request, &target), &mut record, &mut response);
            response
        }
        (Ok(()), Err(refused)) => {
            record.service = chain.service();
            refuse(&mut record, style, &request, refused)
        }
    };
    passed.tell(response.headers_mut());
    response
}

/// What takes a request, and what is known of it before anybody is asked.
struct Arrived {
    chain: Arc<Chain>,
    http: Arc<HttpChain>,
    target: select::Target,
    known: select::Known,
}

/// Finds what takes a request. What is told and logged of it begins here, with its tokens taken out that are not to be seen.
fn arrive(
    proxy: &Arc<Proxy>,
    tunnel: &Tunnel,
    snapshot: &Snapshot,
    protocol: AppProtocol,
    request: &mut Request<Incoming>,
    record: &mut Record,
) -> Result<Arrived, select::Refused> {
    let (chain, http) = select::chain(snapshot, tunnel, protocol)?;
    record.metrics.clone_from(&chain.metrics);
    let target = select::target(request, &http);
    // Once it was seen how much the client has written itself. What has no target is logged as it came.
    if target.is_ok() {
        let known_client = tunnel.peer.certificate.as_ref().filter(|_| http.tells_client);
        headers::client_certificate(request.headers_mut(), known_client);
    }
    record.logged = Logged::request(&http.logs, request, tunnel.scheme());
    let mut target = target?;
    if tunnel.edge.is_some() {
        target.scheme = tunnel.scheme();
    }
    record.targets(&target.path_and_query, &target.authority, target.scheme);
    let mut known = select::known(snapshot, tunnel, &chain, &http, view(request, &target))?;
    record.note(|told| told.chain = Some(chain.name.clone()));
    let changed = known.changed.take();
    let is_another = changed.is_some() || http.tracing.is_some();
    if let Some(changed) = changed {
        *request.headers_mut() = changed.headers;
        target.path_and_query = changed.path_and_query;
    }
    record.span = http.tracing.as_ref().map(|tracing| Span::begin(proxy, tunnel, tracing, request, &target));
    if let Some(logged) = record.logged.as_mut().filter(|_| is_another) {
        logged.sent(request.headers(), &target.path_and_query, &target.authority);
    }
    Ok(Arrived { chain, http, target, known })
}

/// Says of a request which route would have taken it, and makes of its answer what that and one of its clusters make of responses (so does
/// Envoy).
fn told_by(
    route: Option<&Arc<Route>>,
    tunnel: &Tunnel,
    view: &RequestView<'_>,
    record: &mut Record,
    response: &mut Response<ResponseBody>,
) {
    let Some(route) = route else { return };
    record.route = Some(route.name.clone());
    let Action::Forward(forwarding) = &route.action else { return };
    let Some(weight) = forwarding.choose(fastrand::u64(..)) else { return };
    answer::changed(response.headers_mut(), |headers| {
        for changes in route.response_changes(&weight.response_headers) {
            changes.apply(headers, view, tunnel.peer.uri.as_deref());
        }
    });
}

/// A refusal, with what a client needs to know to do better.
fn refuse<B>(
    record: &mut Record,
    style: Style,
    request: &Request<B>,
    (status, refusal): select::Refused,
) -> Response<ResponseBody> {
    // Nothing is known of a call whose head is too large, as in Envoy.
    let style = Style { grpc: style.grpc && status != StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE };
    let mut response = answer::refused(record, style, status, &refusal);
    if refusal.reason == Reason::TokenInvalid {
        authn::challenge(request, &mut response);
    }
    response
}

/// Has a request meet what comes before its route, and does with it what that says.
async fn act(
    mut exchange: Exchange,
    mut request: Request<Incoming>,
    mut record: Box<Record>,
    mut hold: Hold,
) -> Response<ResponseBody> {
    let Exchange { chain, http, route, target, tunnel, .. } = &exchange;
    record.route = Some(route.name.clone());
    if !matches!(route.action, Action::Forward(_)) {
        record.service = chain.service();
    }
    let policy = route.filters().cors.as_ref().filter(|_| http.cors);
    let crossing = policy.map(|policy| policy.decide(&view(&request, target)));
    if let Some(Crossing::Answered(headers)) = crossing {
        record.service = chain.service();
        record.reason = Reason::Ok;
        return answer::plain(&mut record, Style { grpc: false }, StatusCode::OK, String::new(), headers);
    }
    let met = match limiter::meet(&exchange, &mut request, &mut record).await {
        Ok(met) => sizes::meet(&exchange, &request, &mut hold, &mut record, met),
        refused => refused,
    };
    let met = match met {
        Ok(met) => met,
        Err(mut answered) => {
            record.service = chain.service();
            told_by(Some(route), tunnel, &view(&request, target), &mut record, &mut answered);
            if let Some(Crossing::Passed(headers)) = crossing {
                answered.headers_mut().extend(headers);
            }
            return *answered;
        }
    };
    let mut response = match Processors::of(&exchange) {
        None => take(exchange, request, record, hold).await,
        // Few have such, and the others need no room for them.
        Some(mut processors) => {
            let told = processors.request(&mut request, &mut exchange.target, &mut hold, record.beside.as_deref());
            let response = match Box::pin(told).await {
                Ok(()) => Box::pin(take(exchange, request, record, hold)).await,
                Err(end) => {
                    let Exchange { chain, route, target, tunnel, style, .. } = &exchange;
                    record.service = chain.service();
                    let refused = end.is_refusal();
                    let mut answered = end.answer(Some(record.as_mut()), *style);
                    // What a processor says is as it says it.
                    if refused {
                        told_by(Some(route), tunnel, &view(&request, target), &mut record, &mut answered);
                    }
                    answered
                }
            };
            Box::pin(processors.response(response)).await
        }
    };
    if let Some(Crossing::Passed(headers)) = crossing {
        response.headers_mut().extend(headers);
    }
    met.tell(response.headers_mut());
    response
}

/// Does with a request what its route says, if there is room for it.
async fn take(exchange: Exchange, request: Request<Incoming>, mut record: Box<Record>, hold: Hold) -> Response<ResponseBody> {
    let Exchange { chain, http, route, target, tunnel, style, .. } = &exchange;
    let style = *style;
    // What was refused or answered before has taken no place.
    if let Err(refused) = admission::admit(http, &view(&request, target), style, &mut record) {
        record.service = chain.service();
        return *refused;
    }
    match &route.action {
        // By far the largest part of what a request needs, which those that are answered here do without.
        Action::Forward(_) => Box::pin(forward::forward(exchange, request, record, hold)).await,
        Action::Redirect(redirect) => {
            let location = redirect.location(&view(&request, target), &route.when.path);
            record.reason = Reason::Ok;
            let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
            // A call is told its status, as of any other answer of ours.
            let mut response = answer::plain(&mut record, style, status, String::new(), HeaderMap::new());
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
                record.answered(response.headers());
            }
            change_response(route, tunnel, &view(&request, target), response)
        }
        Action::Direct(direct) => {
            record.reason = Reason::RouteDirectResponse;
            let status = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let headers = match status.is_server_error() {
                true => crate::terminate::reason_headers(&Refusal::new(Reason::RouteDirectResponse, "")),
                false => HeaderMap::new(),
            };
            let response = answer::plain(&mut record, style, status, direct.body.clone(), headers);
            change_response(route, tunnel, &view(&request, target), response)
        }
    }
}

/// The service asked for, where no cluster was chosen that would tell.
fn asked_for(snapshot: &Snapshot, tunnel: &Tunnel, protocol: AppProtocol) -> Option<Arc<ServiceInfo>> {
    select::chain(snapshot, tunnel, protocol).ok()?.0.service()
}

fn change_response(
    route: &Route,
    tunnel: &Tunnel,
    view: &RequestView<'_>,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    answer::changed(response.headers_mut(), |headers| {
        for changes in route.response_headers.iter() {
            changes.apply(headers, view, tunnel.peer.uri.as_deref());
        }
    });
    response
}

/// The request as rules see it.
pub fn view<'a, B>(request: &'a Request<B>, target: &'a select::Target) -> RequestView<'a> {
    RequestView {
        method: request.method().as_str(),
        scheme: target.scheme,
        authority: &target.authority,
        path_and_query: &target.path_and_query,
        headers: request.headers(),
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

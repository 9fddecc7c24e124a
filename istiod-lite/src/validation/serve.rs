//! `POST /validate` under TLS, for the API server.
//!
//! Anybody in the cluster can send something here, as an API server has no identity that every cluster would give it. So all of it is
//! bounded, and no address has more than its share: connections, the length and age of a request, and what is decided at one time. What
//! cannot be answered is an error, and the object in question passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::drain::Watch;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::judge::AtEdge;
use super::lines::Lines;
use super::review::{Refusal, Reviewed, review};
use crate::accept::{Acceptor, Connection};
use crate::mesh::Mesh;
use crate::share::Shares;
use crate::source::NamespacedName;

/// Where reviews are sent.
pub const PATH: &str = "/validate";
/// Connections at once, of which the API servers have one for each request that they wait for.
const CONNECTIONS: usize = 256;
/// Those of one address. All API servers may have the same one, as where a tunnel leads from them to the nodes.
const OF_AN_ADDRESS: usize = CONNECTIONS / 2;
/// Bytes of a request: an object as it was and as it is to be, of 1.5 MiB each at most, and what is around them.
const BODY: usize = 4 << 20;
/// Requests that are held at one time, from the first byte of the body to the decision.
const HELD: usize = 16;
/// Those of one address.
const HELD_OF_AN_ADDRESS: usize = HELD / 4;
/// Until a request has to be answered, less than an API server waits.
const DEADLINE: Duration = Duration::from_secs(2);
/// A connection without a request is closed after so long: later than the API server closes it, so that no request meets its end.
const IDLE: Duration = Duration::from_mins(3);

/// How long a connection may be without a request.
#[derive(Clone, Copy)]
struct Patience {
    /// At first. The API server opens one because it has something to ask.
    first: Duration,
    /// Later on, longer than [`IDLE`]: then it is that somebody does not read the answers.
    next: Duration,
}

const PATIENCE: Patience = Patience { first: Duration::from_secs(30), next: IDLE.saturating_add(Duration::from_secs(30)) };

/// What requests share.
struct Shared {
    root_namespace: String,
    at_edge: Arc<dyn Fn(&NamespacedName) -> bool + Send + Sync>,
    holding: Semaphore,
    /// Decisions take less than a millisecond, and are made one at a time so that nobody can take all processors and memory.
    deciding: Arc<Semaphore>,
    lines: Lines,
}

impl Shared {
    fn new(root_namespace: String, at_edge: impl Fn(&NamespacedName) -> bool + Send + Sync + 'static) -> Self {
        let (holding, deciding) = (Semaphore::new(HELD), Arc::new(Semaphore::new(1)));
        Self { root_namespace, at_edge: Arc::new(at_edge), holding, deciding, lines: Lines::default() }
    }
}

/// Answers reviews on `listener` until the drain begins, then finishes those that it has. Which Gateways are at the edge `mesh` knows.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, root_namespace: String, mesh: Arc<Mesh>, drain: Watch) {
    let at_edge = move |name: &NamespacedName| mesh.index().ingress(name).is_some();
    let shared = Arc::new(Shared::new(root_namespace, at_edge));
    let shares = Shares::new(OF_AN_ADDRESS, HELD_OF_AN_ADDRESS);
    let (mut incoming, accepting) = Acceptor::new(listener, tls).at_most(CONNECTIONS).shared(shares).incoming();
    let serving = async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = drain.draining() => break,
                Some(_) = connections.join_next() => {}
                next = incoming.next() => match next {
                    Some(Ok(connection)) => drop(connections.spawn(serve_one(connection, Arc::clone(&shared), drain.clone()))),
                    Some(Err(_)) => {}
                    None => break,
                },
            }
        }
        drop(incoming);
        while connections.join_next().await.is_some() {}
    };
    tokio::join!(serving, accepting);
}

async fn serve_one(connection: Connection, shared: Arc<Shared>, drain: Watch) {
    let own = connection.requests();
    attend(connection, &shared, own.as_deref(), drain.draining(), PATIENCE).await;
}

/// Answers the requests of one connection until it ends, `drain` completes, or none came for too long.
async fn attend(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    own: Option<&Semaphore>,
    drain: impl Future<Output = ()>,
    patience: Patience,
) {
    let asked = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        asked.notify_one();
        async move { Ok::<_, Infallible>(answer(request, shared, own).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(connection), service);
    let (mut connection, mut drain) = (std::pin::pin!(connection), std::pin::pin!(drain));
    let (mut draining, mut until) = (false, Instant::now() + patience.first);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = asked.notified() => until = Instant::now() + patience.next,
            () = sleep_until(until) => return tracing::debug!("a connection on which nothing is asked was closed"),
            () = drain.as_mut(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of an API server ended early");
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The answer to a request; `own` has a permit for each that its address may have at one time.
async fn answer<B: Body<Data = Bytes, Error: Into<Cause>>>(
    request: Request<B>,
    shared: &Shared,
    own: Option<&Semaphore>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, format!("reviews are sent to {PATH}"));
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "reviews are sent by POST".to_owned());
    }
    let answer = match timeout(DEADLINE, reviewed(request, shared, own)).await {
        Ok(answer) => answer,
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("no decision within {} s", DEADLINE.as_secs()))),
    };
    match answer {
        Ok(reviewed) => {
            told(&reviewed, &shared.lines);
            let mut response = Response::new(Full::new(Bytes::from(reviewed.answer.to_string())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err((status, why)) => {
            metrics::counter!("istiod_lite_validations_total", "kind" => "", "outcome" => "failed").increment(1);
            if let Some(left_out) = shared.lines.next(Instant::now()) {
                tracing::warn!(%status, why, left_out, "a review was not answered, and its object passes");
            }
            plain(status, why)
        }
    }
}

type Failure = (StatusCode, String);

async fn reviewed<B: Body<Data = Bytes, Error: Into<Cause>>>(
    request: Request<B>,
    shared: &Shared,
    own: Option<&Semaphore>,
) -> Result<Reviewed, Failure> {
    // First its own, so that what waits for that takes no place of others.
    let _own = match own {
        Some(own) => Some(own.acquire().await.map_err(|error| unavailable(&error))?),
        None => None,
    };
    // Until the decision, as the body is there for so long.
    let _holding = shared.holding.acquire().await.map_err(|error| unavailable(&error))?;
    let body = Limited::new(request.into_body(), BODY)
        .collect()
        .await
        .map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, format!("the body cannot be read, of at most {BODY} bytes: {error}")))?;
    let deciding = Arc::clone(&shared.deciding).acquire_owned().await.map_err(|error| unavailable(&error))?;
    let (root_namespace, at_edge) = (shared.root_namespace.clone(), Arc::clone(&shared.at_edge));
    let decision = tokio::task::spawn_blocking(move || {
        // It is held to the end, even if nobody waits for that any more.
        let _deciding = deciding;
        let at_edge: AtEdge<'_> = &*at_edge;
        review(&body.to_bytes(), &root_namespace, at_edge)
    });
    decision.await.map_err(|error| unavailable(&error))?.map_err(|why| (StatusCode::BAD_REQUEST, why))
}

fn unavailable(error: &dyn std::error::Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn told(Reviewed { refusal, outcome, kind, .. }: &Reviewed, lines: &Lines) {
    metrics::counter!("istiod_lite_validations_total", "kind" => *kind, "outcome" => *outcome).increment(1);
    if let Some(Refusal { user, object, why, dry_run }) = refusal
        && let Some(left_out) = lines.next(Instant::now())
    {
        tracing::info!(user, object, why, dry_run, left_out, "an object was refused");
    }
}

/// What is no review is the last on its connection: it may be anybody's.
fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;

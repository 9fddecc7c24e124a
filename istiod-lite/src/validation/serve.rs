//! `POST /validate` under TLS, for the API server.
//!
//! Anybody in the cluster can send something here, so all of it is bounded: connections, the length and age of a request, and what is
//! decided at one time. What cannot be answered is an error, and the object in question passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::drain::Watch;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::review::{Refusal, Reviewed, review};
use crate::accept::{Acceptor, Connection};

/// Where reviews are sent.
pub const PATH: &str = "/validate";
/// Connections at once, of which the API servers have one for each request that they wait for.
const CONNECTIONS: usize = 256;
/// Bytes of a request: an object as it was and as it is to be, of 1.5 MiB each at most, and what is around them.
const BODY: usize = 4 << 20;
/// Requests that are read at one time.
const READ: usize = 16;
/// Until a request has to be answered, less than an API server waits.
const DEADLINE: Duration = Duration::from_secs(2);
/// A connection without a request is closed after so long: later than the API server closes it, so that no request meets its end.
const IDLE: Duration = Duration::from_mins(3);

/// What requests share.
struct Shared {
    root_namespace: String,
    reading: Semaphore,
    /// Decisions take less than a millisecond, and are made one at a time so that nobody can take all processors and memory.
    deciding: Arc<Semaphore>,
}

impl Shared {
    fn new(root_namespace: String) -> Self {
        Self { root_namespace, reading: Semaphore::new(READ), deciding: Arc::new(Semaphore::new(1)) }
    }
}

/// Answers reviews on `listener` until the drain begins, then finishes those that it has.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, root_namespace: String, drain: Watch) {
    let shared = Arc::new(Shared::new(root_namespace));
    let (mut incoming, accepting) = Acceptor::new(listener, tls).at_most(CONNECTIONS).incoming();
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
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(connection), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of an API server ended early");
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

async fn answer<B: Body<Data = Bytes, Error: Into<Cause>>>(request: Request<B>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, format!("reviews are sent to {PATH}"));
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "reviews are sent by POST".to_owned());
    }
    let answer = match timeout(DEADLINE, reviewed(request, shared)).await {
        Ok(answer) => answer,
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("no decision within {} s", DEADLINE.as_secs()))),
    };
    match answer {
        Ok(reviewed) => {
            told(&reviewed);
            let mut response = Response::new(Full::new(Bytes::from(reviewed.answer.to_string())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err((status, why)) => {
            metrics::counter!("istiod_lite_validations_total", "kind" => "", "outcome" => "failed").increment(1);
            tracing::warn!(%status, why, "a review was not answered, and its object passes");
            plain(status, why)
        }
    }
}

type Failure = (StatusCode, String);

async fn reviewed<B: Body<Data = Bytes, Error: Into<Cause>>>(request: Request<B>, shared: &Shared) -> Result<Reviewed, Failure> {
    let body = {
        let _reading = shared.reading.acquire().await.map_err(|error| unavailable(&error))?;
        let body = Limited::new(request.into_body(), BODY).collect().await;
        body.map_err(|error| {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body cannot be read, of at most {BODY} bytes: {error}"))
        })?
    };
    let deciding = Arc::clone(&shared.deciding).acquire_owned().await.map_err(|error| unavailable(&error))?;
    let root_namespace = shared.root_namespace.clone();
    let decision = tokio::task::spawn_blocking(move || {
        // It is held to the end, even if nobody waits for that any more.
        let _deciding = deciding;
        review(&body.to_bytes(), &root_namespace)
    });
    decision.await.map_err(|error| unavailable(&error))?.map_err(|why| (StatusCode::BAD_REQUEST, why))
}

fn unavailable(error: &dyn std::error::Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn told(Reviewed { refusal, outcome, kind, .. }: &Reviewed) {
    metrics::counter!("istiod_lite_validations_total", "kind" => *kind, "outcome" => *outcome).increment(1);
    if let Some(Refusal { user, object, why }) = refusal {
        tracing::info!(user, object, why, "an object was refused");
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    async fn said<B: Body<Data = Bytes, Error: Into<Cause>>>(method: Method, path: &str, body: B) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let answer = answer(request, &Shared::new("istio-system".to_owned())).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn full(text: impl Into<Bytes>) -> Full<Bytes> {
        Full::new(text.into())
    }

    /// A body that nobody sends.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn reviews_are_answered_and_nothing_else() {
        let asked = r#"{"request": {"uid": "u", "operation": "CREATE", "object": {"apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": "AUDIT"}}}}"#;
        let (status, text) = said(Method::POST, "/validate?timeout=3s", full(asked)).await;
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &answer["response"]["allowed"]), (200, &serde_json::Value::Bool(false)), "{text}");
        assert_eq!(said(Method::POST, "/", full(asked)).await.0, 404);
        assert_eq!(said(Method::GET, PATH, full("")).await.0, 405);
        let (status, text) = said(Method::POST, PATH, full("{}")).await;
        assert!(status == 400 && text.contains("it is no AdmissionReview"), "{text}");
    }

    #[tokio::test]
    async fn what_is_too_long_or_never_comes_is_not_waited_for() {
        let (status, text) = said(Method::POST, PATH, full(vec![b' '; BODY + 1])).await;
        assert!(status == 413 && text.contains("of at most 4194304 bytes"), "{text}");
        let (status, text) = said(Method::POST, PATH, Never).await;
        assert!(status == 503 && text.contains("no decision within 2 s"), "{text}");
    }
}

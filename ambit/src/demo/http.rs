//! Serving HTTP/1.1 and HTTP/2 without TLS: what an ordinary program in a pod does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{MARKER, MARKER_HEADER, SERVED_BY_HEADER, VERSION_HEADER};
use crate::error::{Error, Result};

/// Longest request body taken.
const MAX_BODY: usize = 64 * 1024;

/// Patience with requests in flight when asked to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// A request with its body read.
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Query, or nothing.
    pub query: String,
    /// Body as text.
    pub body: String,
}

impl Call {
    /// The value of a query parameter (`name=value`, not percent-encoded).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What a program answers.
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Body as text.
    pub body: String,
}

impl Reply {
    /// 200 with a body.
    pub fn ok(body: String) -> Self {
        Self { status: StatusCode::OK, body }
    }

    /// Another status with a body.
    pub fn status(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }
}

/// Who answers: name and version.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Name of the program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Waits for SIGTERM or SIGINT; for ever if the process cannot catch them.
pub async fn shutdown() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Serves `handler` on `listen` until SIGTERM or SIGINT, then finishes the requests in flight.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve<H, F>(listen: SocketAddr, signature: Signature, handler: H) -> Result<()>
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.map_err(|cause| Error::io(format!("listening on {listen}"), cause))?;
    let handler = Arc::new((signature, handler));
    let (stop, stopped) = watch::channel(());
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            // A failure here is about one connection, or about a limit that passes.
            match listener.accept().await {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, handler.clone(), stopped.clone()))),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown() => {}
    }
    drop(stop);
    connections.close();
    let _late = tokio::time::timeout(DRAIN, connections.wait()).await;
    Ok(())
}

async fn connection<H, F>(stream: TcpStream, handler: Arc<(Signature, H)>, mut stopped: watch::Receiver<()>)
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let _without = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, handler.clone()));
    let server = auto::Builder::new(TokioExecutor::new());
    let serving = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _closed = serving.as_mut() => return,
        _stop = stopped.changed() => serving.as_mut().graceful_shutdown(),
    }
    let _closed = serving.await;
}

async fn answer<H, F>(request: Request<Incoming>, handler: Arc<(Signature, H)>) -> Result<Response<Full<Bytes>>, Infallible>
where
    H: Fn(Call) -> F,
    F: Future<Output = Reply>,
{
    let (parts, body) = request.into_parts();
    let reply = match Limited::new(body, MAX_BODY).collect().await {
        Err(error) => Reply::status(StatusCode::BAD_REQUEST, error.to_string()),
        Ok(body) => {
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            let path = parts.uri.path().to_owned();
            let query = parts.uri.query().unwrap_or_default().to_owned();
            (handler.1)(Call { method: parts.method, path, query, body }).await
        }
    };
    let signature = &handler.0;
    let response = Response::builder().status(reply.status).header(MARKER_HEADER, MARKER);
    let response = response.header(SERVED_BY_HEADER, &signature.name).header(VERSION_HEADER, &signature.version);
    Ok(response.body(Full::from(reply.body)).unwrap_or_else(|_| {
        let mut wrong = Response::new(Full::from("this program's name or version does not fit into a header"));
        *wrong.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        wrong
    }))
}

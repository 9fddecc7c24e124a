//! The endpoints: pods whose node proxy is this process, each with one port.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ambit_hbone::{Incoming, ServerConfig, TunnelStream, server};
use ambit_testbed::Pod;
use ambit_tls::Svid;
use anyhow::Context as _;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming as Body;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::mesh::identity;

/// The port that answers.
const PORT: u16 = 8080;

/// What becomes of a connection to the port.
pub type Handler = Arc<dyn Fn(TunnelStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Answers each request with the status that `answer` says.
pub fn http<F: Future<Output = u16> + Send + 'static>(
    answer: impl Fn(Request<()>) -> F + Clone + Send + Sync + 'static,
) -> Handler {
    http_or_not(move |request| {
        let status = answer(request);
        async move { Some(status.await) }
    })
}

/// The same; what has no status is broken off, without a word.
pub fn http_or_not<F: Future<Output = Option<u16>> + Send + 'static>(
    answer: impl Fn(Request<()>) -> F + Clone + Send + Sync + 'static,
) -> Handler {
    Arc::new(move |tunnel: TunnelStream| {
        let answer = answer.clone();
        async move {
            let service = hyper::service::service_fn(move |request: Request<Body>| {
                let answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    body.collect().await?;
                    let status = answer(Request::from_parts(head, ())).await.context("no answer")?;
                    anyhow::Ok(Response::builder().status(status).body(Full::new(Bytes::from_static(b"done")))?)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(tunnel), service).await;
        }
        .boxed()
    })
}

/// Serves a pod, for the waypoint alone.
pub fn serve(pod: &Pod, svid: &Svid, handler: Handler) -> anyhow::Result<()> {
    let tls = ambit_tls::server_config(svid, &[])?;
    let listener = pod.listen(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 15008)))?;
    let waypoint = identity("waypoint");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, waypoint, handler) = (Arc::clone(&tls), waypoint.clone(), Arc::clone(&handler));
            tokio::spawn(async move {
                let (stream, peer) = ambit_tls::handshake::accept(stream, tls, Duration::from_secs(10)).await?;
                let known = peer == waypoint;
                let tunnels = move |incoming| tunnel(incoming, known, Arc::clone(&handler));
                server::serve(stream, &ServerConfig::default(), std::future::pending(), tunnels).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(())
}

async fn tunnel(incoming: Incoming, known: bool, handler: Handler) {
    let port = incoming.authority().ok().map(ambit_hbone::Authority::port);
    if !known || port != Some(PORT) {
        let _gone = incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
        return;
    }
    if let Ok(tunnel) = incoming.accept(HeaderMap::new()) {
        handler(tunnel).await;
    }
}

/// How long a good answer takes.
const WORK: Duration = Duration::from_millis(10);
/// And one that is late: longer than anybody waits for it.
const LATE: Duration = Duration::from_secs(5);

/// How a backend fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It answers 503.
    Status,
    /// It breaks off.
    Resets,
    /// It answers when nobody waits any more.
    Late,
}

/// A backend that fails a share of the requests that come to it, and counts all.
pub struct Failing {
    came: AtomicU64,
    percent: AtomicU64,
    how: Mutex<How>,
}

impl Default for Failing {
    fn default() -> Self {
        Self { came: AtomicU64::default(), percent: AtomicU64::default(), how: Mutex::new(How::Status) }
    }
}

impl Failing {
    /// How many have come.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// From now on so many of a hundred fail.
    pub fn fail(&self, percent: u64) {
        self.percent.store(percent, Ordering::Relaxed);
    }

    /// And they do so.
    pub fn fail_by(&self, percent: u64, how: How) {
        *self.how.lock().unwrap_or_else(PoisonError::into_inner) = how;
        self.fail(percent);
    }

    /// Answers the next one with a status, or not at all. Those that fail are spread evenly.
    pub async fn answer(&self) -> Option<u16> {
        let (before, percent) = (self.came.fetch_add(1, Ordering::Relaxed), self.percent.load(Ordering::Relaxed));
        let failed = |of: u64| of * percent / 100;
        let how = *self.how.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = (failed(before + 1) > failed(before)).then_some(how);
        tokio::time::sleep(if fails == Some(How::Late) { LATE } else { WORK }).await;
        match fails {
            None | Some(How::Late) => Some(200),
            Some(How::Status) => Some(503),
            Some(How::Resets) => None,
        }
    }
}

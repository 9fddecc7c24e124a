//! The endpoints: pods whose node proxy is this process, each with one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_hbone::{Incoming, ServerConfig, TunnelStream, server};
use ambit_testbed::Pod;
use ambit_tls::Svid;
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
    Arc::new(move |tunnel: TunnelStream| {
        let answer = answer.clone();
        async move {
            let service = hyper::service::service_fn(move |request: Request<Body>| {
                let answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    body.collect().await?;
                    let status = answer(Request::from_parts(head, ())).await;
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

/// A backend that fails a share of the requests that come to it, and counts all.
#[derive(Default)]
pub struct Failing {
    came: AtomicU64,
    percent: AtomicU64,
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

    /// The status of the next one. Those that fail are spread evenly.
    pub fn next(&self) -> u16 {
        let (before, percent) = (self.came.fetch_add(1, Ordering::Relaxed), self.percent.load(Ordering::Relaxed));
        let failed = |of: u64| of * percent / 100;
        if failed(before + 1) > failed(before) { 503 } else { 200 }
    }
}

//! Copies of requests. They never hold up the request they are of: each is sent by a task of its own once the request's body has passed,
//! and is let go where there are too many, where its body was too long to keep, or when its time is over.

use std::{sync::Arc, time::Duration};

use ambit_model::{Refusal, route::Mirror};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::BodyExt;
use metrics::counter;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{forward::Exchange, headers};
use crate::{
    proxy::Proxy,
    upstream::{Candidates, Kept, RequestBody, candidates},
};

/// The longest that a copy takes, from the head of its request to the end of its response.
const TIME: Duration = Duration::from_secs(60);
/// How much of a response is read so that its connection can be used again, in bytes.
const READ: usize = 1 << 20;
/// Counts copies by what became of them.
const MIRRORED: &str = "ambit_mirrored_requests_total";

/// Copies that are under way. Clones share them.
#[derive(Debug, Clone)]
pub struct Mirrors {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Mirrors {
    /// At most so many at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), tasks: TaskTracker::new() }
    }

    /// Waits for those under way; no more are to be started.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a copy is made of.
pub struct Copy<'a> {
    /// The request as it is sent on, without its body.
    pub head: Request<()>,
    /// Its path, as it is sent on.
    pub path: &'a str,
    /// Its host, as it is sent on.
    pub authority: &'a str,
    /// What passes of its body.
    pub kept: Kept,
    /// What the client speaks.
    pub version: Version,
}

/// Begins to send a copy, if there is a place for it.
pub fn start(exchange: &Exchange, mirror: &Mirror, copy: Copy<'_>) {
    let Ok(place) = exchange.proxy.mirrors.places.clone().try_acquire_owned() else {
        return counter!(MIRRORED, "result" => "dropped").increment(1);
    };
    let (request, candidates, http2) = match prepared(exchange, mirror, &copy) {
        Ok(prepared) => prepared,
        Err(reason) => return failed(&mirror.cluster, &reason),
    };
    let (proxy, kept, cluster) = (exchange.proxy.clone(), copy.kept, mirror.cluster.clone());
    exchange.proxy.mirrors.tasks.spawn(async move {
        match tokio::time::timeout(TIME, send(&proxy, &candidates, request, kept, http2)).await {
            Ok(Ok(true)) => counter!(MIRRORED, "result" => "answered").increment(1),
            Ok(Ok(false)) => counter!(MIRRORED, "result" => "dropped").increment(1),
            Ok(Err(refusal)) => failed(&cluster, &refusal.to_string()),
            Err(_) => failed(&cluster, "its time was over"),
        }
        drop(place);
    });
}

fn failed(cluster: &str, reason: &str) {
    counter!(MIRRORED, "result" => "failed").increment(1);
    tracing::debug!(cluster, reason, "a copy of a request is lost");
}

fn prepared(exchange: &Exchange, mirror: &Mirror, copy: &Copy<'_>) -> Result<(Request<()>, Candidates, bool), String> {
    let snapshot = &exchange.snapshot;
    let cluster = snapshot.clusters.get(&mirror.cluster).ok_or("there is no such cluster")?;
    let candidates = candidates(cluster, exchange.tunnel.destination, None).map_err(|refusal| refusal.to_string())?;
    let http2 = candidates.protocol.is_http2(copy.version);
    let mut request = super::forward::head(&copy.head);
    let authority = mirror.authority(copy.authority);
    headers::target(&mut request, copy.path, &authority, http2).map_err(|error| error.to_string())?;
    Ok((request, candidates, http2))
}

/// Sends a copy to one endpoint and reads the answer; `false` if there is no whole body to send.
async fn send(proxy: &Proxy, candidates: &Candidates, head: Request<()>, kept: Kept, http2: bool) -> Result<bool, Refusal> {
    let (Some(body), Some(to)) = (kept.passed().await, candidates.endpoints.first()) else { return Ok(false) };
    // From here on the body is kept by what is sent of it.
    drop(kept);
    let mut request: Request<RequestBody> = head.map(|()| body);
    let cluster = &candidates.cluster;
    let mut checkout = proxy.http.checkout(proxy, cluster, to, http2, false, || {}).await?;
    let mut again = true;
    let sent = loop {
        match proxy.http.send(&to.to, checkout, request).await {
            Ok(sent) => break sent,
            // The connection at hand was closed meanwhile.
            Err(mut unsent) => match unsent.request.take() {
                Some(unsent) if again => request = unsent,
                _ => return Err(unsent.refusal),
            },
        }
        again = false;
        checkout = proxy.http.checkout(proxy, cluster, to, http2, true, || {}).await?;
    };
    let mut body = sent.response.into_body();
    let mut left = READ;
    while let Some(frame) = body.frame().await {
        // A body that broke off may go on to say so for ever, and its connection carries nothing more.
        let Ok(frame) = frame else { return Ok(true) };
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return Ok(true),
        }
    }
    sent.lease.release();
    Ok(true)
}

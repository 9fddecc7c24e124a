//! Finds out that a peer is gone.

use std::time::Duration;

use h2::{Ping, PingPong};

/// Pings every `interval`; returns when an answer takes longer than `limit`, or the connection ends.
pub(crate) async fn until_silent(pings: Option<PingPong>, interval: Duration, limit: Duration) {
    // The handle is taken once for each connection; without it there is nothing to watch.
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(limit, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection reports its own end.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

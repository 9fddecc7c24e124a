//! A connection that stopped being HTTP (WebSocket): bytes both ways until both sides have ended.

use std::sync::atomic::Ordering;

use ambit_model::Reason;
use ambit_runtime::drain::Watch;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::observe::{InFlight, Record};

/// Carries the bytes of an upgraded connection to their end; the drain's deadline cuts it.
pub async fn carry(client: OnUpgrade, upstream: OnUpgrade, mut record: Record, place: InFlight, drain: Watch) {
    let outcome = async {
        let (client, upstream) = tokio::try_join!(client, upstream).map_err(|error| error.to_string())?;
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map_err(|error| error.to_string())
    };
    match outcome.await {
        Ok((sent, received)) => {
            record.sent.fetch_add(sent, Ordering::Relaxed);
            record.received += received;
            record.reason = Reason::Ok;
        }
        Err(error) => {
            record.reason = if drain.is_draining() { Reason::Draining } else { Reason::UpstreamReset };
            record.error = Some(error);
        }
    }
    drop((record, place));
}

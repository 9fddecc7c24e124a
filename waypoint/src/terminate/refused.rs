//! Requests in a connection of tunnels that are refused before anything is known of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ambit_hbone::{OnRefused, Refused};
use ambit_model::{Reason, Refusal};
use metrics::counter;

use super::Peer;
use crate::{
    observe::{Record, Telemetry},
    proxy::Proxy,
};

/// Counts each of them, by reason; node proxies have the same.
const REFUSED: &str = "ambit_tunnels_refused_total";

const fn reason(refused: Refused) -> Reason {
    match refused {
        Refused::TooMany => Reason::ConnectionLimit,
        Refused::NotConnect => Reason::NotConnect,
        Refused::HeadersTooLarge => Reason::RequestTooLarge,
        Refused::Broken => Reason::TunnelProtocolError,
    }
}

/// Records what is refused in the connection of `peer` to `local`: all of it as a metric, the first of each kind in the access log.
pub fn told(proxy: &Proxy, peer: &Arc<Peer>, local: SocketAddr) -> OnRefused {
    let (telemetry, peer): (Arc<Telemetry>, _) = (proxy.telemetry.clone(), peer.clone());
    let logged: [AtomicBool; Refused::ALL.len()] = Default::default();
    OnRefused::new(move |refused, count| {
        counter!(REFUSED, "reason" => reason(refused).label()).increment(count.into());
        let place = Refused::ALL.iter().position(|one| *one == refused);
        // A peer can bring about as many as it likes.
        if place.and_then(|place| logged.get(place)).is_some_and(|logged| !logged.swap(true, Ordering::Relaxed)) {
            let mut record = Record::new(telemetry.clone(), peer.clone(), local, "tcp");
            record.refused(&Refusal::new(reason(refused), refused.text()));
        }
    })
}

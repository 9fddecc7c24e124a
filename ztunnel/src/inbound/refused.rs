//! Requests in a tunnel connection that are refused before anything is known of them.

use std::sync::atomic::{AtomicBool, Ordering};

use ambit_hbone::{OnRefused, Refused};
use ambit_model::{Reason, Refusal};
use metrics::counter;

use super::hbone::Peer;

/// Counts each of them, by reason.
const REFUSED: &str = "ambit_tunnels_refused_total";

/// The reason code.
const fn reason(refused: Refused) -> Reason {
    match refused {
        Refused::TooMany => Reason::ConnectionLimit,
        Refused::NotConnect => Reason::NotConnect,
        Refused::HeadersTooLarge => Reason::RequestTooLarge,
        Refused::Broken => Reason::TunnelProtocolError,
    }
}

/// Records what is refused in the connection of `peer`: all of it as a metric, the first of each kind in the access log.
pub(super) fn told(peer: &Peer) -> OnRefused {
    let peer = peer.clone();
    let logged: [AtomicBool; Refused::ALL.len()] = Default::default();
    OnRefused::new(move |refused, count| {
        counter!(REFUSED, "reason" => reason(refused).label()).increment(count.into());
        let place = Refused::ALL.iter().position(|one| *one == refused);
        let logged = place.and_then(|place| logged.get(place));
        // A peer can bring about as many as it likes.
        if logged.is_some_and(|logged| !logged.swap(true, Ordering::Relaxed)) {
            peer.record().refused(Refusal::new(reason(refused), refused.text()));
        }
    })
}

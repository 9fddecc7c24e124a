//! Listeners of one port that end TLS for the same hosts.

use gateway_api::gateways::{Gateway, GatewayListeners};

use super::Condition;
use crate::index::{HTTPS, covers_host, listener_host, unserved};

/// What is said of a listener whose hosts are partly those of others of its port, and nothing of any other (GEP-3567).
pub(super) fn overlapping(gateway: &Gateway, listener: &GatewayListeners) -> Option<Condition> {
    let serves = |listener: &GatewayListeners| listener.protocol == HTTPS && unserved(gateway, listener).is_none();
    if !serves(listener) {
        return None;
    }
    let own = listener_host(listener);
    let overlaps = |other: &&GatewayListeners| {
        let host = listener_host(other);
        other.name != listener.name
            && other.port == listener.port
            && serves(other)
            && (covers_host(&own, &host) || covers_host(&host, &own))
    };
    let others: Vec<&str> = gateway.spec.listeners.iter().filter(overlaps).map(|other| other.name.as_str()).collect();
    if others.is_empty() {
        return None;
    }
    let message = format!(
        "Listener {}: hosts of it are hosts of {} as well, and a client may ask for both on one connection; a request for the host of a \
         listener other than that of its connection is answered 421",
        listener.name,
        others.join(", ")
    );
    Some(Condition::new("OverlappingTLSConfig", true, "OverlappingHostnames", message))
}

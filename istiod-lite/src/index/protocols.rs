//! What listeners at the edge of the mesh speak, and which routes that takes.

use gateway_api::gateways::{GatewayListeners, GatewayListenersTlsMode};

use super::ingress::HTTPS;
use crate::source::Kind;

/// The protocol of listeners whose clients speak TLS, of which they look at the server name alone.
pub const TLS: &str = "TLS";
/// The protocol of listeners that look at nothing.
pub const TCP: &str = "TCP";

/// Whether a listener passes TLS on as it is.
#[must_use]
pub fn passes_tls_on(listener: &GatewayListeners) -> bool {
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    listener.protocol == TLS && mode == Some(&GatewayListenersTlsMode::Passthrough)
}

/// Whether TLS ends at a listener, so that it has to have a certificate.
#[must_use]
pub fn ends_tls(listener: &GatewayListeners) -> bool {
    listener.protocol == HTTPS || listener.protocol == TLS && !passes_tls_on(listener)
}

/// Whether a listener carries connections, and does not look for requests in them.
#[must_use]
pub fn carries_connections(listener: &GatewayListeners) -> bool {
    matches!(listener.protocol.as_str(), TLS | TCP)
}

/// The kinds of routes that a listener can take; what it says may leave it fewer. Waypoints take those for requests.
#[must_use]
pub fn kinds(listener: &GatewayListeners) -> &'static [Kind] {
    match listener.protocol.as_str() {
        TLS => &[Kind::TlsRoute],
        TCP => &[Kind::TcpRoute],
        _ => &[Kind::HttpRoute, Kind::GrpcRoute],
    }
}

/// Whether connections for either of two listeners on one port can be told apart by the server name that they begin with, or the requests in
/// them by their host.
pub(super) fn share_a_port(one: &GatewayListeners, other: &GatewayListeners) -> bool {
    let by_name = |listener: &GatewayListeners| matches!(listener.protocol.as_str(), HTTPS | TLS);
    one.protocol == other.protocol || by_name(one) && by_name(other)
}

//! Where a connection is accepted: mutual TLS with the waypoint's own certificate, HTTP/2, one CONNECT per connection inside.

mod accept;
mod peer;
mod refused;
mod tunnel;

pub(crate) use accept::known;
pub use accept::{accept_loop, peer_reason};
pub use peer::Peer;
pub(crate) use tunnel::decide;
pub use tunnel::{Tunnel, reason_headers, refuse};

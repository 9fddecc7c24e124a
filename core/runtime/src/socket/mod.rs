//! TCP sockets as the proxies need them: marked, transparent, inside a pod's network namespace.

mod connect;
mod listen;
mod original;

pub use connect::{ConnectOptions, DEFAULT_CONNECT_TIMEOUT, connect};
pub use listen::{ListenOptions, listen};
pub use original::{canonical, original_destination, original_destination_from};

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The packet mark of the proxy's own sockets, so that the capture rules in the pod let them pass. Wire contract §5.
pub const PROXY_MARK: u32 = 0x539;

/// First keepalive probe after this much silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(180);
/// Time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Bytes that may wait unsent in the kernel for a connection that carries tunnels.
const UNSENT: u32 = 256 << 10;

/// Settings of every connection, opened or accepted: no Nagle delay, keepalive so that a vanished peer is noticed. What a listener of
/// [`listen`] accepts, and what [`connect`] opens, has them already.
pub fn tune(stream: &TcpStream) -> std::io::Result<()> {
    tune_socket(&SockRef::from(stream), false)
}

fn tune_socket(socket: &socket2::Socket, tunnel: bool) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if tunnel {
        socket.set_tcp_notsent_lowat(UNSENT)?;
    }
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))
}

/// Closes the connection so that the peer sees a reset (RST) and not an orderly end: what was sent must not look complete.
pub fn reset(stream: TcpStream) {
    // If the option cannot be set the peer is already gone, and the close below ends our side.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

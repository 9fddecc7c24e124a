//! Sockets as the proxies need them: marked, transparent, inside a pod's network namespace.

mod connect;
mod datagram;
mod listen;
mod original;
mod stock;

pub use connect::{ConnectOptions, DEFAULT_CONNECT_TIMEOUT, connect};
pub use datagram::{receive, receive_no_more, send_to};
pub use listen::{ListenOptions, listen};
pub use original::{canonical, original_destination, original_destination_from};
pub use stock::Stock;

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The packet mark of the proxy's own sockets, so that the capture rules in the pod let them pass. Wire contract §5.
pub const PROXY_MARK: u32 = 0x539;
/// The bit of a packet's mark by which a living proxy vouches for a connection between two pods of its node that does not pass it.
pub const VOUCHED: u32 = 0x2000_0000;

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

/// Makes the connection one of the current runtime. When that cannot be done, it is [`reset`].
///
/// # Errors
/// When the kernel refuses to watch it.
pub fn adopt(stream: std::net::TcpStream) -> std::io::Result<TcpStream> {
    close_by_reset(&SockRef::from(&stream), true)?;
    let stream = TcpStream::from_std(stream)?;
    close_by_reset(&SockRef::from(&stream), false)?;
    Ok(stream)
}

/// Whether closing the connection resets it.
fn close_by_reset(socket: &socket2::Socket, reset: bool) -> std::io::Result<()> {
    socket.set_linger(reset.then_some(Duration::ZERO))
}

/// Closes the connection so that the peer sees a reset (RST) and not an orderly end: what was sent must not look complete.
pub fn reset(stream: TcpStream) {
    // If the option cannot be set the peer is already gone, and the close below ends our side.
    let _ = close_by_reset(&SockRef::from(&stream), true);
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_was_taken_over_ends_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        drop(adopt(client).unwrap());
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_while_it_is_opened_is_reset_and_one_that_stands_ends_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, options) = (listener.local_addr().unwrap(), ConnectOptions::default());
        let given_up = begun(connect(to, &options)).await;
        assert!(given_up, "on one machine the kernel is done at once, and the runtime has not looked yet");
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        drop(connect(to, &options).await.unwrap());
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    /// Whether `work` waits after it was begun; it is dropped then.
    async fn begun(work: impl Future) -> bool {
        let mut work = Box::pin(work);
        std::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx).is_pending())).await
    }
}

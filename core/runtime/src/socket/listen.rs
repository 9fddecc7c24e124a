//! Listeners.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::tune_socket;
use crate::netns::NetNs;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How to listen. The default is an ordinary listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions<'a> {
    /// SO_MARK of the listener, inherited by what it accepts; usually [`PROXY_MARK`](super::PROXY_MARK).
    pub mark: Option<u32>,
    /// SO_REUSEPORT: a new proxy may listen beside the old one while it drains. Wire contract §5.
    pub reuse_port: bool,
    /// IP_TRANSPARENT: accept connections to addresses that are not ours.
    pub transparent: bool,
    /// What is accepted carries tunnels: as [`ConnectOptions::tunnel`](super::ConnectOptions::tunnel).
    pub tunnel: bool,
    /// Listen inside this network namespace; `None` means the one of the process.
    pub netns: Option<&'a NetNs>,
}

/// Listens on `address`. `[::]` also accepts IPv4 (see [`canonical`](super::canonical) for the addresses seen then). What is accepted has
/// `TCP_NODELAY` and keepalive from the start, for the kernel gives it the listener's settings.
///
/// # Errors
/// As `socket(2)`, `bind(2)`, `listen(2)`.
pub fn listen(address: SocketAddr, options: &ListenOptions<'_>) -> io::Result<TcpListener> {
    let socket = match options.netns {
        Some(netns) => netns.run(|| new_listener(address, options))??,
        None => new_listener(address, options)?,
    };
    TcpListener::from_std(socket.into())
}

fn new_listener(address: SocketAddr, options: &ListenOptions<'_>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    tune_socket(&socket, options.tunnel)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if options.transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_the_settings_of_a_proxy_s_connection() {
        let options = ListenOptions { tunnel: true, ..ListenOptions::default() };
        let listener = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), super::super::KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), super::super::UNSENT);
    }
}

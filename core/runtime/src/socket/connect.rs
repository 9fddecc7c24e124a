//! Opening connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{Stock, close_by_reset, tune_socket};
use crate::netns::NetNs;

/// How long [`connect`] waits for the peer unless told otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to open a connection. The default is an ordinary one with [`DEFAULT_CONNECT_TIMEOUT`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    /// Send from this address although it may not be ours (IP_TRANSPARENT; needs CAP_NET_ADMIN or CAP_NET_RAW in the namespace).
    /// The port is chosen by the kernel. Must be of the family of the destination.
    pub bind_source: Option<IpAddr>,
    /// SO_MARK of the socket, usually [`PROXY_MARK`](super::PROXY_MARK).
    pub mark: Option<u32>,
    /// The connection carries tunnels, many streams in one: little is left waiting in the kernel, so that a short message does not queue
    /// behind megabytes of another stream (TCP_NOTSENT_LOWAT).
    pub tunnel: bool,
    /// Create the socket inside this network namespace; `None` means the one of the process.
    pub netns: Option<&'a NetNs>,
    /// Take the socket out of this stock, whose namespace and mark it then has; not for one that carries tunnels.
    pub stock: Option<&'a Stock>,
    /// Sockets whose descriptor has this number or a higher one are not used, as if there were no descriptor left (`EMFILE`).
    pub below: Option<RawFd>,
    /// How long to wait for the peer.
    pub timeout: Duration,
}

impl Default for ConnectOptions<'_> {
    fn default() -> Self {
        Self {
            bind_source: None,
            mark: None,
            tunnel: false,
            netns: None,
            stock: None,
            below: None,
            timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }
}

/// Opens a TCP connection with `TCP_NODELAY` and keepalive. One that is given up meanwhile is reset: it may stand already, and the peer
/// must not take it for one that came to its end.
///
/// # Errors
/// As `connect(2)`; `TimedOut` when the peer did not answer within the timeout; `InvalidInput` when the families of source and
/// destination differ.
pub async fn connect(destination: SocketAddr, options: &ConnectOptions<'_>) -> io::Result<TcpStream> {
    let new = || unbound(Domain::for_address(destination), options.tunnel, options.mark);
    let socket = match (options.stock.filter(|_| !options.tunnel), options.netns) {
        (Some(stock), _) => stock.take(destination)?,
        (None, Some(netns)) => netns.run(new)??,
        (None, None) => new()?,
    };
    if options.below.is_some_and(|below| socket.as_raw_fd() >= below) {
        return Err(nix::errno::Errno::EMFILE.into());
    }
    if let Some(source) = options.bind_source {
        bind_transparent(&socket, source, destination)?;
    }
    close_by_reset(&socket, true)?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(destination);
    match tokio::time::timeout(options.timeout, connecting).await {
        Ok(connected) => {
            let stream = connected?;
            close_by_reset(&SockRef::from(&stream), false)?;
            Ok(stream)
        }
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {destination} within {:?}", options.timeout)))
        }
    }
}

/// A socket of the namespace that the thread is in.
pub(super) fn unbound(domain: Domain, tunnel: bool, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    tune_socket(&socket, tunnel)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

fn bind_transparent(socket: &Socket, source: IpAddr, destination: SocketAddr) -> io::Result<()> {
    match (source, destination) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
        (IpAddr::V6(_), SocketAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot connect from {source} to {destination}: not of one address family"),
            ));
        }
    }
    // The port is chosen at connect time, when the destination is known: one port can then serve many destinations. An IP-level
    // option that IPv6 sockets honour as well.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

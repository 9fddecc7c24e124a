//! Where a redirected connection was going before the kernel's rules changed its destination.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination that the client asked for, from the kernel's connection tracking: `SO_ORIGINAL_DST` for IPv4 (also on a dual
/// stack socket) and `IP6T_SO_ORIGINAL_DST` for IPv6.
///
/// # Errors
/// `ENOENT` when the connection is not tracked (nothing redirected it). The caller decides; there is no fallback to the local
/// address, which for a redirected connection would be the proxy itself.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    original_destination_from(stream, stream.local_addr()?)
}

/// As [`original_destination`], when an address of the connection is known already: its own or its peer's, by which the families are
/// told apart.
///
/// # Errors
/// As [`original_destination`].
pub fn original_destination_from(stream: &TcpStream, known: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let found = match canonical(known) {
        SocketAddr::V4(_) => socket.original_dst_v4()?,
        SocketAddr::V6(_) => socket.original_dst_v6()?,
    };
    found.as_socket().map(canonical).ok_or_else(|| io::Error::other("the original destination is not an IP address"))
}

/// The address with an IPv4-mapped IPv6 address (`::ffff:1.2.3.4`, as a dual-stack listener shows IPv4 peers) written as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_becomes_ipv4_and_others_stay() {
        let check = |from: &str, to: &str| assert_eq!(canonical(from.parse().unwrap()), to.parse().unwrap());
        check("[::ffff:10.0.0.1]:80", "10.0.0.1:80");
        check("10.0.0.1:80", "10.0.0.1:80");
        check("[fd00::1]:80", "[fd00::1]:80");
    }
}

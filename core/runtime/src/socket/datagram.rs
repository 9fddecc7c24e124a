//! UDP sockets, as a DNS proxy needs them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::{ConnectOptions, ListenOptions};
use crate::netns::NetNs;

/// Receives datagrams at `address`, with the mark, the sharing of the port and the namespace of `options`.
///
/// # Errors
/// As `socket(2)` and `bind(2)`.
pub fn receive(address: SocketAddr, options: &ListenOptions<'_>) -> io::Result<UdpSocket> {
    make(options.netns, || {
        let socket = new(address, options.mark)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    })
}

/// A socket that sends to `destination` and receives from there alone, from a port that the kernel chooses at random, with the mark and
/// the namespace of `options`.
///
/// # Errors
/// As `socket(2)` and `connect(2)`; nothing is sent, so that the destination need not exist.
pub fn send_to(destination: SocketAddr, options: &ConnectOptions<'_>) -> io::Result<UdpSocket> {
    make(options.netns, || {
        let socket = new(destination, options.mark)?;
        socket.connect(&destination.into())?;
        Ok(socket)
    })
}

/// Has nothing more delivered to the socket, which goes on sending: other sockets that share its port receive instead. What has arrived
/// before is read from what is given back, which asks the kernel: the runtime may not have heard of the last of it.
///
/// # Errors
/// As `connect(2)` and `dup(2)`.
pub fn receive_no_more(socket: &UdpSocket) -> io::Result<std::net::UdpSocket> {
    let arrived = socket.as_fd().try_clone_to_owned()?;
    // A connected socket receives from its peer alone, and nobody sends from the discard port of the loopback device.
    let nobody = match socket.local_addr()? {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 9)),
    };
    SockRef::from(socket).connect(&nobody.into())?;
    Ok(arrived.into())
}

fn new(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

fn make(netns: Option<&NetNs>, new: impl FnOnce() -> io::Result<Socket>) -> io::Result<UdpSocket> {
    let socket = match netns {
        Some(netns) => netns.run(new)??,
        None => new()?,
    };
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_receives_no_more_hands_its_port_on_and_still_answers() {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let old = receive("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let at = old.local_addr().unwrap();
        let client = send_to(at, &ConnectOptions::default()).unwrap();
        client.send(b"one").await.unwrap();
        let mut buffer = [0; 8];
        let (length, from) = old.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"one");
        client.send(b"last").await.unwrap();
        let young = receive(at, &options).unwrap();
        // The runtime has had no time to hear of the last one.
        let (length, _) = receive_no_more(&old).unwrap().recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"last");
        for _ in 0..8 {
            client.send(b"two").await.unwrap();
            let (length, _) = young.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"two");
        }
        old.send_to(b"three", from).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"three");
    }
}

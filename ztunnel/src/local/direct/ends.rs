//! The ends of a pod's TCP sockets, and their violent end (`linux/sock_diag.h`, `linux/inet_diag.h`).

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ambit_runtime::{netns::NetNs, socket::canonical};
use rustix::net::netlink;

use super::{
    netlink::{ACK, Listener, Message, REQUEST, Socket, attributes, messages},
    queue::acknowledged,
};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// The groups that hear of destroyed TCP sockets: SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY.
const GROUPS: u32 = 1 | 1 << 2;
const TCP: u8 = 6;
const SYN_SENT: u8 = 2;
/// States in which the other side has ended.
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
const INFO: u16 = 2;
/// Whatever the socket's cookie is.
const ANY_COOKIE: [u8; 8] = [255; 8];
/// `struct inet_diag_msg`.
const DIAG: usize = 72;

/// A socket of the pod and what it carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socked {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) carried: Carried,
    /// The kernel's name of it.
    cookie: [u8; 8],
}

/// What a socket counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::local) struct Carried {
    /// Bytes that the application gave and that were sent, each counted once.
    pub(super) sent: u64,
    /// Whether the socket still waits for the first answer.
    pub(super) opening: bool,
    /// Whether the other side has ended, and this one not yet.
    pub(super) half_open: bool,
    /// Bytes that came from the other side.
    pub(super) received: u64,
    /// Sequence numbers that the other side acknowledged; 0 when a client never was answered.
    pub(super) acknowledged: u64,
}

/// Hears of the ends of sockets in one namespace.
#[derive(Debug)]
pub(super) struct Ends(Listener);

impl Ends {
    pub(super) fn open(netns: &NetNs) -> io::Result<Self> {
        Ok(Self(Socket::open(netns, netlink::SOCK_DIAG, GROUPS)?.into_listener()?))
    }

    /// Waits for ends and gives each to `note`, until there are none for now. Returns whether some were missed.
    pub(super) async fn turn(&self, mut note: impl FnMut(Socked)) -> io::Result<bool> {
        self.0.ready().await?;
        let (mut buffer, mut missed) = ([0; 4096], false);
        loop {
            match self.0.receive(&mut buffer) {
                Ok(bytes) => {
                    messages(bytes).filter(|(kind, _)| *kind == BY_FAMILY).filter_map(|(_, body)| read(body)).for_each(&mut note)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => missed = true,
                Err(error) => return Err(error),
            }
        }
        Ok(missed)
    }
}

/// Asks about sockets of one namespace, and ends them.
#[derive(Debug)]
pub(in crate::local) struct Sockets(Socket);

impl Sockets {
    pub(in crate::local) fn open(netns: &NetNs) -> io::Result<Self> {
        Socket::open(netns, netlink::SOCK_DIAG, 0).map(Self)
    }

    /// What the open socket with these addresses has carried.
    pub(in crate::local) fn carried(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Carried> {
        self.find(local, remote).map(|found| found.carried)
    }

    /// Ends the socket with these addresses: its application sees that it was aborted, the other side a reset.
    pub(in crate::local) fn destroy(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
        let cookie = self.find(local, remote)?.cookie;
        acknowledged(self.0.ask(&request(DESTROY, REQUEST | ACK, local, remote, cookie), &mut [0; 4096])?)
    }

    /// Whether sockets can be ended at all.
    pub(in crate::local) fn probe(&self) -> io::Result<()> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        match acknowledged(self.0.ask(&request(DESTROY, REQUEST | ACK, nowhere, nowhere, [1; 8]), &mut [0; 4096])?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("a socket was ended that cannot be")),
        }
    }

    /// Where there is no such connection the kernel answers with the socket that listens for it, which must not be taken for it.
    fn find(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Socked> {
        let mut buffer = [0; 4096];
        let bytes = self.0.ask(&request(BY_FAMILY, REQUEST, local, remote, ANY_COOKIE), &mut buffer)?;
        match messages(bytes).find(|(kind, _)| *kind == BY_FAMILY) {
            // Without details it is what remains of a socket for a while (TIME_WAIT).
            Some((_, body)) => read(body)
                .filter(|found| found.local == local && found.remote == remote)
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
            None => acknowledged(bytes).and(Err(io::ErrorKind::NotFound.into())),
        }
    }
}

/// `struct inet_diag_req_v2`, for one socket.
fn request(kind: u16, flags: u16, local: SocketAddr, remote: SocketAddr, cookie: [u8; 8]) -> Message {
    let family = if local.is_ipv4() { 2 } else { 10 };
    let mut body = vec![family, TCP, 1 << (INFO - 1), 0, 255, 255, 255, 255];
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for ip in [local.ip(), remote.ip()] {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets().into_iter().chain([0; 12])),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend([0; 4]);
    body.extend(cookie);
    Message::new(kind, flags, &body)
}

fn read(body: &[u8]) -> Option<Socked> {
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let ip = |at: usize| {
        let bytes: [u8; 16] = *body.get(at..)?.first_chunk()?;
        Some(match *body.first()? {
            2 => IpAddr::from(*bytes.first_chunk::<4>()?),
            10 => IpAddr::from(Ipv6Addr::from(bytes)),
            _ => return None,
        })
    };
    let address = |ip, port| canonical(SocketAddr::new(ip, port));
    let info = attributes(body.get(DIAG..)?).find(|(kind, _)| *kind == INFO)?.1;
    let number = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    // Of `struct tcp_info`: tcpi_bytes_sent less tcpi_bytes_retrans, tcpi_bytes_received and tcpi_bytes_acked.
    let ended = matches!(*body.get(1)?, CLOSE_WAIT | LAST_ACK | CLOSING);
    // The end takes a sequence number as well.
    let received = number(128)?.saturating_sub(u64::from(ended));
    let sent = number(200)?.saturating_sub(number(208)?);
    let (opening, half_open) = (*body.get(1)? == SYN_SENT, *body.get(1)? == CLOSE_WAIT);
    let carried = Carried { sent, opening, half_open, received, acknowledged: number(120)? };
    let cookie = *body.get(44..)?.first_chunk()?;
    Some(Socked { cookie, local: address(ip(8)?, port(4)?), remote: address(ip(24)?, port(6)?), carried })
}

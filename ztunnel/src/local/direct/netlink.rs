//! Netlink messages, as far as packet queues and socket diagnostics need them. Numbers are the kernel's (`linux/netlink.h`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use ambit_runtime::netns::NetNs;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with, sockopt,
};
use tokio::{io::Interest, net::UnixDatagram};

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
/// The type of an answer that is an error, or the acknowledgement of a request.
pub(super) const ERROR: u16 = 2;
const HEADER: usize = 16;
/// What may wait in a socket, in bytes: some thousand packets or events.
const BUFFER: usize = 4 << 20;

/// A netlink socket in a pod's namespace.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Opens one that hears these multicast groups, as bits.
    pub(super) fn open(netns: &NetNs, protocol: Protocol, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = netns.run(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(protocol)))??;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            // Without the right to more than the system's limit, as much as that.
            sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        }
        Ok(Self(socket))
    }

    /// Sends a request whose answer is there when this returns, as the kernel answers in the call.
    pub(super) fn ask<'a>(&self, message: &Message, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        deliver(self.0.as_fd(), message)?;
        let count = receive(self.0.as_fd(), &mut *buffer)?;
        Ok(buffer.get(..count).unwrap_or_default())
    }

    pub(super) fn into_listener(self) -> io::Result<Listener> {
        UnixDatagram::from_std(self.0.into()).map(Listener)
    }
}

/// A [`Socket`] that a runtime can wait for. What the runtime takes it for does not matter: it waits for readiness of any descriptor.
#[derive(Debug)]
pub(super) struct Listener(UnixDatagram);

impl Listener {
    /// Waits until there is something to receive.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// As [`Socket::receive`]; when there is nothing, [`Listener::ready`] waits again.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let count = self.0.try_io(Interest::READABLE, || receive(self.0.as_fd(), &mut *buffer))?;
        Ok(buffer.get(..count).unwrap_or_default())
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        deliver(self.0.as_fd(), message)
    }
}

fn deliver(socket: BorrowedFd<'_>, message: &Message) -> io::Result<()> {
    let bytes = message.bytes();
    let sent = send(socket, &bytes, SendFlags::empty())?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a message was sent in part")) }
}

/// Receives what is there now, whole messages, and returns how long it is.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, length) = recv(socket, buffer, RecvFlags::TRUNC)?;
    if length > count {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any should be"));
    }
    Ok(count)
}

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = length.to_ne_bytes();
        }
        bytes
    }
}

/// Appends an attribute, padded to a multiple of four bytes.
pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The messages in `bytes`: type and body.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in `bytes`: type, without its flags, and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_garbage_ends_the_reading() {
        let bytes = Message::new(20, REQUEST, &[1, 2, 3, 4]).attribute(3, &[9, 9, 9]).attribute(4, &[7]).bytes();
        let twice = [bytes.clone(), bytes].concat();
        let read: Vec<_> = messages(&twice).collect();
        assert_eq!(read.len(), 2);
        for (kind, body) in read {
            assert_eq!((kind, &body[..4]), (20, &[1, 2, 3, 4][..]));
            let found: Vec<_> = attributes(&body[4..]).collect();
            assert_eq!(found, [(3, &[9, 9, 9][..]), (4, &[7][..])]);
        }
        for garbage in [&[][..], &[1, 0, 0, 0], &[200, 0, 0, 0, 1, 1, 1, 1], &[0; 40], &[255; 40]] {
            assert!(messages(garbage).take(9).count() < 9 && attributes(garbage).take(99).count() < 99, "{garbage:?}");
        }
    }
}

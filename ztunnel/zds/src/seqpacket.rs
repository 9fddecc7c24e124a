//! Unix sockets of type SOCK_SEQPACKET that carry file descriptors: the transport between node agent and node proxy.
//!
//! tokio has no such socket. Its datagram socket and its listener wait for readiness of any Unix socket, and the system calls made then are
//! those of this one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::{
    io::Interest,
    net::{UnixDatagram, UnixListener},
};

use crate::file::SocketFile;

/// The longest packet of the handover protocol, in bytes (wire contract, section 5).
pub const MAX_PACKET: usize = 1024;
/// Descriptors taken from one packet; the protocol needs one, and what is more than this the kernel closes.
const MAX_DESCRIPTORS: usize = 4;

/// One connection.
#[derive(Debug)]
pub struct Connection(UnixDatagram);

/// A packet and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, closed on drop.
    pub descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when nobody listens there; `WouldBlock` when its queue is full.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::of(socket)
    }

    fn of(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixDatagram::from_std(socket.into())?))
    }

    /// Sends one packet, with at most one descriptor.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, || send_now(self.0.as_fd(), bytes, descriptor)).await?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a packet was sent in part")) }
    }

    /// Sends one packet without a descriptor, if there is room for it at once.
    ///
    /// # Errors
    /// When there is none, or the peer is gone.
    pub fn send_at_once(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = send_now(self.0.as_fd(), bytes, None)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a packet was sent in part")) }
    }

    /// Sends nothing any more, which the peer takes for the end; what it sends all the same is received.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn finish(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Receives the next packet; nothing when the peer has closed the connection.
    ///
    /// # Errors
    /// When the packet, or what came with it, was longer than [`MAX_PACKET`].
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        let packet = self.0.async_io(Interest::READABLE, || receive_now(self.0.as_fd())).await?;
        // A packet of the protocol is never empty, so an empty read is the end of the stream.
        Ok(if packet.bytes.is_empty() && packet.descriptors.is_empty() { None } else { Some(packet) })
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

fn receive_now(socket: BorrowedFd<'_>) -> io::Result<Packet> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is longer than the protocol allows"));
    }
    bytes.truncate(received.bytes);
    Ok(Packet { bytes, descriptors })
}

/// A listener; its file is removed when it is dropped, unless another one listens there by then.
#[derive(Debug)]
pub struct Listener {
    /// First, so that it is dropped before the socket.
    _file: SocketFile,
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`, in place of whoever listened there before. Only the owner of the file may connect.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let (socket, file) = SocketFile::listen(SocketType::SEQPACKET, path)?;
        Ok(Self { _file: file, socket: UnixListener::from_std(socket.into())? })
    }

    /// The next connection.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub async fn accept(&self) -> io::Result<Connection> {
        let (accepted, _) = self.socket.accept().await?;
        Connection::of(accepted.into_std()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_packet_arrives_whole_and_with_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        let listener = Listener::bind(&path).unwrap();
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        let file = tempfile::tempfile().unwrap();
        client.send(b"first", Some(file.as_fd())).await.unwrap();
        client.send(b"second", None).await.unwrap();
        let first = server.receive().await.unwrap().unwrap();
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (&b"first"[..], 1));
        let second = server.receive().await.unwrap().unwrap();
        assert_eq!((second.bytes.as_slice(), second.descriptors.len()), (&b"second"[..], 0));
        drop(client);
        assert!(server.receive().await.unwrap().is_none());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn who_has_ended_its_side_hears_still_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        let listener = Listener::bind(&path).unwrap();
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        client.finish().unwrap();
        assert!(server.receive().await.unwrap().is_none());
        server.send_at_once(b"late").unwrap();
        assert_eq!(client.receive().await.unwrap().unwrap().bytes, b"late");
        assert!(client.send(b"more", None).await.is_err());
        drop(client);
        assert!(server.send_at_once(b"too late").is_err());
    }

    #[tokio::test]
    async fn a_packet_longer_than_the_protocol_allows_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        let listener = Listener::bind(&path).unwrap();
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        client.send(&[1; MAX_PACKET + 1], None).await.unwrap();
        assert!(server.receive().await.is_err());
    }
}

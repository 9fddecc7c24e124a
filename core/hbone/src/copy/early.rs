//! What a client says before there is an answer to the request for its tunnel.
//!
//! It is sent without being taken out of the client's socket. So whatever becomes of the request, the bytes are still there to be sent again in
//! another tunnel or to be lost with the client's connection, and nobody has to keep them meanwhile. The pump passes over them.

use std::io::{self, IoSliceMut};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};
use tokio::{io::Interest, net::TcpStream};

use crate::{TunnelStream, mux::EARLY};

/// Places that are read into at once.
const SLICES: usize = 20;

/// Copies what a client has sent into `places` and leaves it in the socket; 0 at its end. Not by way of the runtime, which may not have heard
/// of it yet.
///
/// # Errors
/// `WouldBlock` when there is nothing yet; anything else is the socket's failure, which it tells only once.
pub(crate) fn peek(tcp: &TcpStream, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    loop {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recvmsg(tcp, places, &mut RecvAncillaryBuffer::default(), flags) {
            Err(rustix::io::Errno::INTR) => {}
            seen => return Ok(seen?.bytes),
        }
    }
}

/// Sends what a client whose socket is ready has said. False if there was nothing yet; true if it is not worth trying again.
///
/// # Errors
/// When the client's connection has failed.
pub(crate) fn send(tunnel: &mut TunnelStream, client: &TcpStream) -> io::Result<bool> {
    // By way of the runtime, so that it is asked again when there is more; what was seen stays to be read.
    match client.try_io(Interest::READABLE, || tunnel.send_early(|places| peek(client, places))) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes `count` bytes, which were seen before, out of the socket.
pub(super) fn pass_over(tcp: &TcpStream, count: u32) {
    let mut buffer = [0; 1 << 10];
    let mut count = usize::try_from(count).unwrap_or(EARLY);
    while count > 0 {
        let most = count.min(buffer.len());
        match recv(tcp, buffer.get_mut(..most).unwrap_or_default(), RecvFlags::DONTWAIT) {
            Ok((_, taken @ 1..)) => count = count.saturating_sub(taken),
            Err(rustix::io::Errno::INTR) => {}
            // They are there unless the socket has failed, and then nobody asks for them.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Reads into `places` what follows on the first `past` bytes, by one call of `read`.
///
/// # Errors
/// Those of `read`; `WouldBlock` when nothing follows yet.
pub(super) fn read_past(
    past: &mut u32,
    places: &mut [IoSliceMut<'_>],
    read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut buffer = [0; EARLY];
    let head = usize::try_from(*past).unwrap_or(EARLY).min(EARLY);
    let mut slices: [IoSliceMut<'_>; SLICES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let passed = std::iter::once(buffer.get_mut(..head).unwrap_or_default());
    let all = passed.chain(places.iter_mut().map(|place| &mut **place));
    let mut count = 0;
    for (slice, place) in slices.iter_mut().zip(all) {
        *slice = IoSliceMut::new(place);
        count += 1;
    }
    let read = read(slices.get_mut(..count).unwrap_or_default())?;
    if read == 0 {
        *past = 0;
        return Ok(0);
    }
    *past = u32::try_from(head.saturating_sub(read)).unwrap_or(0);
    match read.saturating_sub(head) {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        more => Ok(more),
    }
}

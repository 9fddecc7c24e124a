//! The kernel's name of a network namespace.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// Not in libc yet (`asm-generic/socket.h`).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the namespace that a socket was made in: it names no other one until the machine starts anew. Since Linux 5.14.
///
/// # Errors
/// `ENOPROTOOPT` from older kernels.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to a live integer of that size.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

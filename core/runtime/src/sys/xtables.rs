//! What the kernel says of a table of the older iptables without listing its rules (`linux/netfilter_ipv4/ip_tables.h`).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, the hooks, where their chains begin and end, the number of rules, their bytes.
const INFO: usize = NAME + 4 + 5 * 4 + 5 * 4 + 4 + 4;

/// Where the chains of a table begin and end, and how many rules it has in how many bytes. `socket` is a raw socket of the family.
///
/// # Errors
/// When there is no such table, or for want of CAP_NET_ADMIN.
pub fn xtables_info(socket: BorrowedFd<'_>, six: bool, table: &str) -> io::Result<Vec<u8>> {
    let mut info = [0_u8; INFO];
    let name = info.get_mut(..table.len()).filter(|name| name.len() < NAME);
    name.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(table.as_bytes());
    let level = if six { libc::SOL_IPV6 } else { libc::SOL_IP };
    let mut length = libc::socklen_t::try_from(INFO).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes at most `length` bytes of a live array of that size.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, GET_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    if done == 0 { Ok(info.to_vec()) } else { Err(io::Error::last_os_error()) }
}

//! Whether the proxy listens in a pod's namespace, asked of the kernel (`linux/inet_diag.h`): a connection would be one more line in
//! the access log, every second and for every pod.

use std::{collections::BTreeMap, io};

use ambit_model::address::port;
use ambit_runtime::{netns::NetNs, socket::PROXY_MARK};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

const PORTS: [u16; 3] = [port::OUTBOUND, port::INBOUND_PLAINTEXT, port::HBONE];
/// Message types and flags of `linux/netlink.h` and `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 1 | 0x300;
const TCP: u8 = 6;
const LISTEN: u32 = 1 << 10;
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const DIAG: usize = 72;
/// `INET_DIAG_MARK`.
const MARK: u16 = 15;

/// What is wrong with the proxy's listeners; nothing when both are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Ports on which no socket with the proxy's mark listens.
    pub missing: Vec<u16>,
    /// Ports on which connections wait to be accepted.
    pub stalled: Vec<u16>,
}

impl Listeners {
    /// Whether no socket with the proxy's mark listens at all.
    #[must_use]
    pub fn none(&self) -> bool {
        self.missing == PORTS
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        match (self.missing.as_slice(), self.stalled.as_slice()) {
            ([], []) => None,
            ([], stalled) => Some(format!("the proxy does not accept on port {}", list(stalled))),
            (missing, _) => Some(format!("the proxy does not listen on port {}", list(missing))),
        }
    }

    /// Looks at a namespace.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn look(netns: &NetNs) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = netns.run(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG)))??;
        let mut waiting: BTreeMap<u16, u32> = BTreeMap::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            send(&socket, &request(family), SendFlags::empty())?;
            let mut buffer = vec![0; 32 << 10];
            loop {
                let (count, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
                if !read(buffer.get(..count).unwrap_or_default(), &mut waiting)? {
                    break;
                }
            }
        }
        let missing = PORTS.into_iter().filter(|port| !waiting.contains_key(port)).collect();
        let stalled = waiting.into_iter().filter(|(_, queue)| *queue > 0).map(|(port, _)| port).collect();
        Ok(Self { missing, stalled })
    }
}

fn request(family: AddressFamily) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(72);
    bytes.extend_from_slice(&72_u32.to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let family = if family == AddressFamily::INET { 2 } else { 10 };
    bytes.extend_from_slice(&[family, TCP, 0, 0]);
    bytes.extend_from_slice(&LISTEN.to_ne_bytes());
    bytes.extend_from_slice(&[0; 48]);
    bytes
}

/// Takes in a part of a dump: the longest queue of each of our ports. Returns whether there is more.
fn read(mut bytes: &[u8], waiting: &mut BTreeMap<u16, u32>) -> io::Result<bool> {
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let kind = bytes.get(4..6).and_then(|kind| kind.first_chunk()).map_or(DONE, |kind| u16::from_ne_bytes(*kind));
        let Some(body) = bytes.get(HEADER..length) else { return Ok(false) };
        match kind {
            DONE => return Ok(false),
            ERROR => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(-code));
            }
            BY_FAMILY => {
                let port = body.get(4..6).and_then(|port| port.first_chunk()).map(|port| u16::from_be_bytes(*port));
                let queue = body.get(56..60).and_then(|queue| queue.first_chunk()).map_or(0, |queue| u32::from_ne_bytes(*queue));
                if let Some(port) = port.filter(|port| PORTS.contains(port) && marked(body.get(DIAG..).unwrap_or_default())) {
                    let longest = waiting.entry(port).or_default();
                    *longest = queue.max(*longest);
                }
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Whether the attributes have the proxy's mark.
fn marked(mut bytes: &[u8]) -> bool {
    while let (Some(length), Some(kind)) = (bytes.first_chunk::<2>(), bytes.get(2..4).and_then(|kind| kind.first_chunk())) {
        let length = usize::from(u16::from_ne_bytes(*length));
        let Some(value) = bytes.get(4..length) else { return false };
        if u16::from_ne_bytes(*kind) == MARK {
            return value.first_chunk().is_some_and(|mark| u32::from_ne_bytes(*mark) == PROXY_MARK);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_in_which_nobody_listens_lacks_all_three_and_garbage_ends_the_reading() {
        let here = NetNs::current().unwrap();
        let found = Listeners::look(&here).unwrap();
        assert!(found.missing.contains(&15001), "{found:?}");
        assert!(found.complaint().is_some() && found.none());
        let mut none = BTreeMap::new();
        for garbage in [&[][..], &[1, 0, 0, 0], &[200, 0, 0, 0, 1, 1], &[255; 90]] {
            let _either = read(garbage, &mut none);
        }
        assert!(none.is_empty() && !marked(&[255; 9]) && !marked(&[0; 9]));
    }
}

//! Hears from the kernel when somebody changes the packet filter of a pod (`linux/netfilter/nfnetlink.h`), so that a repair does not
//! wait for the next look. iptables of the older kind tells nobody; there the looks have to do.

use std::io;

use ambit_runtime::netns::NetNs;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with};
use tokio::{io::Interest, net::UnixDatagram};

/// The group that hears of changed rules, NFNLGRP_NFTABLES, as a bit.
const CHANGED_RULES: u32 = 1 << 6;

/// Messages that are taken at once.
const MOST: usize = 64;

/// The changes in one namespace.
#[derive(Debug)]
pub(crate) struct Changes(Option<UnixDatagram>);

impl Changes {
    /// Listens in a namespace. Where that is refused, [`Changes::next`] never returns.
    pub(crate) fn open(netns: &NetNs) -> Self {
        let open = || -> io::Result<UnixDatagram> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = (AddressFamily::NETLINK, SocketType::RAW);
            let socket = netns.run(|| socket_with(kind.0, kind.1, flags, Some(netlink::NETFILTER)))??;
            bind(&socket, &netlink::SocketAddrNetlink::new(0, CHANGED_RULES))?;
            // What the runtime takes it for does not matter: it waits for readiness of any descriptor.
            UnixDatagram::from_std(socket.into())
        };
        match open() {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::debug!(%error, "changes of a pod's packet filter are not heard of");
                Self(None)
            }
        }
    }

    /// Waits for the next change, and forgets all that are known by then.
    pub(crate) async fn next(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        let mut buffer = [0; 4096];
        loop {
            let heard = socket.async_io(Interest::READABLE, || Ok(recv(socket, &mut buffer[..], RecvFlags::empty())?)).await;
            match heard {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some that were missed are changes as well.
                _ => break,
            }
        }
        // A pod that never stops changing its rules holds nobody else up.
        let more =
            |buffer: &mut [u8]| matches!(recv(socket, buffer, RecvFlags::DONTWAIT), Ok(_) | Err(rustix::io::Errno::NOBUFS));
        let _some_are_left = (0..MOST).all(|_| more(&mut buffer));
    }
}

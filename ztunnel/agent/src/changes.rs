//! Hears from the kernel when somebody changes the packet filter of a pod (`linux/netfilter/nfnetlink.h`) or its routing
//! (`linux/rtnetlink.h`), so that a repair does not wait for the next look, and a look need not read what nobody has changed. iptables of
//! the older kind tells nobody; there the looks have to do.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use ambit_runtime::netns::NetNs;
use futures::future::select_all;
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with},
};
use tokio::{io::Interest, net::UnixDatagram};

/// The group that hears of changed rules, NFNLGRP_NFTABLES, as a bit.
const CHANGED_RULES: u32 = 1 << 6;
/// The groups RTNLGRP_ of LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE and IPV4_NETCONF, as bits: group N is
/// bit N - 1. The last tells of `rp_filter`; of `accept_local` none does, which is read all the same every five seconds.
const CHANGED_ROUTING: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 23;

/// NETLINK_ROUTE, which is 0.
const ROUTE: Option<Protocol> = None;

/// Messages that are taken at once.
const MOST: usize = 64;

/// The changes in one namespace.
#[derive(Debug)]
pub(crate) struct Changes {
    sockets: Vec<UnixDatagram>,
    /// Whether both kinds are heard of.
    complete: bool,
    heard: AtomicBool,
}

impl Changes {
    /// Listens in a namespace. What is refused is not heard of.
    pub(crate) fn open(netns: &NetNs) -> Self {
        let open = |protocol, groups| -> io::Result<UnixDatagram> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = netns.run(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol))??;
            bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
            // What the runtime takes it for does not matter: it waits for readiness of any descriptor.
            UnixDatagram::from_std(socket.into())
        };
        let mut sockets = Vec::new();
        for (protocol, groups) in [(Some(netlink::NETFILTER), CHANGED_RULES), (ROUTE, CHANGED_ROUTING)] {
            match open(protocol, groups) {
                Ok(socket) => sockets.push(socket),
                Err(error) => tracing::debug!(%error, "changes in a pod are not heard of"),
            }
        }
        Self { complete: sockets.len() == 2, sockets, heard: AtomicBool::new(true) }
    }

    /// Waits for the next change, and forgets all that are known by then.
    pub(crate) async fn next(&self) {
        if self.sockets.is_empty() {
            return std::future::pending().await;
        }
        let ready = self.sockets.iter().map(|socket| {
            Box::pin(async move {
                // What is missed counts as heard.
                let _any =
                    socket.async_io(Interest::READABLE, || Ok(recv(socket, &mut [0; 4096][..], RecvFlags::empty())?)).await;
            })
        });
        select_all(ready).await;
        self.heard.store(true, Ordering::Relaxed);
        self.drain();
    }

    /// Whether nothing has been changed since this was asked last, as far as the kernel tells of it.
    pub(crate) fn quiet(&self) -> bool {
        self.drain();
        !self.heard.swap(false, Ordering::Relaxed) && self.complete
    }

    fn drain(&self) {
        let mut buffer = [0; 4096];
        for socket in &self.sockets {
            // A pod that never stops changing its rules holds nobody else up.
            for _ in 0..MOST {
                match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Err(Errno::AGAIN) => break,
                    // Some that were missed are changes as well.
                    _ => self.heard.store(true, Ordering::Relaxed),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_heard_of_is_never_quiet() {
        let none = Changes { sockets: Vec::new(), complete: false, heard: AtomicBool::new(false) };
        assert!(!none.quiet() && !none.quiet());
    }
}

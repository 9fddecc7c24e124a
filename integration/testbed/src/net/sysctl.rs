//! Kernel settings of a network namespace.

use std::path::Path;

use ambit_runtime::netns::NetNs;

use crate::Error;

/// A setting below `/proc/sys/net` and its value; `optional` when a kernel without it is fine too.
pub(crate) struct Setting {
    key: &'static str,
    value: &'static str,
    optional: bool,
}

const fn need(key: &'static str, value: &'static str) -> Setting {
    Setting { key, value, optional: false }
}

const fn want(key: &'static str, value: &'static str) -> Setting {
    Setting { key, value, optional: true }
}

/// For the namespace of the wire: it only bridges.
pub(crate) const WIRE: &[Setting] = &[
    // Frames between bridge ports must not go through iptables-style hooks.
    want("bridge/bridge-nf-call-iptables", "0"),
    want("bridge/bridge-nf-call-ip6tables", "0"),
    want("ipv6/conf/all/disable_ipv6", "1"),
    want("ipv6/conf/default/disable_ipv6", "1"),
];

/// How TCP shares the wire, as Linux has it unless told otherwise. A machine with BBR for the Internet would have each stream paced by
/// timers, which halves what a local wire carries.
const CONGESTION: Setting = want("ipv4/tcp_congestion_control", "cubic");

/// For everything that opens connections: many of them, one after the other, to one server.
pub(crate) const CLIENT: &[Setting] =
    &[want("ipv4/ip_local_port_range", "16384 65535"), want("ipv4/tcp_tw_reuse", "1"), CONGESTION];

/// For nodes: they route.
pub(crate) const NODE: &[Setting] = &[
    want("bridge/bridge-nf-call-iptables", "0"),
    want("bridge/bridge-nf-call-ip6tables", "0"),
    need("ipv4/ip_forward", "1"),
    need("ipv6/conf/all/forwarding", "1"),
    need("ipv6/conf/default/forwarding", "1"),
    need("ipv4/conf/all/rp_filter", "0"),
    need("ipv4/conf/default/rp_filter", "0"),
    need("ipv4/conf/all/send_redirects", "0"),
    need("ipv4/conf/default/send_redirects", "0"),
    need("ipv6/conf/all/accept_dad", "0"),
    need("ipv6/conf/default/accept_dad", "0"),
    want("ipv6/conf/default/dad_transmits", "0"),
    want("ipv4/ping_group_range", "0 0"),
    CONGESTION,
];

/// For pods: what a proxy inside needs (connections to oneself with a foreign source address, redirection to loopback).
pub(crate) const POD: &[Setting] = &[
    need("ipv4/conf/all/rp_filter", "0"),
    need("ipv4/conf/default/rp_filter", "0"),
    need("ipv4/conf/all/accept_local", "1"),
    need("ipv4/conf/all/route_localnet", "1"),
    need("ipv4/conf/default/route_localnet", "1"),
    // A node tells pods of the shorter way to their neighbours, in IPv6 without a setting against it. Answers that took it would pass by
    // the node, which has to put the service address back into them.
    need("ipv4/conf/all/accept_redirects", "0"),
    need("ipv4/conf/default/accept_redirects", "0"),
    need("ipv6/conf/all/accept_redirects", "0"),
    need("ipv6/conf/default/accept_redirects", "0"),
    need("ipv6/conf/all/accept_dad", "0"),
    need("ipv6/conf/default/accept_dad", "0"),
    want("ipv6/conf/default/dad_transmits", "0"),
    want("ipv4/ip_unprivileged_port_start", "0"),
    CONGESTION,
];

/// Applies settings inside a namespace.
pub(crate) fn set(netns: &NetNs, settings: &[Setting]) -> Result<(), Error> {
    netns
        .run(|| {
            for setting in settings {
                let path = Path::new("/proc/sys/net").join(setting.key);
                match std::fs::write(&path, setting.value) {
                    Err(_) if setting.optional => {}
                    result => result.map_err(Error::unavailable(
                        &format!("set {} to {}", path.display(), setting.value),
                        "a kernel with IPv4 and IPv6, and a writable /proc/sys (in a container: --privileged)",
                    ))?,
                }
            }
            Ok(())
        })
        .map_err(Error::io("enter a network namespace"))?
}

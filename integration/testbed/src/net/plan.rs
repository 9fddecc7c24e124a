//! Which address is whose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Number of the control plane's node.
pub(crate) const CONTROL_PLANE: u8 = 100;
/// First and last host part of pods; 1 is the bridge.
pub(crate) const POD_HOSTS: std::ops::RangeInclusive<u8> = 2..=250;

/// Service addresses.
pub(crate) const SERVICES_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// Service addresses.
pub(crate) const SERVICES_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0), 108);

/// The addresses of one node and of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    number: u8,
}

impl NodePlan {
    pub(crate) fn new(number: u8) -> Self {
        Self { number }
    }

    pub(crate) fn number(self) -> u8 {
        self.number
    }

    /// The node's own addresses, IPv4 first.
    pub(crate) fn node(self) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, as_written(self.number));
        [Ipv4Addr::new(172, 30, 0, self.number).into(), v6.into()]
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        [2, 0x30, 0, 0, 0, self.number]
    }

    pub(crate) fn pods_v4(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, 244, self.number, 0), 24)
    }

    pub(crate) fn pods_v6(self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd44, 0, 0, as_written(self.number), 0, 0, 0, 0), 64)
    }

    /// The addresses of a pod, IPv4 first.
    pub(crate) fn pod(self, host: u8) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd44, 0, 0, as_written(self.number), 0, 0, 0, as_written(host));
        [Ipv4Addr::new(10, 244, self.number, host).into(), v6.into()]
    }

    pub(crate) fn pod_mac(self, host: u8) -> [u8; 6] {
        [2, 0x44, 0, 0, self.number, host]
    }
}

/// The group that, written in hexadecimal, reads like the decimal number: 100 is 0x100.
fn as_written(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_like_the_number_of_the_node() {
        let check = |number, node: &str, pods: &str, pod: &str| {
            let plan = NodePlan::new(number);
            assert_eq!(plan.node()[1].to_string(), node);
            assert_eq!(plan.pods_v6().to_string(), pods);
            assert_eq!(plan.pod(12)[1].to_string(), pod);
        };
        check(1, "fd30::1", "fd44:0:0:1::/64", "fd44:0:0:1::12");
        check(42, "fd30::42", "fd44:0:0:42::/64", "fd44:0:0:42::12");
        check(100, "fd30::100", "fd44:0:0:100::/64", "fd44:0:0:100::12");
    }
}

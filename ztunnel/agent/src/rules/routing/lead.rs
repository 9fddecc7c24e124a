//! Routing rules: which packets are led to which table, and which go nowhere.

use std::{fmt, net::IpAddr};

use ambit_runtime::socket::VOUCHED;
use nlink::{RuleBuilder, netlink::messages::RuleMessage};

use crate::rules::table::{LOCAL_MARK, MASK, PROBE_V4, PROBE_V6};

/// The routing table that delivers to the pod itself whatever the destination is.
pub(super) const LOCAL_TABLE: u32 = 100;
/// The routing table that leads nowhere.
pub(super) const NOWHERE_TABLE: u32 = 101;
const MAIN_TABLE: u32 = 254;

/// The bits of a mark of which a packet must have one to leave the pod. One is in the proxy's mark and in all of the capture's; the other
/// is that of connections that a living proxy vouches for. What that proxy only notes on packets has neither.
pub(super) const LEAVES: u32 = VOUCHED | 1;

/// Preferences, all after the one for the pod's own addresses (0) and before all others: the rule that cuts a pod off,
const CUT: u32 = 1;
/// the one for answers to the node's probes,
const PROBES: u32 = 2;
/// the one for TCP without a mark,
const STAYS: u32 = 3;
/// and the one for such TCP to which its table says nothing.
const ENDS: u32 = 4;
/// The preference of the rule for answers with a mark, before the main table's.
const LOCAL: u32 = 32764;
const TCP: u8 = 6;

/// A routing rule that belongs to the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    six: bool,
    preference: u32,
    /// For packets to this address alone.
    to: Option<IpAddr>,
    /// For packets with this mark, within this mask.
    mark: Option<(u32, u32)>,
    /// For TCP alone.
    tcp: bool,
    /// Where it leads; without, the packet is refused.
    table: Option<u32>,
}

/// The rules of one family by which a pod is captured.
pub(super) fn capture(six: bool) -> Vec<Lead> {
    let lead = Lead { six, preference: 0, to: None, mark: None, tcp: false, table: None };
    let unmarked = Lead { mark: Some((0, LEAVES)), tcp: true, ..lead };
    let (probe, stays) = if six { (PROBE_V6.into(), NOWHERE_TABLE) } else { (PROBE_V4.into(), LOCAL_TABLE) };
    let mut leads = vec![
        Lead { preference: PROBES, to: Some(probe), table: Some(MAIN_TABLE), ..lead },
        Lead { preference: STAYS, table: Some(stays), ..unmarked },
        Lead { preference: ENDS, ..unmarked },
    ];
    if six {
        leads.push(Lead { preference: LOCAL, mark: Some((LOCAL_MARK, MASK)), table: Some(LOCAL_TABLE), ..lead });
    }
    leads
}

/// The rules that cut a pod off: of both families, whatever is switched off on which device.
pub(super) fn cuts() -> [Lead; 2] {
    [false, true].map(|six| Lead { six, preference: CUT, to: None, mark: None, tcp: false, table: None })
}

impl Lead {
    /// The rule as it is asked for.
    pub(super) fn rule(&self) -> RuleBuilder {
        let rule = if self.six { RuleBuilder::v6() } else { RuleBuilder::v4() }.priority(self.preference);
        let rule = match self.to {
            Some(ip) => rule.to_addr(ip, if ip.is_ipv4() { 32 } else { 128 }),
            None => rule,
        };
        let rule = match self.mark {
            Some((mark, mask)) => rule.fwmark_mask(mark, mask),
            None => rule,
        };
        let rule = if self.tcp { rule.ipproto(TCP) } else { rule };
        match self.table {
            Some(table) => rule.table(table),
            None => rule.prohibit(),
        }
    }

    /// Whether the kernel shows this rule, and nothing that makes it apply to less.
    pub(super) fn is(&self, shown: &RuleMessage) -> bool {
        let (mark, mask) = self.mark.unwrap_or_default();
        let leads = match self.table {
            Some(table) => shown.is_lookup() && shown.table_id() == table,
            None => shown.is_prohibit(),
        };
        let length = self.to.map_or(0, |ip| if ip.is_ipv4() { 32 } else { 128 });
        let same = shown.is_ipv6() == self.six
            && shown.priority() == self.preference
            && (shown.destination(), shown.dst_len(), shown.src_len()) == (self.to, length, 0)
            && (shown.fwmark().unwrap_or_default(), shown.fwmask().unwrap_or_default()) == (mark, mask)
            && shown.ip_proto() == self.tcp.then_some(TCP);
        let less = shown.is_invert()
            || shown.iifname().is_some()
            || shown.oifname().is_some()
            || shown.sport_range().is_some()
            || shown.dport_range().is_some()
            || shown.uid_range().is_some()
            || shown.tun_id().is_some()
            || shown.suppress_prefixlen().is_some_and(|length| length != u32::MAX)
            || shown.suppress_ifgroup().is_some_and(|group| group != u32::MAX);
        same && leads && !less
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} routing rule {}", if self.six { "IPv6" } else { "IPv4" }, self.preference)
    }
}

#[cfg(test)]
mod tests {
    use ambit_runtime::socket::PROXY_MARK;

    use super::*;
    use crate::rules::table::RESET_MARK;

    #[test]
    fn what_the_mesh_sends_leaves_and_nothing_else_that_is_tcp() {
        for six in [false, true] {
            let leads = capture(six);
            let unmarked: Vec<&Lead> = leads.iter().filter(|lead| lead.mark == Some((0, LEAVES))).collect();
            assert!(unmarked.len() == 2 && unmarked.iter().all(|lead| lead.tcp));
            // Whatever the first of them leads to does not decide alone.
            assert!(unmarked.iter().any(|lead| lead.table.is_none() && lead.preference > STAYS));
            assert!(leads.iter().all(|lead| lead.preference > CUT), "what is cut off is cut off whatever else is there");
        }
        for mark in [PROXY_MARK, LOCAL_MARK, RESET_MARK, VOUCHED] {
            assert_ne!(mark & LEAVES, 0, "{mark:#x}");
        }
    }
}

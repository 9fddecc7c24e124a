//! The capture rules of a pod as one description (wire contract, section 5), from which every backend writes its own.
//!
//! TCP is captured, and DNS over UDP; other UDP is left alone. Pods on the host's network have no namespace of
//! their own and cannot be captured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_model::address::port;
use ambit_runtime::socket::PROXY_MARK;

/// The bits of a mark that are ours.
pub const MASK: u32 = 0xfff;
/// The mark of connections that the proxy opened to the pod with the client's address: their answers go back to the proxy.
pub const LOCAL_MARK: u32 = 0x111;
/// The mark of resets that may leave the pod: they say that nobody listens, and carry nothing.
pub const RESET_MARK: u32 = 0x113;
/// The port of resolvers.
const DNS: u16 = 53;
/// What the proxy asks resolvers is tracked apart from what is redirected to it, which may have the same addresses and ports.
const DNS_ZONE: u16 = 1;

/// The source address that the node gives to its own probes of a pod, so that they are not captured.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// As [`PROBE_V4`], for IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff);

/// What is captured besides TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    /// DNS, over UDP and TCP: only where the proxy answers it, as ours does.
    pub dns: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self { dns: true }
    }
}

/// Where a packet meets a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before connections are tracked, into the pod or over its loopback device.
    RawIn,
    /// Before connections are tracked, out of a program of the pod.
    RawOut,
    /// Marks, inwards.
    MarkIn,
    /// Marks, outwards.
    MarkOut,
    /// Destinations of new connections, inwards.
    NatIn,
    /// Destinations of new connections, outwards.
    NatOut,
    /// What leaves a program of the pod, when its destination is settled.
    Leave,
}

/// What a packet must be for a rule to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Its mark, within [`MASK`].
    Mark(u32),
    /// It belongs to a connection between two pods of the node that a living proxy vouches for ([`VOUCHED`](ambit_runtime::socket::VOUCHED)).
    Vouched,
    /// The mark of its connection.
    ConnectionMark(u32),
    /// It comes from this prefix.
    From(IpAddr, u8),
    /// It goes to this prefix.
    To(IpAddr, u8),
    /// Routing keeps it in the pod, where its destination may still be translated.
    OutLoopback,
    /// It goes to one of the pod's own addresses.
    ToOwn,
    /// It is IPv6.
    Six,
    /// It is TCP.
    Tcp,
    /// It is a TCP reset, which carries nothing.
    Reset,
    /// It is TCP to this port.
    TcpTo(u16),
    /// It is TCP to another port than this.
    TcpNotTo(u16),
    /// It is UDP to this port.
    UdpTo(u16),
    /// It is UDP from this port.
    UdpFrom(u16),
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It goes on as if there were no capture.
    Pass,
    /// It goes to this port of the pod.
    Redirect(u16),
    /// Its connection gets this mark, within [`MASK`].
    MarkConnection(u32),
    /// It gets this mark, within [`MASK`].
    MarkPacket(u32),
    /// It is tracked in this zone.
    Zone(u16),
    /// It goes nowhere, and the program that sent it sees its connection reset.
    Refuse,
}

/// One rule. The first of a place that passes or redirects decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// For what: all of these.
    pub matches: Vec<Match>,
    /// What then.
    pub action: Action,
}

impl Line {
    /// The family the rule is for, when an address says so: `true` for IPv6.
    #[must_use]
    pub fn six(&self) -> Option<bool> {
        self.matches.iter().find_map(|wanted| match wanted {
            Match::From(ip, _) | Match::To(ip, _) => Some(ip.is_ipv6()),
            Match::Six => Some(true),
            _ => None,
        })
    }
}

fn line(place: Place, matches: &[Match], action: Action) -> Line {
    Line { place, matches: matches.to_vec(), action }
}

/// All rules in order.
#[must_use]
pub fn lines(capture: Capture) -> Vec<Line> {
    use Action::{MarkConnection, MarkPacket, Pass, Redirect, Refuse, Zone};
    use Match::{ConnectionMark, From, Mark, OutLoopback, Reset, Six, Tcp, TcpNotTo, TcpTo, To, ToOwn, UdpFrom, UdpTo, Vouched};
    use Place::{Leave, MarkIn, MarkOut, NatIn, NatOut, RawIn, RawOut};
    let loopback =
        |place| [line(place, &[To([127, 0, 0, 0].into(), 8)], Pass), line(place, &[To(Ipv6Addr::LOCALHOST.into(), 128)], Pass)];
    let mut all = Vec::new();
    if capture.dns {
        all.push(line(RawIn, &[UdpFrom(DNS)], Zone(DNS_ZONE)));
        all.push(line(RawOut, &[Mark(PROXY_MARK), UdpTo(DNS)], Zone(DNS_ZONE)));
    }
    all.extend([
        // What the proxy sends to the pod comes back in here over the loopback device: remember the connection. Its answers, which are
        // addressed to the client, go to the proxy: by IPv4 as everything that has no mark stays in the pod, by IPv6 by their mark.
        line(MarkIn, &[Mark(PROXY_MARK)], MarkConnection(LOCAL_MARK)),
        // The proxy's own packets find their way: a changed mark would have each of them routed again.
        line(MarkOut, &[Six, Mark(PROXY_MARK)], Pass),
        line(MarkOut, &[Six, ConnectionMark(LOCAL_MARK)], MarkPacket(LOCAL_MARK)),
        // That nobody listens, or a connection is over, is said to those outside too.
        line(MarkOut, &[Reset, Mark(PROXY_MARK)], Pass),
        line(MarkOut, &[Reset, ConnectionMark(LOCAL_MARK)], Pass),
        line(MarkOut, &[Reset], MarkPacket(RESET_MARK)),
        line(NatIn, &[From(PROBE_V4.into(), 32)], Pass),
        line(NatIn, &[From(PROBE_V6.into(), 128)], Pass),
        line(NatIn, &[Mark(PROXY_MARK)], Pass),
    ]);
    all.extend(loopback(NatIn));
    all.extend([
        line(NatIn, &[TcpNotTo(port::HBONE)], Redirect(port::INBOUND_PLAINTEXT)),
        line(NatOut, &[To(PROBE_V4.into(), 32)], Pass),
        line(NatOut, &[To(PROBE_V6.into(), 128)], Pass),
        line(NatOut, &[Mark(PROXY_MARK)], Pass),
    ]);
    if capture.dns {
        // Also to the loopback device: what listens there asks the cluster's resolver in turn, and knows less than the proxy.
        all.push(line(NatOut, &[UdpTo(DNS)], Redirect(port::DNS)));
    }
    all.extend([
        // The pod to itself, by whichever of its addresses.
        line(NatOut, &[OutLoopback, ToOwn], Pass),
    ]);
    all.extend(loopback(NatOut));
    if capture.dns {
        all.push(line(NatOut, &[TcpTo(DNS)], Redirect(port::DNS)));
    }
    all.push(line(NatOut, &[Tcp], Redirect(port::OUTBOUND)));
    // What was redirected goes to the loopback address by now. What still goes elsewhere is of a connection that is older than the
    // rules, or that the kernel has lost sight of: routing keeps it in the pod, and its program shall know that it is over.
    let answers = [OutLoopback, ConnectionMark(LOCAL_MARK)];
    // Every packet of the pod passes here: what is most frequent and cheapest to tell comes first, a look at the routes last.
    all.push(line(Leave, &[Mark(PROXY_MARK)], Pass));
    all.extend(loopback(Leave));
    for passes in [answers.as_slice(), &[Vouched], &[OutLoopback, ToOwn]] {
        all.push(line(Leave, passes, Pass));
    }
    all.extend([
        line(Leave, &[To(PROBE_V4.into(), 32)], Pass),
        line(Leave, &[To(PROBE_V6.into(), 128)], Pass),
        line(Leave, &[Reset], Pass),
        line(Leave, &[Tcp], Refuse),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tcp_and_nothing_else_is_captured_unless_dns_is_asked_for() {
        let redirects = |capture| {
            let lines = lines(capture).into_iter();
            lines.filter(|line| matches!(line.action, Action::Redirect(_))).map(|line| line.matches).collect::<Vec<_>>()
        };
        let tcp = redirects(Capture { dns: false });
        assert_eq!(tcp, [vec![Match::TcpNotTo(15008)], vec![Match::Tcp]]);
        let dns = redirects(Capture { dns: true });
        assert!(dns.contains(&vec![Match::UdpTo(53)]) && dns.contains(&vec![Match::TcpTo(53)]) && dns.len() == 4);
    }

    #[test]
    fn what_the_proxy_opens_passes_before_anything_is_redirected() {
        for capture in [Capture { dns: false }, Capture { dns: true }] {
            let lines = lines(capture);
            for place in [Place::NatIn, Place::NatOut] {
                let of: Vec<_> = lines.iter().filter(|line| line.place == place).collect();
                let passes = of.iter().position(|line| line.matches == [Match::Mark(PROXY_MARK)]);
                let redirects = of.iter().position(|line| matches!(line.action, Action::Redirect(_)));
                assert!(passes.is_some() && passes < redirects, "{place:?}");
            }
        }
    }
}

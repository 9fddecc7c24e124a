//! Ethernet frames with IP in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP packet that was on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Set for TCP.
    pub(super) segment: Option<Segment>,
    /// What the transport carries (for others than TCP and UDP: the whole IP payload).
    pub(super) payload: &'a [u8],
}

/// Where a TCP payload belongs in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) sequence: u32,
}

/// So much of a packet's content is shown.
const BEGIN: usize = 80;
const TCP: u8 = 6;
const UDP: u8 = 17;

impl<'a> Frame<'a> {
    /// Its two ends, and how its content begins, for a person.
    pub(super) fn told(&self) -> String {
        let (from, to) = self.segment.map_or((0, 0), |segment| (segment.source_port, segment.destination_port));
        let (source, destination) = (SocketAddr::new(self.source, from), SocketAddr::new(self.destination, to));
        let begin = self.payload.get(..BEGIN).unwrap_or(self.payload);
        format!("{source} > {destination}: {}", String::from_utf8_lossy(begin))
    }

    /// `None` for what is not IP (ARP and the like) or is cut short.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
        match kind {
            [0x08, 0x00] => Self::ipv4(packet),
            [0x86, 0xdd] => Self::ipv6(packet),
            _ => None,
        }
    }

    /// RFC 791 §3.1.
    fn ipv4(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        let total = usize::from(be16(packet, 2)?);
        // A packet larger than the field can say (big TCP) has 0 there.
        let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
        let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
        let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
        Self::transport(source.into(), destination.into(), *packet.get(9)?, packet.get(header..end)?)
    }

    /// RFC 8200 §3. Extension headers do not occur in the bed; such a packet is searched as a whole.
    fn ipv6(packet: &'a [u8]) -> Option<Self> {
        let length = usize::from(be16(packet, 4)?);
        let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
        let destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
        Self::transport(source.into(), destination.into(), *packet.get(6)?, packet.get(40..end)?)
    }

    fn transport(source: IpAddr, destination: IpAddr, protocol: u8, body: &'a [u8]) -> Option<Self> {
        let (segment, payload) = match protocol {
            TCP => {
                let header = usize::from(body.get(12)? >> 4) * 4;
                let sequence = u32::from_be_bytes(body.get(4..8)?.try_into().ok()?);
                let segment = Segment { source_port: be16(body, 0)?, destination_port: be16(body, 2)?, sequence };
                (Some(segment), body.get(header..)?)
            }
            UDP => (None, body.get(8..)?),
            _ => (None, body),
        };
        Some(Self { source, destination, segment, payload })
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_packet_gives_its_addresses_ports_and_payload() {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00]);
        bytes.extend([0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 244, 1, 2, 10, 244, 2, 3]);
        bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"abc");
        bytes.extend([0; 5]); // padding of short frames is not payload
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(frame.source.to_string(), "10.244.1.2");
        assert_eq!(frame.destination.to_string(), "10.244.2.3");
        assert_eq!(frame.segment, Some(Segment { source_port: 40000, destination_port: 80, sequence: 9 }));
        assert_eq!(frame.payload, b"abc");
    }

    #[test]
    fn what_is_cut_short_is_no_frame() {
        assert_eq!(Frame::parse(&[]), None);
        assert_eq!(Frame::parse(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd, 0x60]), None);
    }
}

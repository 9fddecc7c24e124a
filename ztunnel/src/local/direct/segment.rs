//! The first bytes of a packet: who opens or resets a connection to whom (RFC 791, RFC 8200, RFC 9293).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What is read of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sequence: u32,
    /// How many routers it may still pass.
    pub(super) hops: u8,
    pub(super) kind: Kind,
}

/// What a segment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Reset,
    Other,
}

impl Segment {
    /// Reads a packet. Nothing when it is not TCP over IP, or comes in another form than a host's own stack gives it.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (from, to, hops, tcp): (IpAddr, IpAddr, u8, &[u8]) = match packet.first()? >> 4 {
            4 => {
                let (ip, tcp) = packet.split_at_checked(usize::from(packet.first()? & 15) * 4)?;
                let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
                let fragment = u16::from_be_bytes(*ip.get(6..)?.first_chunk()?) & 0x3fff;
                if *ip.get(9)? != TCP || fragment != 0 {
                    return None;
                }
                (address(12)?.into(), address(16)?.into(), *ip.get(8)?, tcp)
            }
            6 => {
                let (ip, tcp) = packet.split_at_checked(40)?;
                let address = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?));
                if *ip.get(6)? != TCP {
                    return None;
                }
                (address(8)?.into(), address(24)?.into(), *ip.get(7)?, tcp)
            }
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let flags = *tcp.get(13)?;
        let kind = match flags {
            _ if flags & RST != 0 => Kind::Reset,
            _ if flags & (SYN | ACK) == SYN => Kind::Open,
            _ => Kind::Other,
        };
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        Some(Self { from: SocketAddr::new(from, port(0)?), to: SocketAddr::new(to, port(2)?), sequence, hops, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(flags: u8) -> Vec<u8> {
        let mut tcp = vec![0x1f, 0x90, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, flags];
        tcp.resize(20, 0);
        tcp
    }

    fn v4(flags: u8) -> Vec<u8> {
        let mut ip = vec![0x46, 0, 0, 44, 0, 0, 0x40, 0, 63, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([1; 4]);
        [ip, tcp(flags)].concat()
    }

    fn v6(flags: u8) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        ip.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        ip.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        [ip, tcp(flags)].concat()
    }

    #[test]
    fn both_families_are_read() {
        let check = |packet: Vec<u8>, from: &str, to: &str, hops, kind| {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(Segment::read(&packet), Some(Segment { from, to, sequence: 7, hops, kind }));
        };
        check(v4(SYN), "10.0.0.1:8080", "10.0.0.2:80", 63, Kind::Open);
        check(v4(SYN | ACK), "10.0.0.1:8080", "10.0.0.2:80", 63, Kind::Other);
        check(v6(RST | ACK), "[fd00::1]:8080", "[fd00::2]:80", 64, Kind::Reset);
    }

    #[test]
    fn what_is_cut_off_fragmented_or_not_tcp_is_nothing() {
        for packet in [v4(SYN), v6(SYN)] {
            let least = packet.len() - 6;
            for length in 0..least {
                assert_eq!(Segment::read(&packet[..length]), None, "{length} bytes");
            }
        }
        let (mut fragment, mut udp) = (v4(SYN), v6(SYN));
        fragment[7] = 1;
        udp[6] = 17;
        assert_eq!((Segment::read(&fragment), Segment::read(&udp)), (None, None));
    }
}

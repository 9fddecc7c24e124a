//! Which addresses are asked for keys. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

/// Characters of an address, far beyond those of any issuer.
const LONGEST: usize = 2048;

/// Where clouds tell a machine who it is, besides the link-local addresses.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// An address that can be asked for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether it is asked under TLS.
    pub(super) tls: bool,
    /// Name or IP address, the latter without brackets.
    pub(super) host: String,
    /// The port, also where it is not written.
    pub(super) port: u16,
    /// Host and port as written, for the header `host`.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl Address {
    /// Reads an address of the form `https://HOST/PATH`, or of the same with `http`.
    ///
    /// # Errors
    /// What keeps it from being asked.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("the address has {} characters, more than {LONGEST}", text.len()));
        }
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no address: {error}"))?;
        let tls = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err(format!("{text:?} does not begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{text:?} names no host"))?;
        if authority.as_str().contains('@') {
            return Err("an address with a user is not asked".into());
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host).unwrap_or_default() {
            "" if tls => 443,
            "" => 80,
            written => {
                let port = written.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0);
                port.ok_or_else(|| format!("{text:?} has no port between 1 and 65535"))?
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let (host, authority, path) = (host.to_owned(), authority.to_string(), path.to_owned());
        Ok(Self { tls, host, port, authority, path })
    }
}

/// Whether who answers at an address depends on the machine that asks, as on loopback, or is nobody at all. Whoever may write a
/// RequestAuthentication decides what is asked, and is not to reach what answers this machine alone.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_local_v4(ip),
        IpAddr::V6(ip) => {
            // Through a NAT64 (RFC 6052, RFC 8215) an IPv4 address is reached by one of these, and was once by the last.
            if let [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
            | [0, 0x64, 0xff, 0x9b, 0, 1, _, _, _, _, _, _, a, b, c, d]
            | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] = ip.octets()
            {
                return is_local_v4(Ipv4Addr::new(a, b, c, d));
            }
            let nobody = ip.is_unspecified() || ip.is_multicast();
            nobody || ip.is_loopback() || ip.is_unicast_link_local() || is_metadata_v6(ip)
        }
    }
}

/// Amazon has a network for what answers a machine of its own, Google an address.
fn is_metadata_v6(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254])
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    let nobody = first == 0 || ip.is_multicast() || ip.is_broadcast();
    nobody || ip.is_loopback() || ip.is_link_local() || METADATA_V4.contains(&ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_a_port() {
        for (text, tls, host, port, path) in [
            ("https://issuer.example/keys?x=1", true, "issuer.example", 443, "/keys?x=1"),
            ("HTTP://issuer.shop.svc:8080", false, "issuer.shop.svc", 8080, "/"),
            ("http://[fd00::1]:81/a#fragment", false, "fd00::1", 81, "/a"),
            ("https://[fd00::1]/a", true, "fd00::1", 443, "/a"),
        ] {
            let address = Address::parse(text).unwrap();
            let read = (address.tls, address.host.as_str(), address.port, address.path.as_str());
            assert_eq!(read, (tls, host, port, path), "{text}");
        }
        assert_eq!(Address::parse("http://[fd00::1]:81/a").unwrap().authority, "[fd00::1]:81");
        for (text, part) in [
            ("", "is no address"),
            ("issuer", "does not begin with"),
            ("accounts@example.com", "does not begin with"),
            ("/keys", "does not begin with"),
            ("ftp://issuer.example/keys", "does not begin with"),
            ("https://user:secret@issuer.example/keys", "with a user"),
            ("https://issuer.example:0/keys", "no port between"),
            ("https://issuer.example/a b", "is no address"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Address::parse(&format!("https://issuer.example/{}", "a".repeat(LONGEST))).unwrap_err().contains("more than"));
    }

    #[test]
    fn what_answers_this_machine_alone_is_not_asked_however_it_is_written() {
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("224.0.0.1", true),
            ("100.100.100.200", true),
            ("168.63.129.16", true),
            ("::", true),
            ("::1", true),
            ("fe80::1", true),
            ("192.0.0.192", true),
            ("fd00:ec2::254", true),
            ("fd00:ec2::23", true),
            ("fd20:ce::254", true),
            ("::ffff:127.0.0.1", true),
            ("::127.0.0.1", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("64:ff9b:1::a9fe:a9fe", true),
            ("64:ff9b:1::c000:201", false),
            ("64:ff9b::c000:201", false),
            ("10.0.0.1", false),
            ("192.0.2.1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_local(ip.parse().unwrap()), local, "{ip}");
        }
    }
}

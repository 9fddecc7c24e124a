//! The target of a CONNECT: an address and port, or a host name and port.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// Longest host name (RFC 1035, section 2.3.4, without the root's dot).
const NAME_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;

/// What stands before the port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A host name, lower case.
    Name(Arc<str>),
}

/// The `:authority` of a CONNECT: `1.2.3.4:80`, `[::1]:80` or `host:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    host: Host,
    port: u16,
}

/// Why a text is not the target of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The request has none.
    #[error("the request has no authority")]
    Missing,
    /// There is no port, or none between 1 and 65535 in plain digits.
    #[error("the authority {0:?} has no valid port")]
    Port(String),
    /// What stands before the port is neither an address nor a host name.
    #[error("the authority {0:?} is neither an address nor a host name")]
    Host(String),
}

impl Authority {
    /// A host name and port.
    ///
    /// # Errors
    /// When the name is not a host name (RFC 1123) or the port is 0.
    pub fn name(host: &str, port: u16) -> Result<Self, AuthorityError> {
        if port == 0 {
            return Err(AuthorityError::Port(shortened(&format!("{host}:{port}"))));
        }
        Ok(Self { host: host_name(host).ok_or_else(|| AuthorityError::Host(shortened(host)))?, port })
    }

    /// What stands before the port.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, unless the host is a name.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text.is_empty() {
            return Err(AuthorityError::Missing);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AuthorityError::Port(shortened(text)))?;
        let port = parse_port(port).ok_or_else(|| AuthorityError::Port(shortened(text)))?;
        let host = parse_host(host).ok_or_else(|| AuthorityError::Host(shortened(text)))?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Digits only: `u16::from_str` would take a sign, and leading zeros would give one target two spellings.
fn parse_port(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[') {
        let v6: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Host::Ip(v6.into()));
    }
    if let Ok(v4) = text.parse() {
        return Some(Host::Ip(IpAddr::V4(v4)));
    }
    host_name(text)
}

/// RFC 1123, section 2.1. A last label of digits only is an address that went wrong, never a name.
fn host_name(text: &str) -> Option<Host> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= LABEL_LIMIT
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = text.rsplit('.').next()?;
    let valid = text.len() <= NAME_LIMIT && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| Host::Name(text.to_ascii_lowercase().into()))
}

/// Texts from peers go to logs: not all of a long one.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_reads_back_as_it_is_written() {
        for text in ["10.244.1.5:8080", "[fd44:0:0:1::5]:80", "orders.shop.svc.cluster.local:9000", "a:1", "a_b.c-d:65535"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
        let v6: Authority = "[fd44::5]:80".parse().unwrap();
        assert_eq!(v6.socket_addr(), Some("[fd44::5]:80".parse().unwrap()));
        assert_eq!("Web.Shop:80".parse::<Authority>().unwrap(), Authority::name("web.shop", 80).unwrap());
    }

    #[test]
    fn a_text_that_is_nearly_an_authority_is_refused() {
        for text in [
            "",
            ":",
            ":80",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:080",
            "a: 80",
            "1.2.3:80",
            "1.2.3.4.5:80",
            "256.1.1.1:80",
            "80:80",
            "::1:80",
            "[::1]",
            "[::1:80",
            "::1]:80",
            "[1.2.3.4]:80",
            "[fe80::1%eth0]:80",
            "user@a:80",
            "http://a:80",
            "a/b:80",
            "-a:80",
            "a..b:80",
            "a.:80",
            ".a:80",
            "*:80",
            "a b:80",
            "ä:80",
            "a\u{0}:80",
        ] {
            assert!(text.parse::<Authority>().is_err(), "{text:?} was taken for an authority");
        }
        assert!(format!("{}:80", "a.".repeat(127) + "aa").parse::<Authority>().is_err());
        assert!(format!("{}:80", "a".repeat(64)).parse::<Authority>().is_err());
    }
}

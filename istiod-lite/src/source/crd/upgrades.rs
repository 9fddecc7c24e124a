//! What a RequestPolicy has HTTP/1.1 upgraded to, and what nobody may ask for.

use std::collections::BTreeSet;

use super::requests::RequestPolicySpec;

impl RequestPolicySpec {
    /// As many upgrades may be named.
    pub const MOST_UPGRADES: usize = 8;

    /// The upgrades that may be passed on, in lower case; what cannot be one is left out.
    #[must_use]
    pub fn upgrade_names(&self) -> BTreeSet<String> {
        let names = self.upgrades.iter().filter(|name| upgrade_fault(name).is_none());
        names.take(Self::MOST_UPGRADES).map(|name| name.to_ascii_lowercase()).collect()
    }
}

/// The longest name of an upgrade, in bytes.
const LONGEST_UPGRADE: usize = 64;

/// What hinders an upgrade from being passed on as a stream of bytes, if anything does.
#[must_use]
pub fn upgrade_fault(name: &str) -> Option<&'static str> {
    let token = |part: &str| {
        let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(of_token)
    };
    let (protocol, version) = name.split_once('/').unwrap_or((name, "1"));
    let lower = protocol.to_ascii_lowercase();
    if name.len() > LONGEST_UPGRADE || !token(protocol) || !token(version) {
        return Some("is not the name of a protocol, such as irc/6.9, of at most 64 letters");
    }
    // Requests or datagrams come after these, which nobody would look at.
    let more_requests = lower == "h2c" || lower == "connect" || lower.starts_with("connect-");
    more_requests.then_some("is never passed on: what comes after it is no stream of bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_protocol_and_what_carries_requests_cannot_be_named() {
        for name in ["irc/6.9", "HTML5.Socket", "spdy/3.1", "websocket", "connected", "h2", "a/b"] {
            assert_eq!(upgrade_fault(name), None, "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "/", "a/", "/1", "a/b/c", "a b", "a, b", "a\r\nb", "\u{e9}", long.as_str()] {
            assert!(upgrade_fault(name).is_some_and(|fault| fault.starts_with("is not the name")), "{name}");
        }
        for name in ["h2c", "H2C", "h2c/1", "CONNECT", "connect/1", "connect-udp", "Connect-IP"] {
            assert!(upgrade_fault(name).is_some_and(|fault| fault.starts_with("is never passed on")), "{name}");
        }
        let said = ["IRC/6.9", "irc/6.9", "h2c", "b"].map(str::to_owned);
        let spec = RequestPolicySpec { upgrades: said.into(), ..Default::default() };
        assert_eq!(spec.upgrade_names(), BTreeSet::from(["b", "irc/6.9"].map(str::to_owned)));
    }
}

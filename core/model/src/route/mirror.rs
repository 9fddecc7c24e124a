//! Copies of requests for somebody else to see.

use std::sync::Arc;

use serde::Serialize;

use super::action::split_port;

/// A cluster that gets copies of requests; what it answers is not looked at (`RouteAction.RequestMirrorPolicy`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<str>,
    /// Of this many requests …
    pub of: u32,
    /// … so many are copied.
    pub copied: u32,
    /// The copy goes to the host of the request, and not to one with `-shadow` behind its name.
    pub same_host: bool,
}

impl Mirror {
    /// Whether a request is copied; `random` decides, evenly spread over its whole range.
    #[must_use]
    pub fn takes(&self, random: u64) -> bool {
        random.checked_rem(u64::from(self.of)).is_some_and(|point| point < u64::from(self.copied))
    }

    /// The host that the copy of a request for `authority` names. An address in brackets cannot have anything behind it.
    #[must_use]
    pub fn authority(&self, authority: &str) -> String {
        if self.same_host || authority.starts_with('[') {
            return authority.to_owned();
        }
        match split_port(authority) {
            (host, Some(port)) => format!("{host}-shadow:{port}"),
            (host, None) => format!("{host}-shadow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(copied: u32, of: u32, same_host: bool) -> Mirror {
        Mirror { cluster: "c".into(), of, copied, same_host }
    }

    #[test]
    fn a_share_of_requests_is_copied() {
        for (copied, of, taken) in [(100, 100, 1000), (0, 100, 0), (25, 100, 250), (1, 1000, 1), (1, 0, 0)] {
            let mirror = mirror(copied, of, true);
            assert_eq!((0..1000).filter(|random| mirror.takes(*random)).count(), taken, "{copied} of {of}");
        }
    }

    #[test]
    fn a_copy_names_its_host_as_envoy_does_unless_told_otherwise() {
        for (authority, shadow) in [("shop", "shop-shadow"), ("shop:80", "shop-shadow:80"), ("[fd96::1]:80", "[fd96::1]:80")] {
            assert_eq!(mirror(1, 1, false).authority(authority), shadow);
            assert_eq!(mirror(1, 1, true).authority(authority), authority);
        }
    }
}

//! What requests are told apart by where those of a kind go to the same endpoint: of a TrafficPolicy, and of a DestinationRule.

use serde::{Deserialize, Serialize};

/// One thing that is looked at, of a TrafficPolicy: just one of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HashOn {
    /// The header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    /// The query parameter of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_parameter: Option<String>,
    /// The address of the client.
    #[serde(rename = "sourceIP", skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<bool>,
}

/// A cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Clients that have none are given one that lasts so long, `0s` as long as they like; none when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// The same of a DestinationRule: by just one of the first four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    /// The header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<String>,
    /// A cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HttpCookie>,
    /// The address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_source_ip: Option<bool>,
    /// The query parameter of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_query_parameter_name: Option<String>,
    /// On a ring, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// In a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maglev: Option<Maglev>,
    /// The older form of the ring's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<i64>,
}

/// A cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpCookie {
    /// Its name.
    pub name: String,
    /// Where it holds, of one that clients are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Clients that have none are given one that lasts so long; none when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// What else they are told of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<CookieAttribute>,
}

/// What a client is told of a cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CookieAttribute {
    /// What.
    pub name: String,
    /// Its value, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A ring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    /// So many places it has at least; 1024 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<i64>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Maglev {
    /// So many places it has, a prime; 65537 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_size: Option<i64>,
}

/// The most places that Envoy has for a ring, and for a table.
const LARGEST: (u64, u64) = (8_388_608, 5_000_011);

/// A number of places on a ring; `None` when it cannot be one.
#[must_use]
pub fn as_ring(size: i64) -> Option<u64> {
    u64::try_from(size).ok().filter(|size| (1..=LARGEST.0).contains(size))
}

/// A number of places in a table; `None` when it cannot be one, for all but primes.
#[must_use]
pub fn as_table(size: i64) -> Option<u64> {
    let is_prime = |size: &u64| {
        *size > 1 && (2_u64..).take_while(|factor| factor * factor <= *size).all(|factor| !size.is_multiple_of(factor))
    };
    u64::try_from(size).ok().filter(|size| *size <= LARGEST.1).filter(is_prime)
}

/// Whether it can be the name of a header, or of a cookie.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=256).contains(&name.len()) && name.bytes().all(good)
}

/// Whether it can be said of a cookie.
#[must_use]
pub fn is_said(text: &str) -> bool {
    text.len() <= 1024 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_envoy_takes() {
        for (size, ring, table) in [
            (-1, None, None),
            (0, None, None),
            (1, Some(1), None),
            (2, Some(2), Some(2)),
            (251, Some(251), Some(251)),
            (65_536, Some(65_536), None),
            (65_537, Some(65_537), Some(65_537)),
            (5_000_011, Some(5_000_011), Some(5_000_011)),
            (5_000_077, Some(5_000_077), None),
            (8_388_608, Some(8_388_608), None),
            (8_388_609, None, None),
        ] {
            assert_eq!((as_ring(size), as_table(size)), (ring, table), "{size}");
        }
    }
}

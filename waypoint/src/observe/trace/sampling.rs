//! Which requests are traced, where the headers of their place in a trace do not say it: as Envoy decides it, by the request's id, so that
//! everybody who looks at the id decides alike, and is told there what was decided.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::compiled::Tracing;

/// The id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// By its being there a client asks for its request to be traced.
pub const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
/// The length of an id that is a UUID, and the place in it where the decision stands, which is that of the version.
const UUID: usize = 36;
const DECISION: usize = 14;

/// Why a request is traced, as its id says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Why {
    Chance = b'9',
    Service = b'a',
    Client = b'b',
}

impl Why {
    fn of(id: &str) -> Option<Self> {
        let mark = *id.as_bytes().get(DECISION).filter(|_| id.len() == UUID)?;
        [Self::Chance, Self::Service, Self::Client].into_iter().find(|why| *why as u8 == mark)
    }
}

/// Gives a request an id if it has none, or comes from `outside` of the mesh, where none is believed.
pub fn identify(tracing: &Tracing, headers: &mut HeaderMap, outside: bool) {
    let has = headers.get(REQUEST_ID).is_some_and(|id| !id.is_empty());
    if tracing.request_ids && (outside || !has) {
        put(headers, &new_id(fastrand::u128(..)));
    }
}

/// Whether a request is traced, which its id says from then on.
pub fn decide(tracing: &Tracing, headers: &mut HeaderMap) -> bool {
    let Some(id) = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()) else { return false };
    // An id of another form decides nothing.
    let Some(number) = id.get(..8).and_then(|first| u32::from_str_radix(first, 16).ok()) else { return false };
    let (draw, before) = (number % 10_000, Why::of(id));
    let by_client = || headers.contains_key(CLIENT_TRACE_ID) && fastrand::u32(..100) < tracing.client;
    let why = match before {
        Some(why) => Some(why),
        None if by_client() => Some(Why::Client),
        None => Some(Why::Chance).filter(|_| draw < tracing.random),
    };
    let after = why.filter(|_| draw < tracing.overall);
    if after != before && id.len() == UUID {
        let mark = after.map_or('4', |why| char::from(why as u8));
        let parts = id.get(..DECISION).zip(id.get(DECISION + 1..));
        if let Some(marked) = parts.map(|(start, end)| format!("{start}{mark}{end}")) {
            put(headers, &marked);
        }
    }
    after.is_some()
}

fn put(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// A UUID of version 4 (RFC 9562) of these bits.
fn new_id(random: u128) -> String {
    let version = (random & !(0xf << 76)) | (0x4 << 76);
    let hex = format!("{:032x}", (version & !(0b11 << 62)) | (0b10 << 62));
    let mut id = String::with_capacity(UUID);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        id.push(digit);
    }
    id
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::compiled::{Collector, Speaks};

    fn tracing(client: u32, random: u32, overall: u32) -> Tracing {
        let collector = Collector {
            cluster: "spans".into(),
            authority: "collector".into(),
            path: "/".into(),
            timeout: Duration::from_secs(1),
            service: None,
            speaks: Speaks::OtlpHttp,
        };
        Tracing {
            collector: Arc::new(collector),
            client,
            random,
            overall,
            request_ids: true,
            operation: "ingress".into(),
            longest_path: 256,
            tags: Vec::new(),
        }
    }

    fn decided(tracing: &Tracing, id: &str, client: bool) -> (bool, String) {
        let mut headers = HeaderMap::new();
        put(&mut headers, id);
        if client {
            headers.insert(CLIENT_TRACE_ID, HeaderValue::from_static("me"));
        }
        let chosen = decide(tracing, &mut headers);
        (chosen, headers[REQUEST_ID].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_request_is_traced_by_its_id_which_says_so_from_then_on() {
        // 0x1388 is 5,000.
        let id = |mark: char| format!("00001388-0000-{mark}000-8000-000000000000");
        for (client, random, overall, before, asks, after) in [
            (100, 5001, 10_000, '4', false, Some('9')),
            (100, 5000, 10_000, '4', false, None),
            (100, 10_000, 5000, '4', false, None),
            (100, 10_000, 5001, '4', false, Some('9')),
            (100, 0, 10_000, '9', false, Some('9')),
            (100, 0, 10_000, 'a', false, Some('a')),
            (100, 0, 0, 'a', false, None),
            (100, 0, 10_000, '4', true, Some('b')),
            (0, 0, 10_000, '4', true, None),
            (0, 0, 10_000, 'b', false, Some('b')),
        ] {
            let expected = (after.is_some(), id(after.unwrap_or('4')));
            let found = decided(&tracing(client, random, overall), &id(before), asks);
            assert_eq!(found, expected, "{client} {random} {overall} {before} {asks}");
        }
        let all = tracing(100, 10_000, 10_000);
        for (other, chosen) in [("00001388-mine", true), ("mine", false), ("", false), ("zzzzzzzz-and-more", false)] {
            assert_eq!(decided(&all, other, false), (chosen, other.to_owned()));
        }
        assert!(!decide(&all, &mut HeaderMap::new()), "without an id");
    }

    #[test]
    fn a_request_without_an_id_is_given_one_and_one_from_outside_a_new_one() {
        let mut headers = HeaderMap::new();
        identify(&tracing(0, 0, 0), &mut headers, false);
        let first = headers[REQUEST_ID].clone();
        let text = first.to_str().unwrap();
        assert!(text.len() == UUID && text.as_bytes()[DECISION] == b'4' && b"89ab".contains(&text.as_bytes()[19]), "{text}");
        assert_eq!(new_id(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        identify(&tracing(0, 0, 0), &mut headers, false);
        assert_eq!(headers[REQUEST_ID], first);
        identify(&tracing(0, 0, 0), &mut headers, true);
        assert_ne!(headers[REQUEST_ID], first);
        let mut none = HeaderMap::new();
        identify(&Tracing { request_ids: false, ..tracing(0, 0, 0) }, &mut none, true);
        assert!(none.is_empty());
    }
}

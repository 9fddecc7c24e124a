//! What a request is told apart from others by, so that those of a kind go to the same endpoint (`envoy.config.route.v3.RouteAction.HashPolicy`).

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::HeaderValue;
use serde::Serialize;

use super::{
    RequestView,
    session::{self, Cookie},
};
use crate::balance::xxh64;

/// One thing that is looked at.
#[derive(Debug, Clone, Serialize)]
pub struct HashPolicy {
    /// What.
    pub by: HashBy,
    /// If it is there, what comes after it is not looked at.
    pub terminal: bool,
}

/// What is looked at.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// All lines of the header of this name, in small letters.
    Header(String),
    /// A cookie. One with a `ttl` is given to clients that have none; one of no time at all they keep for as long as they like.
    Cookie(Cookie),
    /// The address of the client.
    SourceIp,
    /// The first query parameter of this name.
    QueryParameter(String),
}

/// What a request is told apart by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hashed {
    /// The hash; none where nothing that is looked at is there.
    pub hash: Option<u64>,
    /// Cookies that the client is given with its answer.
    pub cookies: Vec<HeaderValue>,
}

impl Hashed {
    /// What is found in a request on a connection of these two ends, the client's first.
    #[must_use]
    pub fn of(policies: &[HashPolicy], request: &RequestView<'_>, (client, own): (SocketAddr, SocketAddr)) -> Self {
        let mut hashed = Self::default();
        for policy in policies {
            let found = match &policy.by {
                HashBy::Header(name) => header(request, name),
                HashBy::Cookie(cookie) => hashed.cookie(cookie, request, (client, own)),
                HashBy::SourceIp => Some(source(client.ip())),
                HashBy::QueryParameter(name) => request.query_parameter(name).map(|value| xxh64(0, value.as_bytes())),
            };
            if let Some(found) = found {
                // The same thing twice does not come to nothing, and what comes first counts otherwise than what comes later.
                hashed.hash = Some(hashed.hash.map_or(0, |before| before.rotate_left(1)) ^ found);
            }
            if policy.terminal && hashed.hash.is_some() {
                break;
            }
        }
        hashed
    }

    fn cookie(&mut self, cookie: &Cookie, request: &RequestView<'_>, (client, own): (SocketAddr, SocketAddr)) -> Option<u64> {
        if let Some(value) = session::value(request.headers, &cookie.name).filter(|value| !value.is_empty()) {
            return Some(xxh64(0, value));
        }
        cookie.ttl?;
        // The same for all requests of a connection, which may come at once.
        let value = format!("{:016x}", xxh64(0, format!("{client}{own}").as_bytes()));
        self.cookies.extend(HeaderValue::from_bytes(cookie.line(&value).as_bytes()).ok());
        Some(xxh64(0, value.as_bytes()))
    }
}

/// Of all lines, whatever their order.
fn header(request: &RequestView<'_>, name: &str) -> Option<u64> {
    let mut lines: Vec<Cow<'_, [u8]>> = request.lines(name);
    lines.sort_unstable();
    (!lines.is_empty()).then(|| lines.iter().fold(0, |seed, line| xxh64(seed, line)))
}

fn source(client: IpAddr) -> u64 {
    xxh64(0, client.to_string().as_bytes())
}

impl HashPolicy {
    /// What is looked at, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match &self.by {
            HashBy::Header(name) => format!("the header {name}"),
            HashBy::Cookie(Cookie { name, ttl: None, .. }) => format!("the cookie {name}"),
            HashBy::Cookie(cookie) => format!("the cookie {}, which clients are given", cookie.name),
            HashBy::SourceIp => "the address of the client".to_owned(),
            HashBy::QueryParameter(name) => format!("the query parameter {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName};

    use super::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([10, 0, 0, 1], 5000)), SocketAddr::from(([10, 0, 0, 2], 80)))
    }

    fn by(by: HashBy) -> HashPolicy {
        HashPolicy { by, terminal: false }
    }

    fn by_header(name: &str) -> HashPolicy {
        by(HashBy::Header(name.to_owned()))
    }

    fn by_cookie(ttl: Option<u64>) -> HashPolicy {
        let attributes = vec![("SameSite".to_owned(), "Lax".to_owned())];
        by(HashBy::Cookie(Cookie { name: "c".into(), path: "/".into(), ttl: ttl.map(Duration::from_secs), attributes }))
    }

    fn hashed(policies: &[HashPolicy], path: &str, headers: &[(&str, &str)]) -> Hashed {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let view = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: path, headers: &map };
        Hashed::of(policies, &view, ends())
    }

    fn of(text: &str) -> Option<u64> {
        Some(xxh64(0, text.as_bytes()))
    }

    #[test]
    fn each_thing_is_hashed_as_it_was_sent_and_what_is_not_there_has_no_hash() {
        for (policy, path, headers, expected) in [
            (by_header("x-user"), "/", &[("x-user", "one")][..], of("one")),
            (by_header("x-user"), "/", &[("x-user", "")], of("")),
            (by_header("x-user"), "/", &[("x-other", "one")], None),
            (by_header(":path"), "/a?b", &[], of("/a?b")),
            (by_header(":authority"), "/", &[], of("shop")),
            (by_header("accept"), "/", &[("accept", "a"), ("accept", "b")], of("a,b")),
            (by(HashBy::QueryParameter("q".into())), "/?a=1&q=2&q=3", &[], of("2")),
            (by(HashBy::QueryParameter("q".into())), "/?q", &[], of("")),
            (by(HashBy::QueryParameter("q".into())), "/?Q=1", &[], None),
            (by(HashBy::SourceIp), "/", &[], of("10.0.0.1")),
            (by_cookie(None), "/", &[("cookie", "a=b; c=\"d\"")], of("d")),
            (by_cookie(None), "/", &[("cookie", "c=")], None),
        ] {
            assert_eq!(
                hashed(std::slice::from_ref(&policy), path, headers),
                Hashed { hash: expected, cookies: vec![] },
                "{policy:?}"
            );
        }
    }

    #[test]
    fn lines_of_a_header_count_whatever_their_order() {
        let two = |one, other| hashed(&[by_header("x")], "/", &[("x", one), ("x", other)]).hash;
        assert_eq!(two("a", "b"), Some(xxh64(xxh64(0, b"a"), b"b")));
        assert_eq!(two("a", "b"), two("b", "a"));
        assert_ne!(two("a", "b"), two("a", "c"));
    }

    #[test]
    fn all_that_is_there_counts_until_something_ends_it() {
        let (a, b) = (xxh64(0, b"1"), xxh64(0, b"2"));
        let both = &[("a", "1"), ("b", "2")][..];
        let twice = [by_header("a"), by_header("b")];
        assert_eq!(hashed(&twice, "/", both).hash, Some(a.rotate_left(1) ^ b));
        assert_eq!(hashed(&twice, "/", &both[1..]).hash, Some(b));
        assert_eq!(hashed(&[by_header("a"), by_header("a")], "/", both).hash, Some(a.rotate_left(1) ^ a));
        let ends = [HashPolicy { terminal: true, ..by_header("a") }, by_header("b")];
        assert_eq!(hashed(&ends, "/", both).hash, Some(a));
        assert_eq!(hashed(&ends, "/", &both[1..]).hash, Some(b), "what is not there ends nothing");
        // Nor does it matter which of them had one.
        let later = [by_header("a"), HashPolicy { terminal: true, ..by_header("none") }, by_header("b")];
        assert_eq!(hashed(&later, "/", both).hash, Some(a));
        assert_eq!(hashed(&[], "/", both), Hashed::default());
    }

    #[test]
    fn a_client_without_a_cookie_is_given_one_that_leads_where_its_request_went() {
        let first = hashed(&[by_cookie(Some(60))], "/", &[]);
        let line = first.cookies[0].to_str().unwrap().to_owned();
        let value = line.strip_prefix("c=\"").and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!(value.len(), 16, "{line}");
        assert_eq!(line, format!("c=\"{value}\"; Max-Age=60; Path=/; SameSite=Lax; HttpOnly"));
        assert_eq!(first.hash, of(value));
        let next = hashed(&[by_cookie(Some(60))], "/", &[("cookie", format!("c={value}").as_str())]);
        assert_eq!(next, Hashed { hash: first.hash, cookies: vec![] });
        assert_eq!(hashed(&[by_cookie(Some(60))], "/", &[]), first, "for all requests of a connection it is the same");
        let session = hashed(&[by_cookie(Some(0))], "/", &[]);
        assert_eq!(session.cookies[0], format!("c=\"{value}\"; Path=/; SameSite=Lax; HttpOnly").as_str());
        assert_eq!(hashed(&[by_cookie(None)], "/", &[]), Hashed::default());
    }
}

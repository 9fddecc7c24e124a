//! What a routing decision may look at.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};

/// A request as the rules see it. Nothing in it is owned, so looking at a request copies nothing.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method, as sent (`GET`).
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The `Host` header or `:authority`, with its port if it has one.
    pub authority: &'a str,
    /// The path with its query, as sent.
    pub path_and_query: &'a str,
    /// The header fields, without pseudo headers.
    pub headers: &'a HeaderMap,
}

/// Headers of which Envoy keeps one line, however many it is sent.
const IN_ONE_LINE: [&str; 21] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cache-control",
    "connection",
    "content-type",
    "expect",
    "grpc-timeout",
    "origin",
    "referer",
    "te",
    "user-agent",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

impl<'a> RequestView<'a> {
    /// The path without query and fragment.
    #[must_use]
    pub fn path(&self) -> &'a str {
        let end = self.path_and_query.find(['?', '#']).unwrap_or(self.path_and_query.len());
        self.path_and_query.get(..end).unwrap_or("")
    }

    /// The query without `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        let rest = self.path_and_query.split_once('?')?.1;
        Some(rest.split_once('#').map_or(rest, |(query, _)| query))
    }

    /// The first value of a query parameter; a parameter without `=` has the empty value.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        self.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Whether a value of a header passes a test; `None` when it is not there. Each line that was sent is a value, as for Envoy from 1.39 on: a
    /// rule on `admin` is not got around by another line. Of some headers there is one line in any case.
    #[must_use]
    pub fn any_value(&self, name: &str, test: impl Fn(&str) -> bool) -> Option<bool> {
        let joined = || self.header(name).map(|value| test(&value));
        if name.starts_with(':') || name == "host" {
            return joined();
        }
        let passes = |line: &HeaderValue| test(&String::from_utf8_lossy(line.as_bytes()));
        let mut lines = self.headers.get_all(name).iter();
        match (lines.next()?, lines.next()) {
            (only, None) => Some(passes(only)),
            (_, Some(_)) if IN_ONE_LINE.contains(&name) => joined(),
            (first, Some(second)) => Some(passes(first) || passes(second) || lines.any(passes)),
        }
    }

    /// The lines of a header as they were sent, each by itself but where Envoy keeps one.
    pub(super) fn lines(&self, name: &str) -> Vec<Cow<'a, [u8]>> {
        if name.starts_with(':') || name == "host" || IN_ONE_LINE.contains(&name) {
            let bytes = |text: Cow<'a, str>| match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
            return self.header(name).map(bytes).into_iter().collect();
        }
        self.headers.get_all(name).iter().map(|line| Cow::Borrowed(line.as_bytes())).collect()
    }

    /// All values of a header joined by `,`, or a pseudo header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        match name {
            ":method" => return Some(Cow::Borrowed(self.method)),
            ":authority" | "host" => return Some(Cow::Borrowed(self.authority)),
            ":path" => return Some(Cow::Borrowed(self.path_and_query)),
            ":scheme" => return Some(Cow::Borrowed(self.scheme)),
            _ => {}
        }
        let mut values = self.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
        let first = values.next()?;
        let rest: Vec<_> = values.collect();
        if rest.is_empty() {
            return Some(first);
        }
        let mut joined = first.into_owned();
        for value in rest {
            joined.push(',');
            joined.push_str(&value);
        }
        Some(Cow::Owned(joined))
    }
}

//! What a routing decision may look at.

use std::borrow::Cow;

use http::HeaderMap;

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

    /// All values of a header joined by `,` (Envoy compares them so), or a pseudo header's value.
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

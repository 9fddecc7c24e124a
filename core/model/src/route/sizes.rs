//! How large requests may be (`envoy.extensions.filters.http.buffer.v3`; of their headers by a word of our own, since Envoy has none for a
//! route).

use serde::Serialize;

use super::RequestView;

/// What a header field takes besides its name and its value, in bytes (RFC 9113, section 6.5.2).
const FIELD: u64 = 32;

/// What a route says of the size of its requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SizeLimits {
    /// The longest body, in bytes, where the filter's own word does not hold; [`Self::UNBOUNDED`] for any.
    pub body: Option<u64>,
    /// The most that the head of a request may take, in bytes, as [`Self::head`] counts them.
    pub headers: Option<u32>,
}

impl SizeLimits {
    /// As long as anybody likes.
    pub const UNBOUNDED: u64 = u64::MAX;
    /// Nothing is said.
    pub const NONE: Self = Self { body: None, headers: None };

    /// What the head of a request takes, in bytes: names and values of all fields and 32 for each, as HTTP/2 counts them (RFC 9113, section
    /// 6.5.2), with those of the request line. The host counts once, however it is said, so that it is the same over each version of HTTP.
    #[must_use]
    pub fn head(request: &RequestView<'_>) -> u64 {
        let pseudo = [
            (":method", request.method),
            (":scheme", request.scheme),
            (":authority", request.authority),
            (":path", request.path_and_query),
        ];
        let pseudo: u64 = pseudo.iter().map(|(name, value)| field(name.len(), value.len())).sum();
        let fields = request.headers.iter().filter(|(name, _)| **name != http::header::HOST);
        pseudo + fields.map(|(name, value)| field(name.as_str().len(), value.len())).sum::<u64>()
    }

    /// Of a request whose head takes more than it may: how much it takes, and how much it may.
    #[must_use]
    pub fn too_much(&self, request: &RequestView<'_>) -> Option<(u64, u64)> {
        let most = u64::from(self.headers?);
        let head = Self::head(request);
        (head > most).then_some((head, most))
    }

    /// The longest body of its requests, where the filter itself says `otherwise`, if it is there at all; `None` for any.
    #[must_use]
    pub fn longest(&self, otherwise: Option<u64>) -> Option<u64> {
        let otherwise = otherwise?;
        Some(self.body.unwrap_or(otherwise)).filter(|most| *most != Self::UNBOUNDED)
    }
}

fn field(name: usize, value: usize) -> u64 {
    name as u64 + value as u64 + FIELD
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn a_head_takes_its_names_and_values_and_32_for_each_and_the_host_counts_once() {
        let mut headers = HeaderMap::new();
        let view = |headers: &HeaderMap| {
            let request = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/a?b", headers };
            SizeLimits::head(&request)
        };
        // :method GET, :scheme http, :authority shop, :path /a?b
        let line = (7 + 3) + (7 + 4) + (10 + 4) + (5 + 4) + 4 * 32;
        assert_eq!(view(&headers), line);
        headers.insert("host", HeaderValue::from_static("shop"));
        assert_eq!(view(&headers), line, "HTTP/1.1 says it as a field");
        headers.append("x-a", HeaderValue::from_static("12345"));
        headers.append("x-a", HeaderValue::from_static(""));
        assert_eq!(view(&headers), line + (3 + 5 + 32) + (3 + 32));
    }

    #[test]
    fn what_takes_just_as_much_as_it_may_passes() {
        let headers = HeaderMap::new();
        let request = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers: &headers };
        let head = SizeLimits::head(&request);
        let most = |most: u64| SizeLimits { headers: u32::try_from(most).ok(), ..SizeLimits::NONE };
        assert_eq!(most(head).too_much(&request), None);
        assert_eq!(most(head - 1).too_much(&request), Some((head, head - 1)));
        assert_eq!(SizeLimits::NONE.too_much(&request), None);
    }

    #[test]
    fn what_a_route_says_of_bodies_goes_before_the_filter_and_holds_only_where_that_is() {
        const ANY: u64 = SizeLimits::UNBOUNDED;
        for (route, filter, expected) in [
            (None, None, None),
            (Some(5), None, None),
            (None, Some(ANY), None),
            (Some(5), Some(ANY), Some(5)),
            (None, Some(7), Some(7)),
            (Some(9), Some(7), Some(9)),
            (Some(ANY), Some(7), None),
        ] {
            let said = SizeLimits { body: route, ..SizeLimits::NONE };
            assert_eq!(said.longest(filter), expected, "{route:?} {filter:?}");
        }
    }
}

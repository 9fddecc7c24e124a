//! What a rate limit server is asked (`envoy.service.ratelimit.v3`).

use std::borrow::Cow;

use serde::Serialize;

use super::{Counted, Part, found};

/// What of requests a server counts, as their route says (`envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GlobalLimit {
    /// Its domain, where that is not the filter's.
    pub domain: Option<String>,
    /// Each is counted for itself.
    pub descriptors: Vec<Vec<Part>>,
}

impl GlobalLimit {
    /// The descriptors that a request has, each with its keys and values. Where it has none, nobody is asked.
    #[must_use]
    pub fn of<'a>(&'a self, counted: &Counted<'a>) -> Vec<Vec<(&'a str, Cow<'a, str>)>> {
        self.descriptors.iter().filter_map(|parts| found(parts, counted)).collect()
    }

    /// The same in words, for a domain.
    #[must_use]
    pub fn in_words(&self, counted: &Counted<'_>, domain: &str) -> Vec<String> {
        let domain = self.domain.as_deref().unwrap_or(domain);
        let words = |entries: Vec<(&str, Cow<'_, str>)>| {
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key} {value}")).collect();
            format!("{} in the domain {domain}", entries.join(", "))
        };
        self.of(counted).into_iter().map(words).collect()
    }
}

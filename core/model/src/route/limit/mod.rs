//! How often requests may come: counted in this process (`envoy.extensions.filters.http.local_ratelimit.v3`), or by a server that is asked
//! (`global`).

mod bucket;
mod global;
#[cfg(test)]
mod tests;
mod values;

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Instant};

use serde::Serialize;

pub use bucket::{Bucket, Filling};
pub use global::GlobalLimit;

use super::{HeaderMutations, RequestView, Share};
use values::Values;

/// Where a part of what a request is counted by comes from (`envoy.config.route.v3.RateLimit.Action`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Part {
    /// What it is called.
    pub key: String,
    /// Where it comes from.
    pub source: Source,
    /// Where there is none the request is counted without it, and not counted by it at all otherwise.
    pub may_miss: bool,
}

/// See [`Part`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This text.
    Text(String),
    /// A header.
    Header(String),
    /// What the route says of itself: a filter's name, and the names that lead to the text.
    Route(String, Vec<String>),
    /// The client's SPIFFE id.
    Peer,
    /// The client's address.
    Remote,
}

/// A bucket for requests of which these parts are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Keys and values, all of which must be found in this order. Where a value is empty each has a bucket of its own.
    pub entries: Vec<(String, String)>,
    /// How it fills.
    pub filling: Filling,
}

/// What is said of a limit.
#[derive(Debug, Clone, Serialize)]
pub struct LimitSettings {
    /// Which requests are counted.
    pub enabled: Share,
    /// Which of those that are too many are refused.
    pub enforced: Share,
    /// The bucket of what no descriptor is for.
    pub filling: Filling,
    /// It counts for what a descriptor is for, too.
    pub always: bool,
    /// What requests are counted by.
    pub parts: Vec<Vec<Part>>,
    /// Buckets for some of them.
    pub descriptors: Vec<Descriptor>,
    /// How many values of a descriptor have a bucket at once.
    pub most_values: usize,
    /// The status that is answered.
    pub status: u16,
    /// To gRPC clients it is `RESOURCE_EXHAUSTED`, and not `UNAVAILABLE`.
    pub exhausted: bool,
    /// Responses tell how much is left (`x-ratelimit-…`).
    pub tells: bool,
    /// Refusals tell when to come again (`retry-after`).
    pub tells_when: bool,
    /// Headers of refusals.
    pub refused: HeaderMutations,
    /// Headers of requests that were too many and are let through.
    pub passed: HeaderMutations,
}

/// A limit with its buckets.
#[derive(Debug, Clone, Serialize)]
pub struct LocalLimit {
    /// What is said of it.
    pub settings: LimitSettings,
    #[serde(skip)]
    default: Arc<Bucket>,
    /// Those of descriptors, in their order.
    #[serde(skip)]
    of: Vec<Cell>,
}

#[derive(Debug, Clone)]
enum Cell {
    One(Arc<Bucket>),
    Each(Arc<Values>),
}

/// Whether a request may pass, and the bucket that this is said by.
#[derive(Debug)]
pub struct Taken {
    /// Whether there were tokens enough.
    pub allowed: bool,
    /// The one that had none, or the first one that had.
    pub bucket: Arc<Bucket>,
}

/// What a request is counted by.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// The request.
    pub request: RequestView<'a>,
    /// The client's SPIFFE id.
    pub peer: Option<&'a str>,
    /// What its route says of itself, by filter.
    pub metadata: &'a serde_json::Value,
    /// The client's address.
    pub remote: Option<IpAddr>,
}

/// A key with the value that a request has for it.
type Found<'a> = (&'a str, Cow<'a, str>);

impl LocalLimit {
    /// One whose buckets are full.
    #[must_use]
    pub fn new(settings: LimitSettings, now: Instant) -> Self {
        let cell = |of: &Descriptor| match of.entries.iter().any(|(_, value)| value.is_empty()) {
            true => Cell::Each(Arc::new(Values::new(of.filling, settings.most_values))),
            false => Cell::One(Arc::new(Bucket::new(of.filling, now))),
        };
        let of = settings.descriptors.iter().map(cell).collect();
        Self { default: Arc::new(Bucket::new(settings.filling, now)), of, settings }
    }

    /// The same with the buckets of `before` where they are for the same and fill alike: what changes beside them begins nobody's count anew.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        if self.settings.filling == before.settings.filling {
            self.default = before.default.clone();
        }
        let same_number = self.settings.most_values == before.settings.most_values;
        for (cell, descriptor) in self.of.iter_mut().zip(&self.settings.descriptors) {
            let held = before.of.iter().zip(&before.settings.descriptors).find(|(_, held)| *held == descriptor);
            match held {
                Some((Cell::Each(_), _)) if !same_number => {}
                Some((held, _)) => *cell = held.clone(),
                None => {}
            }
        }
        self
    }

    /// Takes the tokens for a request.
    #[must_use]
    pub fn take(&self, counted: &Counted<'_>, now: Instant) -> Taken {
        let mut buckets: Vec<Arc<Bucket>> =
            self.settings.parts.iter().filter_map(|parts| self.bucket(&found(parts, counted)?, now)).collect();
        // The strictest first, so that what it refuses takes no tokens of others.
        buckets.sort_by(|one, other| one.filling().slower(&other.filling()));
        if let Some(empty) = buckets.iter().find(|bucket| !bucket.take(now)) {
            return Taken { allowed: false, bucket: empty.clone() };
        }
        let first = buckets.into_iter().next();
        // One that is never empty is not touched, so that requests of all threads do not meet at it.
        let counts = self.settings.filling != Filling::UNLIMITED && (first.is_none() || self.settings.always);
        if counts && !self.default.take(now) {
            return Taken { allowed: false, bucket: self.default.clone() };
        }
        Taken { allowed: true, bucket: first.unwrap_or_else(|| self.default.clone()) }
    }

    /// Which limits a request is counted by, in words.
    #[must_use]
    pub fn in_words(&self, counted: &Counted<'_>) -> Vec<String> {
        if self.settings.enabled == Share::NONE {
            return Vec::new();
        }
        let of_descriptors = self.settings.parts.iter().filter_map(|parts| {
            let found = found(parts, counted)?;
            let descriptor = self.settings.descriptors.get(self.descriptor(&found)?)?;
            let by: Vec<String> = found.iter().map(|(key, value)| format!("{key} {value}")).collect();
            Some(format!("{} for {}", descriptor.filling.in_words(), by.join(", ")))
        });
        let mut words: Vec<String> = of_descriptors.collect();
        if (words.is_empty() || self.settings.always) && self.settings.filling != Filling::UNLIMITED {
            words.push(self.settings.filling.in_words());
        }
        words
    }

    /// The descriptor for what was found: the one with just these values, or one that takes any.
    fn descriptor(&self, found: &[Found<'_>]) -> Option<usize> {
        let fits = |any: bool| {
            self.settings.descriptors.iter().position(|Descriptor { entries, .. }| {
                let fits = |((key, value), (other, seen)): (&(String, String), &Found<'_>)| {
                    key == other && if value.is_empty() { any } else { value.as_str() == &**seen }
                };
                entries.len() == found.len() && entries.iter().zip(found).all(fits)
            })
        };
        fits(false).or_else(|| fits(true))
    }

    fn bucket(&self, found: &[Found<'_>], now: Instant) -> Option<Arc<Bucket>> {
        match self.of.get(self.descriptor(found)?)? {
            Cell::One(bucket) => Some(bucket.clone()),
            Cell::Each(values) => Some(values.bucket(found, now)),
        }
    }
}

/// The parts as a request has them; `None` when it is not counted by them.
fn found<'a>(parts: &'a [Part], counted: &Counted<'a>) -> Option<Vec<Found<'a>>> {
    let mut found = Vec::with_capacity(parts.len());
    for part in parts {
        let value = match &part.source {
            Source::Text(text) => Some(Cow::Borrowed(text.as_str())),
            Source::Header(name) => first(&counted.request, name),
            Source::Route(filter, path) => {
                let said = counted.metadata.get(filter).and_then(|said| path.iter().try_fold(said, |said, name| said.get(name)));
                said.and_then(|said| said.as_str()).filter(|text| !text.is_empty()).map(Cow::Borrowed)
            }
            Source::Peer => counted.peer.map(Cow::Borrowed),
            Source::Remote => counted.remote.map(|address| Cow::Owned(address.to_string())),
        };
        match value {
            Some(value) => found.push((part.key.as_str(), value)),
            None if part.may_miss => {}
            None => return None,
        }
    }
    (!found.is_empty()).then_some(found)
}

/// A header, of several values the first (so does Envoy), or a pseudo header.
fn first<'a>(request: &RequestView<'a>, name: &str) -> Option<Cow<'a, str>> {
    match request.headers.get(name) {
        Some(value) if name != "host" => Some(String::from_utf8_lossy(value.as_bytes())),
        _ => request.header(name),
    }
}

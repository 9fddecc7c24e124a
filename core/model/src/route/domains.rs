//! Which hosts virtual hosts are for, and which of them fits a request best.

use std::{collections::HashMap, mem::take};

use serde::Serialize;

use super::table::VirtualHost;

/// Which hosts a virtual host is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainMatch {
    /// This host.
    Exact(String),
    /// Hosts that end so (`*.example.com` is written `.example.com` here).
    Suffix(String),
    /// Hosts that begin so (`example.*` is written `example.` here).
    Prefix(String),
    /// Every host.
    Any,
}

impl DomainMatch {
    /// Reads Envoy's notation.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Self::Any;
        }
        if let Some(suffix) = text.strip_prefix('*') {
            return Self::Suffix(suffix.to_owned());
        }
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text),
        }
    }

    /// How well it matches: exact first, then the longest suffix, then the longest prefix, then any. `None`: not at all.
    pub(crate) fn rank(&self, host: &str) -> Option<(u8, usize)> {
        match self {
            Self::Exact(h) => (h == host).then_some((3, h.len())),
            Self::Suffix(s) => (host.len() > s.len() && host.ends_with(s.as_str())).then_some((2, s.len())),
            Self::Prefix(p) => (host.len() > p.len() && host.starts_with(p.as_str())).then_some((1, p.len())),
            Self::Any => Some((0, 0)),
        }
    }
}

/// Virtual hosts by their domains. They are named by their numbers; of two with the same domain the first counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Domains {
    exact: HashMap<Box<str>, usize>,
    suffixes: Parts,
    prefixes: Parts,
    any: Option<usize>,
}

/// What hosts begin or end with.
#[derive(Debug, Clone, Default)]
struct Parts {
    /// Each length that there is, the longest first.
    lengths: Vec<usize>,
    hosts: HashMap<Box<str>, usize>,
}

impl Domains {
    pub(super) fn new(hosts: &[VirtualHost]) -> Self {
        let mut domains = Self::default();
        for (number, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                match domain {
                    DomainMatch::Exact(host) => _ = domains.exact.entry(host.as_str().into()).or_insert(number),
                    DomainMatch::Suffix(part) => _ = domains.suffixes.hosts.entry(part.as_str().into()).or_insert(number),
                    DomainMatch::Prefix(part) => _ = domains.prefixes.hosts.entry(part.as_str().into()).or_insert(number),
                    DomainMatch::Any => _ = domains.any.get_or_insert(number),
                }
            }
        }
        domains.suffixes = take(&mut domains.suffixes).sorted();
        domains.prefixes = take(&mut domains.prefixes).sorted();
        domains
    }

    /// The virtual host that fits best: by its whole name, then by the longest end, then by the longest beginning, then any.
    pub(super) fn best(&self, host: &str) -> Option<usize> {
        let exact = || self.exact.get(host).copied();
        let suffix = || self.suffixes.longest(host, |length| host.get(host.len() - length..));
        let prefix = || self.prefixes.longest(host, |length| host.get(..length));
        exact().or_else(suffix).or_else(prefix).or(self.any)
    }
}

impl Parts {
    fn sorted(mut self) -> Self {
        self.lengths = self.hosts.keys().map(|part| part.len()).collect();
        self.lengths.sort_unstable_by(|one, other| other.cmp(one));
        self.lengths.dedup();
        self
    }

    /// A part is not the whole host.
    fn longest<'a>(&self, host: &str, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let mut lengths = self.lengths.iter().filter(|length| **length < host.len());
        lengths.find_map(|length| self.hosts.get(part(*length)?).copied())
    }
}

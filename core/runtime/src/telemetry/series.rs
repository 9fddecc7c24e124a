//! A limit on metric series, on by default: peers choose some label values, and each new one costs memory for ever.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use metrics::{Label, SharedString, counter};

use super::{label, metric};

/// Admits at most so many different label sets; later ones have every value that a peer influences replaced by `other`.
#[derive(Debug)]
pub struct SeriesLimit {
    limit: usize,
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

impl SeriesLimit {
    /// Label sets admitted per family of metrics unless told otherwise.
    pub const DEFAULT: usize = 10_000;

    /// Admits `limit` different label sets.
    pub fn new(limit: usize) -> Self {
        Self { limit, hasher: RandomState::new(), seen: Mutex::default() }
    }

    /// The labels to record under: `labels` itself while there is room (or when seen before), else the folded set, in which only
    /// the labels of small fixed range (`reporter`, `reason`, `connection_security_policy`) keep their values.
    pub fn admit(&self, labels: Vec<Label>) -> Vec<Label> {
        let hash = self.hasher.hash_one(&labels);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.contains(&hash) {
                return labels;
            }
            if seen.len() < self.limit {
                seen.insert(hash);
                return labels;
            }
        }
        counter!(metric::SERIES_FOLDED).increment(1);
        labels.into_iter().map(fold).collect()
    }
}

impl Default for SeriesLimit {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

fn fold(kept: Label) -> Label {
    match kept.key() {
        label::REPORTER | label::REASON | label::CONNECTION_SECURITY_POLICY => kept,
        key => Label::new(SharedString::from_owned(key.to_owned()), SharedString::const_str(label::OTHER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(workload: &'static str) -> Vec<Label> {
        vec![Label::from_static_parts(label::REPORTER, "source"), Label::from_static_parts(label::SOURCE_WORKLOAD, workload)]
    }

    #[test]
    fn beyond_the_limit_new_sets_are_folded_and_known_ones_are_not() {
        let limit = SeriesLimit::new(2);
        assert_eq!(limit.admit(labels("a")), labels("a"));
        assert_eq!(limit.admit(labels("b")), labels("b"));
        assert_eq!(limit.admit(labels("c")), labels(label::OTHER));
        assert_eq!(limit.admit(labels("a")), labels("a"));
    }
}

//! What the peer of a delta session has of one type, as far as the server knows.

use std::{collections::HashMap, sync::Arc};

/// So many names are kept for each session that wants everything; they tell a little more exactly what its peer lacks.
pub(super) const LISTED: usize = 256;

/// What the peer of a session has of one type.
#[derive(Debug)]
pub(super) enum Held {
    /// These names, in these versions.
    Listed(HashMap<Arc<str>, Arc<str>>),
    /// All that the view had at the generation last seen, which is so many resources. Thousands of node proxies have the same tens of
    /// thousands of resources: a list for each of them would take more memory than everything else.
    All(usize),
}

impl Default for Held {
    fn default() -> Self {
        Self::Listed(HashMap::new())
    }
}

impl Held {
    /// Whether the peer is known to have the name in this version. Of what has changed since it was looked, nobody is.
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        matches!(self, Self::Listed(names) if names.get(name).is_some_and(|held| **held == *version))
    }

    /// Whether the peer may have the name in any version.
    pub(super) fn may_have(&self, name: &str) -> bool {
        match self {
            Self::Listed(names) => names.contains_key(name),
            Self::All(_) => true,
        }
    }

    /// Notes that the name is sent; true if the peer may have had it before.
    pub(super) fn insert(&mut self, name: Arc<str>, version: Arc<str>) -> bool {
        match self {
            Self::Listed(names) => names.insert(name, version).is_some(),
            Self::All(_) => true,
        }
    }

    /// Notes that the peer is told of its end, or does not want it any more.
    pub(super) fn remove(&mut self, name: &str) {
        if let Self::Listed(names) = self {
            names.remove(name);
        }
    }

    /// How many resources the peer has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Listed(names) => names.len(),
            Self::All(count) => *count,
        }
    }
}

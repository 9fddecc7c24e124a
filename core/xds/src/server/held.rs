//! What the peer of a delta session has of one type, as far as the server knows.

use std::{collections::HashMap, sync::Arc};

/// So many names are kept for each session that wants everything; they tell a little more exactly what its peer lacks.
pub(super) const LISTED: usize = 256;

/// What the peer of a session has of one type.
#[derive(Debug)]
pub(super) enum Held {
    /// What it has told itself, in its first request: tens of thousands of names, that are looked at once.
    Told(HashMap<String, String>),
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
    /// The version of the name that the peer has, if it may have any, and if it is known. Of what has changed since it was looked, none is.
    pub(super) fn version(&self, name: &str) -> Option<Option<&str>> {
        match self {
            Self::Told(names) => names.get(name).map(|version| Some(version.as_str())),
            Self::Listed(names) => names.get(name).map(|version| Some(&**version)),
            Self::All(_) => Some(None),
        }
    }

    /// Whether the peer is known to have the name in this version.
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        self.version(name) == Some(Some(version))
    }

    /// Whether the peer may have the name in any version.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.version(name).is_some()
    }

    /// The names, where they are known.
    pub(super) fn names(&self) -> Option<Vec<&str>> {
        match self {
            Self::Told(names) => Some(names.keys().map(String::as_str).collect()),
            Self::Listed(names) => Some(names.keys().map(|name| &**name).collect()),
            Self::All(_) => None,
        }
    }

    /// Leaves only the names that are wanted, where they are known; false where they are not.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Told(names) => names.retain(|name, _| wanted(name)),
            Self::Listed(names) => names.retain(|name, _| wanted(name)),
            Self::All(_) => return false,
        }
        true
    }

    /// Notes that the name is sent; true if the peer may have had it before.
    pub(super) fn insert(&mut self, name: Arc<str>, version: Arc<str>) -> bool {
        match self {
            Self::Told(names) => names.insert(name.to_string(), version.to_string()).is_some(),
            Self::Listed(names) => names.insert(name, version).is_some(),
            Self::All(_) => true,
        }
    }

    /// Notes that the peer is told of its end, or does not want it any more.
    pub(super) fn remove(&mut self, name: &str) {
        match self {
            Self::Told(names) => drop(names.remove(name)),
            Self::Listed(names) => drop(names.remove(name)),
            Self::All(_) => {}
        }
    }

    /// How many resources the peer has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Told(names) => names.len(),
            Self::Listed(names) => names.len(),
            Self::All(count) => *count,
        }
    }
}

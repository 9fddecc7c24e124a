//! What the peer of a delta session has of one type, as far as the server knows.

use std::{collections::HashMap, sync::Arc};

use super::request::Told;

/// So many names are kept for each session that wants everything; they tell a little more exactly what its peer lacks.
pub(super) const LISTED: usize = 256;

/// What the peer of a session has of one type.
#[derive(Debug)]
pub(super) enum Held {
    /// What it has told itself, in its first request, and was not looked at yet.
    Told(Told),
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
    /// Makes a list of what the peer has told: by its names single ones are found.
    pub(super) fn list(&mut self) {
        if let Self::Told(told) = self {
            *self = Self::Listed(told.iter().map(|(name, version)| (name.into(), version.into())).collect());
        }
    }

    /// The version of the name that the peer has, if it may have any, and if it is known. Of what has changed since it was looked, none is.
    /// Of what it has told, a list comes first.
    pub(super) fn version(&self, name: &str) -> Option<Option<&str>> {
        match self {
            Self::Told(_) => None,
            Self::Listed(names) => names.get(name).map(|version| Some(&**version)),
            Self::All(_) => Some(None),
        }
    }

    /// Whether the peer is known to have the name in this version.
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        self.version(name) == Some(Some(version))
    }

    /// The names, where they are listed.
    pub(super) fn names(&self) -> Option<impl Iterator<Item = &Arc<str>>> {
        match self {
            Self::Listed(names) => Some(names.keys()),
            Self::Told(_) | Self::All(_) => None,
        }
    }

    /// Leaves only the names that are wanted, where they are known; false where they are not.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) -> bool {
        self.list();
        match self {
            Self::Listed(names) => names.retain(|name, _| wanted(name)),
            Self::Told(_) | Self::All(_) => return false,
        }
        true
    }

    /// Notes that the name is sent.
    pub(super) fn insert(&mut self, name: Arc<str>, version: Arc<str>) {
        self.list();
        if let Self::Listed(names) = self {
            names.insert(name, version);
        }
    }

    /// Notes that the peer is told of its end, or does not want it any more.
    pub(super) fn remove(&mut self, name: &str) {
        self.list();
        if let Self::Listed(names) = self {
            names.remove(name);
        }
    }

    /// How many resources the peer has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Told(told) => told.len(),
            Self::Listed(names) => names.len(),
            Self::All(count) => *count,
        }
    }
}

//! Keys of issuers of tokens that are fetched: which are asked for, and what was learned of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ChangedKey, Index};
use crate::jwks::{Fetched, KeySource, Learned, News};
use crate::source::{NamespacedName, key_sources};

impl Index {
    /// Takes in what was learned of a source of keys and returns the resources whose translation that may have changed, sorted, each once.
    pub fn learn(&mut self, (source, fetched): News) -> Vec<ChangedKey> {
        let keys = |known: Option<&Fetched>| known.and_then(Fetched::keys).map(str::to_owned);
        let before = keys(self.learned.get(&source));
        let after = keys(fetched.as_ref());
        match fetched {
            Some(fetched) => _ = self.learned.insert(source.clone(), fetched),
            None => _ = self.learned.remove(&source),
        }
        let mut changed = BTreeSet::new();
        if before != after {
            for name in self.links.token_policies_by_source.get(&source) {
                if let Some(policy) = self.objects.request_authentications.get(name) {
                    self.token_policy_affected(policy, name, &mut changed);
                }
            }
        }
        changed.into_iter().collect()
    }

    /// What was learned of all sources.
    #[must_use]
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// The sources that objects ask for, each with the longest time that a fetch may take by any of them.
    #[must_use]
    pub fn wanted_keys(&self) -> BTreeMap<KeySource, Duration> {
        let names: BTreeSet<&NamespacedName> = self.links.token_policies_by_source.values().collect();
        let policies = names.into_iter().filter_map(|name| self.objects.request_authentications.get(name));
        let mut wanted = BTreeMap::new();
        for (source, patience) in policies.flat_map(|policy| key_sources(policy)) {
            let longest = wanted.entry(source).or_insert(patience);
            *longest = patience.max(*longest);
        }
        wanted
    }

    /// Whether nothing is known yet of some source that objects ask for.
    #[must_use]
    pub fn awaits_keys(&self) -> bool {
        self.wanted_keys().keys().any(|source| !self.learned.contains_key(source))
    }
}

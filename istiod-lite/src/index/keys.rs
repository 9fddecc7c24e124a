//! Keys of issuers of tokens that are fetched: which are asked for, and what was learned of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChangedKey, Index};
use crate::jwks::{Fetched, KeySource, Learned, News, Wanted};
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

    /// The sources that objects ask for, each with who asks.
    #[must_use]
    pub fn wanted_keys(&self) -> BTreeMap<KeySource, Wanted> {
        let names: BTreeSet<&NamespacedName> = self.links.token_policies_by_source.values().collect();
        let mut wanted: BTreeMap<KeySource, Wanted> = BTreeMap::new();
        for name in names {
            let Some(policy) = self.objects.request_authentications.get(name) else { continue };
            for (source, patience) in key_sources(policy) {
                let by = wanted.entry(source).or_default();
                by.patience = patience.max(by.patience);
                by.namespaces.insert(name.namespace.clone());
            }
        }
        wanted
    }

    /// Whether nothing is known yet of some source that objects ask for.
    #[must_use]
    pub fn awaits_keys(&self) -> bool {
        self.wanted_keys().keys().any(|source| !self.learned.contains_key(source))
    }
}

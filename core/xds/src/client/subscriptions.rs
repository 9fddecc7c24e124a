//! The names a program wants of each type that is not subscribed as a whole; they may change at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch;

/// A handle on the wanted names, shared between handlers and the client. Level-triggered: only the latest set counts.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    wanted: Arc<watch::Sender<BTreeMap<String, BTreeSet<String>>>>,
}

impl Subscriptions {
    /// Nothing wanted by name yet.
    #[must_use]
    pub fn new() -> Self {
        Self { wanted: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// Wants exactly `names` of the type from now on.
    pub fn set(&self, type_url: &str, names: impl IntoIterator<Item = String>) {
        let names: BTreeSet<String> = names.into_iter().collect();
        self.wanted.send_if_modified(|wanted| {
            if wanted.get(type_url) == Some(&names) {
                return false;
            }
            wanted.insert(type_url.to_owned(), names);
            true
        });
    }

    pub(super) fn watch(&self) -> watch::Receiver<BTreeMap<String, BTreeSet<String>>> {
        self.wanted.subscribe()
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::new()
    }
}

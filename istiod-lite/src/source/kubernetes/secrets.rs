//! The Secrets that Gateways name: a list and a watch for each, which end when nobody names it any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::Timing;
use super::merge::{Merge, Update};
use super::named::Named;
use super::reflector::Reflector;
use super::watch::Watch;
use crate::source::crd::secret::TlsSecret;
use crate::source::{Event, Kind, NamespacedName, Object, ObjectKey};

/// What is said of Secrets where none is to be asked for.
const WITHHELD: &str = "the control plane was told to read none; set gateways.secrets of the installation to true";

/// The Secrets that are asked for.
pub(super) struct Secrets {
    client: Client,
    timing: Timing,
    updates: mpsc::Sender<Update>,
    named: Named,
    asked: BTreeMap<NamespacedName, Asked>,
    /// How many were asked for so far.
    count: u64,
    watches: JoinSet<()>,
    withheld: bool,
}

/// A Secret that is asked for.
struct Asked {
    /// Which watch of it this is.
    number: u64,
    listed: bool,
    watch: Option<AbortHandle>,
}

impl Secrets {
    /// None is named yet. What is found goes to `updates`.
    pub(super) fn new(client: Client, timing: Timing, updates: mpsc::Sender<Update>) -> Self {
        let (named, asked, watches) = (Named::default(), BTreeMap::new(), JoinSet::new());
        Self { client, timing, updates, named, asked, count: 0, watches, withheld: false }
    }

    /// Asks for none from now on.
    pub(super) fn withhold(&mut self) {
        self.withheld = true;
    }

    /// Whether news is of something that is asked for. What a watch has said that has ended since is not.
    pub(super) fn expects(&mut self, update: &Update) -> bool {
        let Some((name, number)) = &update.only else { return true };
        let Some(asked) = self.asked.get_mut(name).filter(|asked| asked.number == *number) else { return false };
        asked.listed |= update.listed;
        true
    }

    /// Whether others may be named after these events than before.
    pub(super) fn look(&mut self, events: &[Event]) -> bool {
        let mut others = false;
        for event in events {
            others |= self.named.take(event);
        }
        others
    }

    /// Whether all that are named are known, or known not to be there.
    pub(super) fn are_listed(&self) -> bool {
        self.asked.values().all(|asked| asked.listed)
    }

    /// Asks for those that are named now, and for no other: what is known of these is forgotten.
    pub(super) fn follow(&mut self, merge: &mut Merge) {
        let named = self.named.secrets();
        let unnamed: Vec<NamespacedName> = self.asked.keys().filter(|name| !named.contains(*name)).cloned().collect();
        for name in unnamed {
            if let Some(watch) = self.asked.remove(&name).and_then(|asked| asked.watch) {
                watch.abort();
            }
            merge.forget(&ObjectKey { kind: Kind::TlsSecret, name });
        }
        for name in named {
            if !self.asked.contains_key(&name) {
                self.ask(name, merge);
            }
        }
        metrics::gauge!("pilot_k8s_objects", "kind" => Kind::TlsSecret.as_str()).set(self.asked.len() as f64);
    }

    fn ask(&mut self, name: NamespacedName, merge: &mut Merge) {
        self.count += 1;
        let number = self.count;
        let watch = if self.withheld {
            let unread = Object::TlsSecret(Arc::new(TlsSecret::unread(&name, WITHHELD.into())));
            merge.take(Update {
                kind: Kind::TlsSecret,
                only: Some((name.clone(), number)),
                listed: true,
                events: vec![Event::Upsert(unread)],
                problems: Arc::default(),
                trouble: None,
            });
            None
        } else {
            let reflector = Reflector::of_secret(name.clone());
            let watch = Watch::new(self.client.clone(), reflector, self.timing, self.updates.clone()).numbered(number);
            Some(self.watches.spawn(watch.run()))
        };
        self.asked.insert(name, Asked { number, listed: self.withheld, watch });
    }

    /// Completes when a watch has ended that nobody has.
    pub(super) async fn ended(&mut self) {
        loop {
            match self.watches.join_next().await {
                Some(Err(error)) if error.is_cancelled() => {}
                Some(_) => return,
                None => std::future::pending::<()>().await,
            }
        }
    }
}

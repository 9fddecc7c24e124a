//! What the peer of a delta session wants of one type, and what it was sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use foldhash::fast::RandomState;

use super::{
    Entry, Nack, TypeStatus,
    held::{Held, LISTED},
    order::TypeUrl,
    request::Told,
    response::Resources,
    seen::Seen,
};
use crate::WILDCARD;

#[derive(Debug)]
pub(super) struct Subscription {
    /// Where the type stands among others.
    pub(super) rank: usize,
    pub(super) type_url: TypeUrl,
    /// An answer is due even if it is empty.
    pub(super) owed: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the peer has, as far as we know.
    held: Held,
    /// Names to be answered with what they stand for or with their absence; true if even what was sent before is sent again.
    asked: BTreeMap<String, bool>,
    /// Removals that wait until no other type names the resource.
    deferred: BTreeSet<Arc<str>>,
    /// The generation of the view that `held` reflects.
    seen: u64,
    /// Everything has to be compared, not only what changed since `seen`: nothing was sent yet, or more is wanted.
    compare_all: bool,
    /// Nothing of the type was asked for before.
    first: bool,
    /// The response that is under way, by its nonce.
    outstanding: Option<u64>,
    acknowledged: Option<u64>,
    last_nack: Option<Nack>,
}

/// What is to be sent, as if it had been.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// What the peer lacks.
    pub(super) resources: Resources,
    /// The names that are gone.
    pub(super) removed: Vec<String>,
}

/// What a comparison finds.
#[derive(Debug, Default)]
struct Differences {
    send: BTreeMap<Arc<str>, Arc<Entry>>,
    gone: BTreeSet<Arc<str>>,
}

impl Differences {
    fn send(&mut self, entry: &Arc<Entry>) {
        self.send.insert(Arc::clone(&entry.name), Arc::clone(entry));
    }
}

impl Subscription {
    /// Of a type that is asked for the first time, by a peer that has what it told.
    pub(super) fn new(rank: usize, type_url: TypeUrl, wildcard: bool, told: Told) -> Self {
        Self {
            rank,
            type_url,
            owed: true,
            wildcard,
            names: BTreeSet::new(),
            held: Held::Told(told),
            asked: BTreeMap::new(),
            deferred: BTreeSet::new(),
            seen: 0,
            compare_all: true,
            first: true,
            outstanding: None,
            acknowledged: None,
            last_nack: None,
        }
    }

    /// The part of a request that answers a response.
    pub(super) fn answer(&mut self, request: &DeltaDiscoveryRequest) {
        if request.response_nonce.is_empty() {
            return;
        }
        if let Some(error) = &request.error_detail {
            self.last_nack = Some(Nack::new(&error.message));
        }
        let nonce = request.response_nonce.parse().ok();
        if nonce.is_some() && self.outstanding == nonce {
            self.outstanding = None;
            if request.error_detail.is_none() {
                self.acknowledged = nonce;
            }
        }
    }

    /// A name asked for is answered even if it was sent before: the peer may have forgotten it. In a first request the peer says
    /// itself what it has.
    pub(super) fn subscribe(&mut self, names: &[String]) {
        let again = !std::mem::take(&mut self.first);
        for name in names {
            if name == WILDCARD {
                self.compare_all |= !self.wildcard;
                self.wildcard = true;
            } else {
                self.asked.insert(name.clone(), again);
                self.names.insert(name.clone());
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = false;
                if !self.held.retain(|name| self.names.contains(name)) {
                    // What of them the peer has is not known by name, so it is sent them again.
                    self.held = Held::default();
                    self.asked.extend(self.names.iter().map(|name| (name.clone(), true)));
                }
                continue;
            }
            self.names.remove(name);
            if self.wildcard {
                // The peer drops the name although it is still part of "everything": it has to be told again.
                self.asked.insert(name.clone(), true);
            } else {
                self.asked.remove(name);
                self.deferred.remove(name.as_str());
                self.held.remove(name);
            }
        }
    }

    /// Those of `names` that were asked for are sent again.
    pub(super) fn ask_again(&mut self, names: &[String]) {
        for name in names.iter().filter(|name| self.names.contains(*name)) {
            self.asked.insert(name.clone(), true);
        }
    }

    /// How many names are kept of what was asked for.
    pub(super) fn names(&self) -> usize {
        self.names.len().max(self.asked.len())
    }

    /// Whether the peer has asked for something that it was not answered yet, which it is even while a response is under way.
    pub(super) fn is_asked(&self) -> bool {
        self.owed || !self.asked.is_empty()
    }

    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether the peer was sent all that there is for it.
    pub(super) fn is_caught_up(&self, content: Seen<'_>) -> bool {
        !self.is_asked() && !self.compare_all && !self.defers() && self.seen == content.generation()
    }

    /// Whether there are removals that were put off.
    pub(super) fn defers(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Notes that a response is under way. The generation that it reflects.
    pub(super) fn sent(&mut self, nonce: u64) -> u64 {
        self.outstanding = Some(nonce);
        self.seen
    }

    pub(super) fn status(&self) -> TypeStatus {
        TypeStatus {
            wildcard: self.wildcard,
            names: self.names.len(),
            resources: self.held.len(),
            generation: self.seen,
            acknowledged: self.acknowledged.map(|nonce| nonce.to_string()),
            waiting: self.outstanding.is_some(),
            last_nack: self.last_nack.clone(),
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.wildcard || self.names.contains(&*entry.name) || entry.aliases.iter().any(|alias| self.names.contains(&**alias))
    }

    /// The removals that were put off and still hold.
    pub(super) fn take_deferred(&mut self, content: Seen<'_>) -> Vec<String> {
        let mut deferred = std::mem::take(&mut self.deferred);
        deferred.retain(|name| content.get(name).is_none_or(|entry| !self.wants(entry)));
        deferred.iter().for_each(|name| self.held.remove(name));
        deferred.iter().map(|name| name.to_string()).collect()
    }

    /// What the peer lacks, and the names that are gone. Records all of it as sent. `None` when it can no longer be told what is gone.
    pub(super) fn take(&mut self, content: Seen<'_>, defer: bool) -> Option<Taken> {
        if !self.compare_all && self.asked.is_empty() && self.seen == content.generation() {
            return Some(Taken::default());
        }
        let count = content.entries().len();
        let many = self.wildcard && count > LISTED;
        let plain = self.wildcard && self.asked.is_empty();
        let found = match &self.held {
            // After a change to what all have, this is the way of nearly all.
            Held::All(_) if plain && !defer && !self.compare_all && self.deferred.is_empty() => {
                let changed = content.latest(self.seen)?;
                self.seen = content.generation();
                self.held = Held::All(count);
                return Some(Taken { resources: Resources::Fields(changed.resources), removed: changed.removed });
            }
            Held::Told(told) if plain && many && told.is_empty() => {
                self.compare_all = false;
                self.seen = content.generation();
                self.held = Held::All(count);
                return Some(Taken { resources: Resources::Fields(content.whole()), ..Taken::default() });
            }
            Held::Told(told) if plain && many => told_differences(content, told),
            _ => {
                self.held.list();
                self.differences(content)?
            }
        };
        let mut absent: Vec<String> = Vec::new();
        let Differences { mut send, mut gone } = found;
        for (name, again) in std::mem::take(&mut self.asked) {
            let found = content.find(&name);
            if found.is_empty() && !gone.contains(name.as_str()) {
                absent.push(name);
                continue;
            }
            for entry in found {
                if again || !self.held.is(&entry.name, &entry.version) {
                    send.insert(Arc::clone(&entry.name), Arc::clone(entry));
                }
            }
        }
        self.compare_all = false;
        self.seen = content.generation();
        let all = many || (self.wildcard && matches!(self.held, Held::All(_)));
        if all {
            self.held = Held::All(count);
        }
        if defer {
            self.deferred.append(&mut gone);
        }
        for name in gone {
            self.held.remove(&name);
            absent.push(name.to_string());
        }
        let mut taken = Taken { removed: absent, ..Taken::default() };
        let mut resources = Vec::with_capacity(send.len());
        for (name, entry) in send {
            self.deferred.remove(&name);
            self.held.insert(name, Arc::clone(&entry.version));
            resources.push(entry);
        }
        taken.resources = Resources::Some(resources);
        Some(taken)
    }

    fn differences(&self, content: Seen<'_>) -> Option<Differences> {
        let mut found = Differences::default();
        let changed = if self.compare_all { None } else { content.changed_since(self.seen) };
        if let Some(names) = changed {
            for name in &names {
                self.compare(content.get(name), name, &mut found);
            }
            return Some(found);
        }
        let names = self.held.names()?;
        for name in names {
            if content.get(name).is_none() {
                found.gone.insert(Arc::clone(name));
            }
        }
        for entry in content.entries() {
            self.compare(Some(entry), &entry.name, &mut found);
        }
        Some(found)
    }

    /// Notes what the peer lacks of the resource of this name, or has though it is gone.
    fn compare(&self, entry: Option<&Arc<Entry>>, name: &Arc<str>, found: &mut Differences) {
        let held = self.held.version(name);
        match entry.filter(|entry| self.wants(entry)) {
            Some(entry) => {
                if held != Some(Some(&*entry.version)) {
                    found.send(entry);
                }
            }
            // Gone, or no longer found by the alias that the peer asked for.
            None => {
                if held.is_some() {
                    found.gone.insert(Arc::clone(name));
                }
            }
        }
    }
}

/// Of a peer that wants everything and comes back: all that it has is looked at once, where it was read. It tells it in any order, and looking
/// each name up in what there is would take ten times as long.
fn told_differences(content: Seen<'_>, told: &Told) -> Differences {
    let mut found = Differences::default();
    let mut versions = HashMap::with_capacity_and_hasher(told.len(), RandomState::default());
    versions.extend(told.bytes());
    let mut known = 0;
    for entry in content.entries() {
        let version = versions.get(entry.name.as_bytes());
        known += usize::from(version.is_some());
        if version.is_none_or(|version| *version != entry.version.as_bytes()) {
            found.send(entry);
        }
    }
    // Who comes back has hardly anything that is gone.
    if known < versions.len() {
        let names = versions.into_keys().filter_map(|name| str::from_utf8(name).ok());
        found.gone.extend(names.filter(|name| content.get(name).is_none()).map(Arc::from));
    }
    found
}

//! The server's side of a delta stream as a state machine: requests in, responses out, no I/O and no time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ambit_api::{
    envoy::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    type_url,
};

use super::{
    Cache, Nack, TypeStatus, View,
    cache::Entry,
    held::{Held, LISTED},
    order::{is_named_by_others, rank, waits_for},
};
use crate::{WILDCARD, XdsError};

/// Types one session may ask for.
pub(super) const MAX_TYPES: usize = 16;
/// Names one session may ask for, of one type.
const MAX_NAMES: usize = 1 << 19;

#[derive(Debug, Default)]
struct TypeState {
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
    /// Everything has to be compared, not only what changed since `seen`.
    compare_all: bool,
    /// An answer is due even if it is empty.
    owed: bool,
    outstanding: Option<String>,
    acknowledged: Option<String>,
    last_nack: Option<Nack>,
}

/// What the peer of one stream asked for, and what it was sent.
#[derive(Debug, Default)]
pub struct DeltaSession {
    types: BTreeMap<(usize, String), TypeState>,
    nonce: u64,
    /// Something is put off until the peer has answered what it depends on.
    holding: bool,
    /// The peer took too long: what was put off goes out without that.
    released: bool,
    /// The peer has fallen too far behind.
    lost: bool,
}

impl DeltaSession {
    /// A stream on which nothing was asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request: a subscription, an ACK, a NACK, or several of these at once.
    ///
    /// # Errors
    /// When the peer asks for more than a session may.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), XdsError> {
        let key = (rank(&request.type_url), request.type_url.clone());
        let first = !self.types.contains_key(&key);
        if first && self.types.len() >= MAX_TYPES {
            return Err(XdsError::Protocol(format!("more than {MAX_TYPES} types on one stream")));
        }
        let state = self.types.entry(key).or_default();
        state.answer(&request);
        if first {
            state.wildcard = request.resource_names_subscribe.is_empty();
            state.compare_all = true;
            state.owed = true;
            state.held = Held::Told(request.initial_resource_versions);
        }
        state.subscribe(request.resource_names_subscribe, first);
        state.unsubscribe(request.resource_names_unsubscribe);
        if state.names.len() > MAX_NAMES || state.asked.len() > MAX_NAMES {
            return Err(XdsError::Protocol(format!("more than {MAX_NAMES} names of type {}", request.type_url)));
        }
        Ok(())
    }

    /// The next response that is due, if there is one. At most one response of a type is under way; what changes meanwhile is in
    /// the next one. What is named goes before what names it, and its
    /// removal after.
    pub fn next(&mut self, cache: &Cache, view: &str) -> Option<DeltaDiscoveryResponse> {
        self.holding = false;
        let response = self.next_upsert(cache, view).or_else(|| self.next_removal(cache, view));
        if response.is_none() {
            self.released = false;
        }
        response
    }

    /// Whether something waits for an answer of the peer to something else.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// Waits no longer: a peer that dropped its interest in a type may never answer its last response.
    pub fn release(&mut self) {
        self.released = true;
    }

    /// Whether more was removed since the peer was last sent something than is remembered. The stream has to end; on the next one the
    /// peer says itself what it has.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    fn next_upsert(&mut self, cache: &Cache, view: &str) -> Option<DeltaDiscoveryResponse> {
        let keys: Vec<(usize, String)> = self.types.keys().cloned().collect();
        for key in &keys {
            let held = !self.released && waits_for(&key.1).iter().any(|other| self.is_outstanding(other));
            self.holding |= held;
            let Some(state) = self.types.get_mut(key) else { continue };
            if (state.outstanding.is_some() || held) && state.asked.is_empty() && !state.owed {
                continue;
            }
            let taken = cache.read(view, &key.1, |content| state.take(content, is_named_by_others(&key.1)));
            let Some((resources, removed)) = taken else {
                self.lost = true;
                return None;
            };
            if resources.is_empty() && removed.is_empty() && !state.owed {
                continue;
            }
            state.owed = false;
            let changed: Vec<&str> = resources.iter().filter(|(_, again)| *again).map(|(entry, _)| &*entry.name).collect();
            if key.1 == type_url::CLUSTER {
                Self::ask_again(&mut self.types, &changed);
            }
            let resources = resources.iter().map(|(entry, _)| resource(entry)).collect();
            return Some(self.respond(key, resources, removed));
        }
        None
    }

    /// The session's types, for people.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, TypeStatus> {
        let status = |state: &TypeState| TypeStatus {
            wildcard: state.wildcard,
            names: state.names.len(),
            resources: state.held.len(),
            generation: state.seen,
            acknowledged: state.acknowledged.clone(),
            waiting: state.outstanding.is_some(),
            last_nack: state.last_nack.clone(),
        };
        self.types.iter().map(|((_, type_url), state)| (type_url.clone(), status(state))).collect()
    }

    fn is_outstanding(&self, type_url: &str) -> bool {
        self.types.iter().any(|((_, url), state)| url == type_url && state.outstanding.is_some())
    }

    /// Removals that were put off: once nothing else is to be sent and the types that might name the resources have been answered.
    fn next_removal(&mut self, cache: &Cache, view: &str) -> Option<DeltaDiscoveryResponse> {
        let keys: Vec<(usize, String)> =
            self.types.iter().rev().filter(|(_, state)| !state.deferred.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            if !self.released && self.types.iter().any(|(other, state)| other.0 >= key.0 && state.outstanding.is_some()) {
                self.holding = true;
                continue;
            }
            let state = self.types.get_mut(key)?;
            let mut deferred = std::mem::take(&mut state.deferred);
            // It may have come back meanwhile.
            cache.read(view, &key.1, |content| deferred.retain(|name| content.get(name).is_none_or(|entry| !state.wants(entry))));
            if deferred.is_empty() {
                continue;
            }
            let removed: Vec<String> = deferred.iter().map(|name| name.to_string()).collect();
            for name in &removed {
                state.held.remove(name);
            }
            return Some(self.respond(key, Vec::new(), removed));
        }
        None
    }

    /// A changed cluster is warmed with its endpoints, which Envoy does not always ask for again.
    fn ask_again(types: &mut BTreeMap<(usize, String), TypeState>, clusters: &[&str]) {
        let Some(endpoints) = types.get_mut(&(rank(type_url::ENDPOINT), type_url::ENDPOINT.to_owned())) else { return };
        for name in clusters.iter().filter(|name| endpoints.names.contains(**name)) {
            endpoints.asked.insert((*name).to_owned(), true);
        }
    }

    fn respond(&mut self, key: &(usize, String), resources: Vec<Resource>, removed: Vec<String>) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let mut generation = 0;
        if let Some(state) = self.types.get_mut(key) {
            state.outstanding = Some(nonce.clone());
            generation = state.seen;
        }
        DeltaDiscoveryResponse {
            system_version_info: generation.to_string(),
            resources,
            type_url: key.1.clone(),
            removed_resources: removed,
            nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl TypeState {
    /// The part of a request that answers a response.
    fn answer(&mut self, request: &DeltaDiscoveryRequest) {
        if request.response_nonce.is_empty() {
            return;
        }
        if let Some(error) = &request.error_detail {
            self.last_nack = Some(Nack::new(&error.message));
        }
        if self.outstanding.as_deref() == Some(request.response_nonce.as_str()) {
            self.outstanding = None;
            if request.error_detail.is_none() {
                self.acknowledged = Some(request.response_nonce.clone());
            }
        }
    }

    /// A name asked for is answered even if it was sent before: the peer may have forgotten it. In a first request the peer says
    /// itself what it has.
    fn subscribe(&mut self, names: Vec<String>, first: bool) {
        for name in names {
            if name == WILDCARD {
                self.compare_all |= !self.wildcard;
                self.wildcard = true;
            } else {
                self.asked.insert(name.clone(), !first);
                self.names.insert(name);
            }
        }
    }

    fn unsubscribe(&mut self, names: Vec<String>) {
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
            self.names.remove(&name);
            if self.wildcard {
                // The peer drops the name although it is still part of "everything": it has to be told again.
                self.asked.insert(name, true);
            } else {
                self.asked.remove(&name);
                self.deferred.remove(name.as_str());
                self.held.remove(&name);
            }
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.wildcard || self.names.contains(&*entry.name) || entry.aliases.iter().any(|alias| self.names.contains(alias))
    }

    /// What the peer lacks, and the names that are gone.
    /// Records all of it as sent. `None` when it can no longer be told what is gone.
    fn take(&mut self, content: &View, defer: bool) -> Option<(Vec<Lacking>, Vec<String>)> {
        let mut send: BTreeMap<Arc<str>, Arc<Entry>> = BTreeMap::new();
        let mut gone: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut absent: Vec<String> = Vec::new();
        let changed = if self.compare_all { None } else { content.changed_since(self.seen) };
        match changed {
            Some(names) => {
                for name in &names {
                    self.compare(content.get(name), name, &mut send, &mut gone);
                }
            }
            None => {
                if matches!(self.held, Held::All(_)) {
                    return None;
                }
                let mut known = 0;
                for entry in content.entries() {
                    known += usize::from(self.compare(Some(entry), &entry.name, &mut send, &mut gone));
                }
                // Who comes back has hardly anything that is gone.
                if known < self.held.len() {
                    let names = self.held.names().unwrap_or_default().into_iter();
                    gone.extend(names.filter(|name| content.get(name).is_none()).map(Arc::from));
                }
            }
        }
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
        if defer {
            self.deferred.append(&mut gone);
        }
        for name in gone {
            self.held.remove(&name);
            absent.push(name.to_string());
        }
        let count = content.entries().len();
        let all = self.wildcard && (count > LISTED || matches!(self.held, Held::All(_)));
        let mut resources = Vec::with_capacity(send.len());
        for (name, entry) in send {
            self.deferred.remove(&name);
            let before = if all { self.held.may_have(&name) } else { self.held.insert(name, Arc::clone(&entry.version)) };
            resources.push((entry, before));
        }
        if all {
            self.held = Held::All(count);
        } else if let Held::Told(names) = &mut self.held {
            let names = std::mem::take(names).into_iter();
            self.held = Held::Listed(names.map(|(name, version)| (name.into(), version.into())).collect());
        }
        Some((resources, absent))
    }

    /// Whether the peer may have the resource of this name; what it lacks of it, or has though it is gone, is noted.
    fn compare(
        &self,
        entry: Option<&Arc<Entry>>,
        name: &Arc<str>,
        send: &mut BTreeMap<Arc<str>, Arc<Entry>>,
        gone: &mut BTreeSet<Arc<str>>,
    ) -> bool {
        let held = self.held.version(name);
        match entry.filter(|entry| self.wants(entry)) {
            Some(entry) => {
                if held != Some(Some(&*entry.version)) {
                    send.insert(Arc::clone(name), Arc::clone(entry));
                }
            }
            // Gone, or no longer found by the alias that the peer asked for.
            None => {
                if held.is_some() {
                    gone.insert(Arc::clone(name));
                }
            }
        }
        held.is_some()
    }
}

/// A resource that the peer lacks, and whether it may have another version of it.
type Lacking = (Arc<Entry>, bool);

fn resource(entry: &Entry) -> Resource {
    Resource {
        name: entry.name.to_string(),
        aliases: entry.aliases.clone(),
        version: entry.version.to_string(),
        resource: Some(entry.body.clone()),
        ..Resource::default()
    }
}

//! The server's side of a state-of-the-world stream as a state machine: requests in, responses out, no I/O and no time.
//!
//! A response carries the full set: of everything for a wildcard, of the names asked for otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use sha2::{Digest, Sha256};

use super::{
    Cache, Entry, Nack, TypeStatus,
    delta::MAX_TYPES,
    order::{dependent, rank, waits_for},
    seen::Seen,
};
use crate::{Any, WILDCARD, XdsError};

#[derive(Debug, Default)]
struct TypeState {
    /// Nothing was ever asked for by name, or `*` is.
    wildcard: bool,
    named: bool,
    names: BTreeSet<String>,
    /// The generation of the view that the last response reflects.
    seen: Option<u64>,
    /// The version of the last response.
    version: String,
    /// Names were dropped, so that the version of the set is another although nothing changed.
    shrunk: bool,
    /// A response is due even if its content is what it was.
    owed: bool,
    nonce: String,
    waiting: bool,
    acknowledged: Option<String>,
    last_nack: Option<Nack>,
}

/// What the peer of one stream asked for, and what it was sent.
#[derive(Debug, Default)]
pub struct SotwSession {
    types: BTreeMap<(usize, String), TypeState>,
    nonce: u64,
    /// Something is put off until the peer has answered what it depends on.
    holding: bool,
    /// The peer took too long: what was put off goes out without that.
    released: bool,
}

impl SotwSession {
    /// A stream on which nothing was asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request: the names wanted of a type, with the answer to its last response. One that answers an older response is
    /// ignored, for the peer has not seen the newer one and will answer that.
    ///
    /// # Errors
    /// When the peer asks for more than a session may.
    pub fn request(&mut self, request: DiscoveryRequest) -> Result<(), XdsError> {
        let key = (rank(&request.type_url), request.type_url.clone());
        let first = !self.types.contains_key(&key);
        if first && self.types.len() >= MAX_TYPES {
            return Err(XdsError::Protocol(format!("more than {MAX_TYPES} types on one stream")));
        }
        let state = self.types.entry(key).or_default();
        if first {
            state.owed = true;
        } else if request.response_nonce != state.nonce {
            return Ok(());
        }
        if state.waiting {
            state.waiting = false;
            match &request.error_detail {
                Some(error) => state.last_nack = Some(Nack::new(&error.message)),
                None => state.acknowledged = Some(state.version.clone()),
            }
        }
        state.want(request.resource_names);
        Ok(())
    }

    /// The next response that is due, if there is one; at most one of a type is under way.
    pub fn next(&mut self, cache: &Cache, view: &str) -> Option<DiscoveryResponse> {
        self.holding = false;
        let keys: Vec<(usize, String)> = self.types.keys().cloned().collect();
        for key in keys {
            let held = !self.released && waits_for(&key.1).iter().any(|other| self.is_waiting(other));
            self.holding |= held;
            let Some(state) = self.types.get_mut(&key) else { continue };
            if !state.owed && (state.waiting || held) {
                continue;
            }
            let Some((version, resources)) = cache.look(view, |types| state.take(types.of(&key.1))) else { continue };
            self.nonce += 1;
            state.nonce = self.nonce.to_string();
            state.version.clone_from(&version);
            state.owed = false;
            state.waiting = true;
            let nonce = state.nonce.clone();
            if let Some(other) = dependent(&key.1)
                && let Some(other) = self.types.get_mut(&(rank(other), other.to_owned()))
                && (other.wildcard || !other.names.is_empty())
            {
                other.owed = true;
            }
            return Some(DiscoveryResponse {
                version_info: version,
                resources,
                type_url: key.1,
                nonce,
                ..DiscoveryResponse::default()
            });
        }
        self.released = false;
        None
    }

    /// Never: each response has the whole set.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        false
    }

    /// Never known: what is to be sent again, and what waits for what, is found by looking.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        false
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

    /// The session's types, for people.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, TypeStatus> {
        let status = |state: &TypeState| TypeStatus {
            wildcard: state.wildcard,
            names: state.names.len(),
            resources: 0,
            generation: state.seen.unwrap_or_default(),
            acknowledged: state.acknowledged.clone(),
            waiting: state.waiting,
            last_nack: state.last_nack.clone(),
        };
        self.types.iter().map(|((_, type_url), state)| (type_url.clone(), status(state))).collect()
    }

    fn is_waiting(&self, type_url: &str) -> bool {
        self.types.iter().any(|((_, url), state)| url == type_url && state.waiting)
    }
}

impl TypeState {
    fn want(&mut self, names: Vec<String>) {
        let names: BTreeSet<String> = names.into_iter().collect();
        self.named |= !names.is_empty();
        // An empty list means everything, unless names were asked for before: then it means nothing.
        let wildcard = names.contains(WILDCARD) || !self.named;
        // Names that are dropped need no response, names that are new do even if they are unknown.
        self.owed |= wildcard != self.wildcard || !names.is_subset(&self.names);
        self.shrunk |= names != self.names;
        self.wildcard = wildcard;
        self.names = names;
    }

    /// The set as it is now with its version, if it has to be sent.
    fn take(&mut self, content: Seen<'_>) -> Option<(String, Vec<Any>)> {
        let changed = self.seen != Some(content.generation());
        if !self.owed && !changed && !self.shrunk {
            return None;
        }
        self.seen = Some(content.generation());
        self.shrunk = false;
        let entries: Vec<_> = if self.wildcard {
            content.entries().collect()
        } else {
            self.names.iter().filter_map(|name| content.get(name)).collect()
        };
        let version = version(&entries);
        if !self.owed && version == self.version {
            return None;
        }
        if !self.owed && !changed {
            self.version = version;
            return None;
        }
        Some((version, entries.iter().map(|entry| entry.body()).collect()))
    }
}

/// Equal for equal sets, whichever instance serves them.
fn version(entries: &[&Arc<Entry>]) -> String {
    let mut hash = Sha256::new();
    for entry in entries {
        hash.update(entry.name.as_bytes());
        hash.update([0]);
        hash.update(entry.version.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(String::with_capacity(16), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

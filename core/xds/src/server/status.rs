//! What the server knows about its sessions, for people.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde::Serialize;

/// Which variant of the protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Differences.
    Delta,
    /// Whole sets.
    StateOfTheWorld,
}

/// A response that the peer did not take as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nack {
    /// What the peer says about it.
    pub message: String,
    /// When it was received, in seconds since 1970.
    pub unix_seconds: u64,
}

impl Nack {
    /// How much of a peer's message is kept, in characters.
    const LIMIT: usize = 4096;

    pub(super) fn new(message: &str) -> Self {
        let unix_seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { message: message.chars().take(Self::LIMIT).collect(), unix_seconds }
    }
}

/// One type of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// Whether everything is asked for.
    pub wildcard: bool,
    /// How many names are asked for one by one.
    pub names: usize,
    /// How many resources the peer holds, as far as the server knows (delta only).
    pub resources: usize,
    /// The generation of the view that the peer was last sent.
    pub generation: u64,
    /// The version that the peer last acknowledged: of the set (state of the world), or the response's nonce (delta).
    pub acknowledged: Option<String>,
    /// Whether a response waits for its answer.
    pub waiting: bool,
    /// The last response that was refused.
    pub last_nack: Option<Nack>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// The node id the peer gave.
    pub node: String,
    /// The peer's address.
    pub peer: String,
    /// The view it is served.
    pub view: String,
    /// The variant it speaks.
    pub protocol: Protocol,
    /// When it began, in seconds since 1970.
    pub since_unix_seconds: u64,
    /// Its types.
    pub types: BTreeMap<String, TypeStatus>,
}

/// All open sessions.
#[derive(Debug, Clone, Default)]
pub struct Status {
    sessions: Arc<Mutex<BTreeMap<u64, SessionStatus>>>,
}

impl Status {
    /// The sessions as they are now, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.lock().values().cloned().collect()
    }

    /// Lists a session until the guard is dropped.
    pub(super) fn register(&self, node: String, peer: String, view: String, protocol: Protocol) -> Registered {
        let since_unix_seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let session = SessionStatus { node, peer, view, protocol, since_unix_seconds, types: BTreeMap::new() };
        let mut sessions = self.lock();
        let id = sessions.last_key_value().map_or(0, |(id, _)| id + 1);
        sessions.insert(id, session);
        Registered { status: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, SessionStatus>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one session in [`Status`].
pub(super) struct Registered {
    status: Status,
    id: u64,
}

impl Registered {
    pub(super) fn update(&self, types: BTreeMap<String, TypeStatus>) {
        if let Some(session) = self.status.lock().get_mut(&self.id) {
            session.types = types;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.status.lock().remove(&self.id);
    }
}

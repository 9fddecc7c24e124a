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

/// What a session says of its types.
pub(super) trait Types: Send {
    fn types(&self) -> BTreeMap<String, TypeStatus>;
}

/// A session that is listed, which is asked for its types when somebody wants to know: they change with each response and each answer.
struct Listed {
    /// All but its types.
    status: SessionStatus,
    session: Arc<Mutex<dyn Types>>,
}

/// All open sessions.
#[derive(Clone, Default)]
pub struct Status {
    sessions: Arc<Mutex<BTreeMap<u64, Listed>>>,
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status").finish_non_exhaustive()
    }
}

impl Status {
    /// The sessions as they are now, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let listed: Vec<_> = self.lock().values().map(|listed| (listed.status.clone(), Arc::clone(&listed.session))).collect();
        let of = |(status, session): (SessionStatus, Arc<Mutex<dyn Types>>)| {
            let types = session.lock().unwrap_or_else(PoisonError::into_inner).types();
            SessionStatus { types, ..status }
        };
        listed.into_iter().map(of).collect()
    }

    /// Lists a session until the guard is dropped. `types` of `status` are not looked at.
    pub(super) fn register(&self, status: SessionStatus, session: Arc<Mutex<dyn Types>>) -> Registered {
        let mut sessions = self.lock();
        let id = sessions.last_key_value().map_or(0, |(id, _)| id + 1);
        sessions.insert(id, Listed { status, session });
        Registered { status: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Listed>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionStatus {
    /// Of a session that begins now.
    pub(super) fn new(node: String, peer: String, view: String, protocol: Protocol) -> Self {
        let since_unix_seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { node, peer, view, protocol, since_unix_seconds, types: BTreeMap::new() }
    }
}

/// The place of one session in [`Status`].
pub(super) struct Registered {
    status: Status,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.status.lock().remove(&self.id);
    }
}

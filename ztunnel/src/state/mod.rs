//! What the control plane sent, shared by all connections of the node.

mod handlers;
pub mod kept;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use ambit_model::{arrive::Knowledge, policy::Reach, state::MeshState, workload::Uid};
use tokio::sync::watch;

pub use handlers::{addresses, policies};

/// From so many workloads on, those without connections are forgotten when one comes.
const WATCHED: usize = 1024;

/// The mesh as this proxy knows it. Readers hold the lock for one decision, writers for one batch; never across an await.
#[derive(Debug, Default)]
pub struct Shared {
    mesh: RwLock<MeshState>,
    changes: watch::Sender<Changes>,
    /// Rises with each batch that may change who is allowed somewhere. Apart from the other changes, so that those wake no open connection.
    policies: watch::Sender<u64>,
    /// The same for each workload that there are connections to: a change wakes the connections that it may concern, and no others.
    watched: Mutex<HashMap<Uid, watch::Sender<u64>>>,
}

/// How far knowledge has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rises with each batch.
    pub version: u64,
    /// Whether all addresses known to the control plane have arrived once.
    pub addresses_synced: bool,
    /// Whether all policies known to the control plane have arrived once. Until then nothing can be authorized.
    pub policies_synced: bool,
}

impl Changes {
    /// What of it decisions ask for.
    #[must_use]
    pub const fn knowledge(self) -> Knowledge {
        Knowledge { addresses: self.addresses_synced, policies: self.policies_synced }
    }
}

impl Shared {
    /// Decides something on the state as it is now.
    pub fn read<T>(&self, decide: impl FnOnce(&MeshState) -> T) -> T {
        // A panic while writing would leave the state between two batches, which are independent of each other.
        decide(&self.mesh.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and tells everyone who waits; with `policies`, anyone may be allowed or denied something else now.
    pub fn write(&self, policies: bool, change: impl FnOnce(&mut MeshState)) {
        self.change(|mesh| {
            change(mesh);
            if policies { Reach::everyone() } else { Reach::default() }
        });
    }

    /// As [`Shared::write`], where `change` says for whom who is allowed may be others now.
    pub fn change(&self, change: impl FnOnce(&mut MeshState) -> Reach) {
        let mut mesh = self.mesh.write().unwrap_or_else(PoisonError::into_inner);
        let reach = change(&mut mesh);
        // Whoever asks to be told from here on is told nothing of this change, so it must not find what was decided before it.
        self.note(|changes| changes.version += 1);
        let concerned = if reach.is_empty() { Vec::new() } else { self.concerned(&reach, &mesh) };
        drop(mesh);
        // Who waits for any change looks which connections were told.
        concerned.iter().for_each(|watched| watched.send_modify(|version| *version += 1));
        if !reach.is_empty() {
            self.policies.send_modify(|version| *version += 1);
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Uid, watch::Sender<u64>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn concerned(&self, reach: &Reach, mesh: &MeshState) -> Vec<watch::Sender<u64>> {
        let mut watched = self.watched();
        watched.retain(|_, watched| watched.receiver_count() > 0);
        watched.iter().filter(|(uid, _)| reach.concerns(mesh, uid)).map(|(_, watched)| watched.clone()).collect()
    }

    /// Tells of changes that may change who is allowed to this workload, from now on. To be taken before it is decided.
    pub fn policies_of(&self, workload: &Uid) -> watch::Receiver<u64> {
        let mut watched = self.watched();
        if let Some(watched) = watched.get(workload) {
            return watched.subscribe();
        }
        if watched.len() >= WATCHED {
            watched.retain(|_, watched| watched.receiver_count() > 0);
        }
        watched.entry(workload.clone()).or_default().subscribe()
    }

    /// Whether there may be connections to this workload.
    fn is_watched(&self, workload: &Uid) -> bool {
        self.watched().get(workload).is_some_and(|watched| watched.receiver_count() > 0)
    }

    /// Notes how far knowledge has come.
    pub fn note(&self, change: impl FnOnce(&mut Changes)) {
        self.changes.send_modify(change);
    }

    /// How far knowledge has come now. What is read after this is at least of this version.
    #[must_use]
    pub fn changes(&self) -> Changes {
        *self.changes.borrow()
    }

    /// Tells of changes that may change who is allowed somewhere, from now on.
    #[must_use]
    pub fn policies(&self) -> watch::Receiver<u64> {
        self.policies.subscribe()
    }

    /// What `find` finds, as soon as it finds something, or nothing after `limit`. Asked again at each change.
    pub async fn wait_for<T>(&self, limit: Duration, mut find: impl FnMut(&Self, Changes) -> Option<T>) -> Option<T> {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                let now = *changes.borrow_and_update();
                if let Some(found) = find(self, now) {
                    return Some(found);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests;

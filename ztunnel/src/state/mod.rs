//! What the control plane sent, shared by all connections of the node.

mod handlers;

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use ambit_model::{state::MeshState, workload::Uid};
use tokio::sync::watch;

pub use handlers::{addresses, policies};

/// The mesh as this proxy knows it. Readers hold the lock for one decision, writers for one batch; never across an await.
#[derive(Debug, Default)]
pub struct Shared {
    mesh: RwLock<MeshState>,
    changes: watch::Sender<Changes>,
    /// Rises with each batch that may change who is allowed. Apart from the other changes, so that those wake no open connection.
    policies: watch::Sender<u64>,
    /// The workloads that were decided for since then.
    decided: Mutex<HashSet<Uid>>,
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

impl Shared {
    /// Decides something on the state as it is now.
    pub fn read<T>(&self, decide: impl FnOnce(&MeshState) -> T) -> T {
        // A panic while writing would leave the state between two batches, which are independent of each other.
        decide(&self.mesh.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and tells everyone who waits.
    pub fn write(&self, policies: bool, change: impl FnOnce(&mut MeshState)) {
        self.change(|mesh| {
            change(mesh);
            policies
        });
    }

    /// As [`Shared::write`], where `change` says whether who is allowed may be others now.
    pub fn change(&self, change: impl FnOnce(&mut MeshState) -> bool) {
        let mut mesh = self.mesh.write().unwrap_or_else(PoisonError::into_inner);
        let policies = change(&mut mesh);
        if policies {
            // All open connections are decided again, which notes their workloads again.
            self.decided().clear();
        }
        drop(mesh);
        self.note(|changes| changes.version += 1);
        if policies {
            self.policies.send_modify(|version| *version += 1);
        }
    }

    fn decided(&self) -> MutexGuard<'_, HashSet<Uid>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it is being decided who is allowed to this workload. To be called by those who read the state for it.
    pub fn decides(&self, workload: &Uid) {
        let mut decided = self.decided();
        if !decided.contains(workload) {
            decided.insert(workload.clone());
        }
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

    /// Tells of changes that may change who is allowed, from now on.
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

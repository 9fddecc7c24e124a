//! Whom we believe: the roots of the mesh as they were last told, shared by everything that verifies.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::RootCertStore;
use tokio::{sync::watch, time::Instant};

use crate::{peer::Presented, revocation::Revocations, verify::revoked};

/// A live handle on the roots. Every handshake reads it when it verifies, so that a new root is believed, and a root that is gone no
/// longer is, from the next handshake on, without another certificate of our own.
///
/// Connections that stand are not verified again: who is at the other end was proven, and a planned change of roots must not end
/// them. But no further tunnels are opened on them ([`Trust::changes`] tells when to retire them).
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

struct Shared {
    held: Mutex<Held>,
    changes: watch::Sender<u64>,
}

struct Held {
    roots: Arc<RootCertStore>,
    /// When the answer that brought them was asked for.
    asked: Option<Instant>,
    /// What the authorities have taken back, when that is looked at.
    revocations: Option<Arc<Revocations>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("roots", &self.roots().len()).finish_non_exhaustive()
    }
}

impl Default for Trust {
    /// Believes nobody until it is told whom.
    fn default() -> Self {
        Self::new(Arc::new(RootCertStore::empty()))
    }
}

impl Trust {
    /// Believes `roots`.
    #[must_use]
    pub fn new(roots: Arc<RootCertStore>) -> Self {
        Self {
            shared: Arc::new(Shared {
                held: Mutex::new(Held { roots, asked: None, revocations: None }),
                changes: watch::Sender::new(0),
            }),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The roots believed now.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.held().roots)
    }

    /// Believes `roots` from now on, unless what is held came with an answer that was asked for later than `asked`: answers may
    /// overtake each other. Returns whether they are others than before.
    pub fn adopt(&self, roots: &Arc<RootCertStore>, asked: Instant) -> bool {
        let mut held = self.held();
        if held.asked.is_some_and(|held| held > asked) {
            return false;
        }
        held.asked = Some(asked);
        if same(&held.roots, roots) {
            return false;
        }
        held.roots = Arc::clone(roots);
        drop(held);
        self.shared.changes.send_modify(|version| *version += 1);
        true
    }

    /// Heeds these lists from now on, on both sides of every handshake.
    pub fn revoke(&self, revocations: Revocations) {
        self.held().revocations = Some(Arc::new(revocations));
        self.shared.changes.send_modify(|version| *version += 1);
    }

    /// What the authorities have taken back, when that is looked at.
    pub(crate) fn revocations(&self) -> Option<Arc<Revocations>> {
        self.held().revocations.clone()
    }

    /// Whether the certificate of a peer that was believed is on a list now.
    #[must_use]
    pub fn revokes(&self, presented: &Presented) -> bool {
        revoked(self, presented)
    }

    /// Completes when the certificate of a peer that was believed is found on a list. `changes` are those since before its handshake, which
    /// has looked at the lists itself. Only a list that names it ends a connection that stands: one that is missing or too old refuses new
    /// ones. What a list says is heeded as long as it holds, with [`crate::revocation::Unlisted::Accepted`] for ever.
    pub async fn until_revoked(&self, presented: &Presented, mut changes: watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            if self.revokes(presented) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Tells of each change of the roots or of the revocation lists.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

/// Whether two bundles have the same roots, in whatever order.
fn same(a: &RootCertStore, b: &RootCertStore) -> bool {
    a.roots.len() == b.roots.len() && a.roots.iter().all(|root| b.roots.contains(root))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{authority::Authority, svid::root_store};

    fn root() -> String {
        Authority::create(&"cluster.local".parse().unwrap()).unwrap().root_pem().to_owned()
    }

    #[tokio::test]
    async fn the_newest_answer_counts_however_late_an_older_one_comes() {
        let (a, b) = (root(), root());
        let bundle = |pem: &str| Arc::new(root_store(pem).unwrap());
        let (old, both) = (bundle(&a), bundle(&format!("{a}{b}")));
        let trust = Trust::default();
        let changes = trust.changes();
        let first = Instant::now();
        assert!(trust.adopt(&old, first));
        assert!(trust.adopt(&both, first + Duration::from_secs(2)));
        assert!(!trust.adopt(&old, first + Duration::from_secs(1)), "it was asked for before");
        assert!(!trust.adopt(&bundle(&format!("{b}{a}")), first + Duration::from_secs(3)), "the order says nothing");
        assert_eq!(trust.roots().len(), 2);
        assert_eq!(*changes.borrow(), 2);
        assert!(trust.adopt(&bundle(&b), first + Duration::from_secs(4)));
        assert_eq!(trust.roots().len(), 1);
    }
}

//! The authority that signs now; it may be replaced while the control plane runs.

use std::sync::Arc;

use ambit_tls::authority::Authority;
use tokio::sync::watch;

/// A live handle on the authority. Clones share it.
#[derive(Debug, Clone)]
pub struct Issuing(watch::Sender<Arc<Authority>>);

impl Issuing {
    /// Signs with `authority` until it is replaced.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self(watch::Sender::new(Arc::new(authority)))
    }

    /// The authority that signs now.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.0.borrow())
    }

    /// Signs with this one from now on.
    pub fn replace(&self, authority: Authority) {
        self.0.send_replace(Arc::new(authority));
    }

    /// Tells of each replacement.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Authority>> {
        self.0.subscribe()
    }
}

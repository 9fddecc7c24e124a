//! The authority that signs now; it may be replaced while the control plane runs.

use std::sync::{Arc, Mutex, PoisonError};

use ambit_tls::authority::Authority;
use tokio::{sync::watch, time::Instant};

/// A live handle on the authority. Clones share it.
#[derive(Debug, Clone)]
pub struct Issuing {
    authority: watch::Sender<Arc<Authority>>,
    /// Until when it is known to be the one; `None` without an end.
    good_until: Arc<Mutex<Option<Instant>>>,
}

impl Issuing {
    /// Signs with `authority` until it is replaced.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self { authority: watch::Sender::new(Arc::new(authority)), good_until: Arc::default() }
    }

    /// The authority that signed last.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.borrow())
    }

    /// The authority that signs at `now`; `None` when that is not known, because nothing has said so for too long ([`Self::good_until`]).
    #[must_use]
    pub fn authority_at(&self, now: Instant) -> Option<Arc<Authority>> {
        let until = *self.good_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| now < until).then(|| self.authority())
    }

    /// From now on somebody has to say again and again that the authority is still the one; it is until `until`.
    pub fn good_until(&self, until: Instant) {
        *self.good_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Signs with this one from now on.
    pub fn replace(&self, authority: Authority) {
        self.authority.send_replace(Arc::new(authority));
    }

    /// Tells of each replacement.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }
}

//! The pools of several workers. Each drives its own connections; the limits of clusters are for all of them together.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Connection, HttpPool, Shared};
use crate::upstream::{Destination, Host};

/// The pools of all workers; empty where there is one.
pub(super) type Siblings = Arc<Mutex<Vec<Weak<Shared>>>>;

impl HttpPool {
    /// A pool for another worker. From now on [`HttpPool::retire`] is to be called for all of them or none, so that they agree on which
    /// connections are those made before.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let siblings = self.shared.siblings.clone();
        let sibling = Self { shared: Arc::new(Shared { siblings: siblings.clone(), ..Shared::default() }) };
        let mut pools = siblings.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.is_empty() {
            pools.push(Arc::downgrade(&self.shared));
        }
        pools.push(Arc::downgrade(&sibling.shared));
        drop(pools);
        sibling
    }

    /// A connection at hand at another worker, for a request whose cluster may have no more connections: that one has the last of them must
    /// not have it wait until the connection is idle for too long. It comes to wait here afterwards, and goes on where it is driven.
    pub(super) fn of_another(&self, to: &Destination, host: &Arc<Host>, http2: bool) -> Option<Connection> {
        let pools = self.shared.siblings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others = pools.iter().filter_map(Weak::upgrade).filter(|pool| !Arc::ptr_eq(pool, &self.shared));
        others.map(|shared| Self { shared }).find_map(|pool| pool.at_hand(to, host, http2))
    }
}

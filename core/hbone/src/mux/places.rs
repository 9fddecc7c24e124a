//! The places for tunnels in a connection of a pool.

use tokio::time::{Duration, Instant};

/// How many tunnels there are, and whether more may come.
#[derive(Debug)]
pub(crate) struct Places {
    taken: usize,
    open: bool,
    idle_since: Instant,
}

impl Places {
    pub(super) fn new(now: Instant) -> Self {
        Self { taken: 0, open: true, idle_since: now }
    }

    /// Takes a place of `most`.
    pub(super) fn take(&mut self, most: usize) -> bool {
        let free = self.open && self.taken < most;
        self.taken += usize::from(free);
        free
    }

    pub(super) fn give_back(&mut self) {
        self.taken = self.taken.saturating_sub(1);
        if self.taken == 0 {
            self.idle_since = Instant::now();
        }
    }

    /// No further tunnels; those that are open go on.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether no tunnel is here or will be.
    pub(super) fn is_done(&self) -> bool {
        !self.open && self.taken == 0
    }

    /// When the connection has been without tunnels for `limit`; none while it has any.
    pub(crate) fn idle_at(&self, limit: Duration) -> Option<Instant> {
        (self.taken == 0).then(|| crate::driver::after(self.idle_since, limit))
    }
}

//! The connection's window while some of its readers are slow.
//!
//! All tunnels of a connection share its window. What a few stalled readers leave unread would use it up, and every other tunnel would
//! stand still with them. So bytes that were taken off the connection to wait for a slow reader widen the window by as much: each
//! tunnel is then bounded by its own window alone, those of one connection by [`MOST`], and all of the process by [`BUDGET`], so that
//! one pod whose server does not read cannot take the memory of its node's proxy.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How far the window of one connection is widened at most.
const MOST: usize = 128 << 20;
/// How far the windows of all connections of the process are widened together.
static BUDGET: Budget = Budget::new(256 << 20);
/// Changes smaller than this are not worth a frame.
const STEP: usize = 1 << 20;

/// Bytes that may be taken and given back, never more than there are.
#[derive(Debug)]
struct Budget(AtomicUsize);

impl Budget {
    const fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes as much of `wanted` as is left.
    fn take(&self, wanted: usize) -> usize {
        let part = |left: usize| Some(left - left.min(wanted));
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, part).unwrap_or_else(|left| left);
        left.min(wanted)
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes of one connection that wait for slow readers.
#[derive(Debug)]
pub(crate) struct Withheld {
    bytes: AtomicUsize,
    /// What this connection has taken of the budget.
    taken: AtomicUsize,
    budget: &'static Budget,
    changed: Notify,
}

impl Default for Withheld {
    fn default() -> Self {
        Self::within(&BUDGET)
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        self.budget.give_back(*self.taken.get_mut());
    }
}

impl Withheld {
    fn within(budget: &'static Budget) -> Self {
        Self { bytes: AtomicUsize::default(), taken: AtomicUsize::default(), budget, changed: Notify::default() }
    }

    pub(crate) fn add(&self, count: usize) {
        let before = self.bytes.fetch_add(count, Ordering::Relaxed);
        self.tell(before, before.saturating_add(count));
    }

    pub(crate) fn subtract(&self, count: usize) {
        let before = self.bytes.fetch_sub(count, Ordering::Relaxed);
        self.tell(before, before.saturating_sub(count));
    }

    /// Completes when the window is to be set anew.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The window that makes up for what waits, as far as the budget goes. Only the connection's own task calls it.
    pub(crate) fn widened(&self, window: u32) -> u32 {
        let wanted = self.bytes.load(Ordering::Relaxed).min(MOST) / STEP * STEP;
        let taken = self.taken.load(Ordering::Relaxed);
        let extra = if wanted > taken {
            taken + self.budget.take(wanted - taken)
        } else {
            self.budget.give_back(taken - wanted);
            wanted
        };
        self.taken.store(extra, Ordering::Relaxed);
        window.saturating_add(u32::try_from(extra).unwrap_or(0))
    }

    fn tell(&self, before: usize, after: usize) {
        if before / STEP != after / STEP {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_widen_their_windows_by_no_more_than_the_budget() {
        static SMALL: Budget = Budget::new(10 << 20);
        let connections: Vec<Withheld> = (0..8).map(|_| Withheld::within(&SMALL)).collect();
        for connection in &connections {
            connection.add(4 << 20);
        }
        let extra: u32 = connections.iter().map(|connection| connection.widened(0)).sum();
        assert_eq!(extra, 10 << 20);
        drop(connections);
        let later = Withheld::within(&SMALL);
        later.add(12 << 20);
        assert_eq!(later.widened(5), (10 << 20) + 5, "what ended connections had taken is there again");
        later.subtract(12 << 20);
        assert_eq!(later.widened(5), 5);
        assert_eq!(SMALL.take(usize::MAX), 10 << 20);
    }
}

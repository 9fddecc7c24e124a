//! The connection's window while some of its readers are slow.
//!
//! All tunnels of a connection share its window. What a few stalled readers leave unread would use it up, and every other tunnel would
//! stand still with them. So bytes that were taken off the connection to wait for a slow reader widen the window by as much: each
//! tunnel is then bounded by its own window alone, and all together by [`MOST`].

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How far the window is widened at most.
const MOST: usize = 128 << 20;
/// Changes smaller than this are not worth a frame.
const STEP: usize = 1 << 20;

/// Bytes of one connection that wait for slow readers.
#[derive(Debug, Default)]
pub(crate) struct Withheld {
    bytes: AtomicUsize,
    changed: Notify,
}

impl Withheld {
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

    /// The window that makes up for what waits.
    pub(crate) fn widened(&self, window: u32) -> u32 {
        let extra = self.bytes.load(Ordering::Relaxed).min(MOST) / STEP * STEP;
        window.saturating_add(u32::try_from(extra).unwrap_or(0))
    }

    fn tell(&self, before: usize, after: usize) {
        if before / STEP != after / STEP {
            self.changed.notify_one();
        }
    }
}

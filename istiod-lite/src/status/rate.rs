//! How fast a writer may write: the API server has others to serve.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Writes a second in the long run.
const PER_SECOND: u32 = 50;
/// Writes that may follow each other at once after a pause.
const BURST: u32 = 100;

/// A bucket of tokens: each write takes one, and waits for it when there is none.
#[derive(Debug)]
pub(crate) struct Rate {
    /// When the bucket would be full.
    full_at: Instant,
}

impl Rate {
    /// A full bucket.
    pub(crate) fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Waits until one more write is in order.
    pub(crate) async fn wait(&mut self) {
        let each = Duration::from_secs(1) / PER_SECOND;
        let now = Instant::now();
        self.full_at = self.full_at.max(now) + each;
        let latest = self.full_at.checked_sub(each * BURST).unwrap_or(now);
        sleep_until(latest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_burst_writes_are_spaced() {
        let (mut rate, start) = (Rate::new(), Instant::now());
        for _ in 0..BURST {
            rate.wait().await;
        }
        let burst = start.elapsed();
        for _ in 0..PER_SECOND / 5 {
            rate.wait().await;
        }
        assert!(burst < Duration::from_millis(150), "a burst took {burst:?}");
        let spaced = start.elapsed();
        assert!(spaced > Duration::from_millis(150), "ten more took {spaced:?} in all");
    }
}

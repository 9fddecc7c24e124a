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
        sleep_until(self.take(Instant::now())).await;
    }

    /// When the write may begin that is to be made now.
    fn take(&mut self, now: Instant) -> Instant {
        let each = Duration::from_secs(1) / PER_SECOND;
        self.full_at = self.full_at.max(now) + each;
        self.full_at.checked_sub(each * BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_waits_for_nothing_and_each_write_after_it_for_its_turn() {
        let mut rate = Rate::new();
        let now = rate.full_at;
        for number in 1..=BURST {
            assert!(rate.take(now) <= now, "write {number} of a burst waits");
        }
        for number in 1..=PER_SECOND {
            assert_eq!(rate.take(now), now + Duration::from_secs(1) / PER_SECOND * number);
        }
    }

    #[tokio::test]
    async fn after_a_burst_writes_are_spaced() {
        let (mut rate, start) = (Rate::new(), Instant::now());
        for _ in 0..BURST {
            rate.wait().await;
        }
        for _ in 0..PER_SECOND / 5 {
            rate.wait().await;
        }
        let spaced = start.elapsed();
        assert!(spaced > Duration::from_millis(150), "ten more took {spaced:?} in all");
    }
}

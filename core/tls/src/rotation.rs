//! When to ask for the next certificate. Pure: the times are arguments.

use std::time::{Duration, SystemTime};

use crate::Svid;

/// Spread of the renewal around the half-life, as a fraction of the lifetime to each side, so that a node's identities do not all
/// ask at once.
const JITTER: f64 = 0.05;

/// When `svid` is to be renewed: its half-life, moved by `spread` (0 to 1; a half is exact).
pub(crate) fn renew_at(svid: &Svid, spread: f64) -> SystemTime {
    let life = svid.not_after().duration_since(svid.not_before()).unwrap_or(Duration::ZERO);
    let earliest = svid.half_life().checked_sub(life.mul_f64(JITTER)).unwrap_or(svid.not_before());
    earliest + life.mul_f64(2.0 * JITTER * spread.clamp(0.0, 1.0))
}

/// Growing pauses between attempts that fail.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The pause after one more failure: doubled each time, and shortened by up to a fifth (`spread`, 0 to 1) so that identities
    /// that failed together do not come back together. Never less than the least nor more than the most.
    pub(crate) fn after_failure(&mut self, spread: f64) -> Duration {
        let pause = self.next.mul_f64(1.0 - 0.2 * spread.clamp(0.0, 1.0)).max(self.least);
        self.next = (self.next * 2).min(self.most);
        pause
    }

    pub(crate) fn after_success(&mut self) {
        self.next = self.least;
    }
}

/// Sleeps until the wall clock shows `due`. A plain timer counts monotonic time, which stands still while the machine is suspended
/// and ignores a clock that is set, so the clock is read again every now and then.
pub(crate) async fn sleep_until_wall(due: SystemTime) {
    const LONGEST: Duration = Duration::from_secs(30);
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_the_least_to_the_most_and_start_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(150));
        let pauses: Vec<_> = (0..11).map(|_| backoff.after_failure(0.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128_000, 150_000, 150_000]);
        backoff.after_success();
        assert_eq!(backoff.after_failure(1.0), Duration::from_millis(500));
        assert_eq!(backoff.after_failure(1.0), Duration::from_millis(800));
    }
}

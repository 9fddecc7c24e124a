//! How long is waited after a failure: longer from one to the next, and briefly again after a while without any.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The first pause and the longest, before what chance adds.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);
/// Without a failure for so long, all is well: the next pause is the first one again.
const WELL: Duration = Duration::from_secs(20);

/// The pauses of one who asks again after failures.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    /// When the last one was over, or is to be.
    over: Option<Instant>,
}

impl Pauses {
    pub(super) const fn new() -> Self {
        Self { next: FIRST, over: None }
    }

    /// The pause after a failure now: twice the one before, and up to half of it more by `chance` (0 to 1), so that the agents of all
    /// nodes do not ask at once when the API server is back.
    fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        if self.over.is_some_and(|over| now.saturating_duration_since(over) >= WELL) {
            self.next = FIRST;
        }
        let pause = self.next.mul_f64(1.0 + chance / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        self.over = Some(now + pause);
        pause
    }

    /// Waits until what was not done well is to be tried again; for ever when there is no such thing.
    pub(super) async fn again(&mut self, well: bool) {
        if well {
            return std::future::pending().await;
        }
        sleep(self.failed(Instant::now(), fastrand::f64())).await;
    }

    /// The next pause is the first one again.
    pub(super) fn begin_anew(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_of_seconds_and_are_short_again_after_a_while_without_failures() {
        let (mut pauses, mut now) = (Pauses::new(), Instant::now());
        for expected in [0.5, 1.0, 2.0, 4.0, 5.0, 5.0] {
            let pause = pauses.failed(now, 0.0);
            assert_eq!(pause, Duration::from_secs_f64(expected));
            now += pause;
        }
        // It takes a moment until the next attempt has failed, too.
        now += WELL / 2;
        assert_eq!(pauses.failed(now, 1.0), LONGEST + LONGEST / 2);
        now += LONGEST * 2 + WELL;
        assert_eq!(pauses.failed(now, 0.0), FIRST);
        pauses.begin_anew();
        assert_eq!(pauses.failed(now, 0.0), FIRST);
    }
}

//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from 10 ms to 15 s (ambient wire contract, section 2), each wait a random share of 50–100 % of the step, so that the proxies
/// of a cluster do not return all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    step: Duration,
}

impl Backoff {
    /// The first step.
    pub const MIN: Duration = Duration::from_millis(10);
    /// The last step.
    pub const MAX: Duration = Duration::from_secs(15);

    /// Starts at the first step.
    #[must_use]
    pub fn new() -> Self {
        Self { step: Self::MIN }
    }

    /// Back to the first step, after a stream that worked.
    pub fn reset(&mut self) {
        self.step = Self::MIN;
    }

    /// The wait before the next attempt; the one after it will be longer.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.step.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.step = self.step.saturating_mul(2).min(Self::MAX);
        wait
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

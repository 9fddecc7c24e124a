//! How an endpoint that keeps failing is rested, and comes back.
//!
//! After [`FAILURES`] connects in a row that failed it is left alone for [`FIRST_REST`]. Then one connection probes it: if that works it is
//! as good as any, if not the rest doubles, up to [`LONGEST_REST`]. It is never left alone for good.

use std::time::{Duration, Instant};

/// So many connects in a row must fail before an endpoint is rested.
pub const FAILURES: u32 = 3;
/// How long the first rest is; each further one is twice as long.
pub const FIRST_REST: Duration = Duration::from_secs(1);
/// No rest is longer.
pub const LONGEST_REST: Duration = Duration::from_secs(30);

/// How an endpoint has answered connects since it last took one. One that takes a connect has none: it is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Connects that failed since one worked or a rest began.
    failures: u32,
    /// Rests since one worked.
    rests: u32,
    failed: Instant,
    until: Option<Instant>,
    probed: bool,
}

impl Standing {
    /// A first connect has failed.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { failures: 1, rests: 0, failed: now, until: None, probed: false }
    }

    /// When a connect failed last, if the endpoint is to be left alone now: it rests, or somebody is probing it.
    #[must_use]
    pub fn rested(&self, now: Instant) -> Option<Instant> {
        let rests = self.until.is_some_and(|until| self.probed || now < until);
        rests.then_some(self.failed)
    }

    /// A connect begins. Whether it is the probe, which has to be followed by [`Standing::failed`] or [`Standing::unprobed`] unless it works.
    pub fn probes(&mut self, now: Instant) -> bool {
        let probes = !self.probed && self.until.is_some_and(|until| now >= until);
        self.probed |= probes;
        probes
    }

    /// The probe was given up, and says nothing.
    pub const fn unprobed(&mut self) {
        self.probed = false;
    }

    /// A connect has failed; `probe` if it was the probe. How long the endpoint rests, if a rest begins.
    pub fn failed(&mut self, probe: bool, now: Instant) -> Option<Duration> {
        self.failed = now;
        // Of a probe before one that worked meanwhile nothing is known here: it is a failure as any other.
        if probe && self.probed {
            self.probed = false;
        } else if self.until.is_some() {
            // It was begun before the rest, or in it because every other endpoint rests too: nothing new.
            return None;
        } else {
            self.failures += 1;
            if self.failures < FAILURES {
                return None;
            }
        }
        let rest = LONGEST_REST.min(FIRST_REST.saturating_mul(1_u32.checked_shl(self.rests).unwrap_or(u32::MAX)));
        self.failures = 0;
        self.rests = self.rests.saturating_add(1);
        self.until = Some(now + rest);
        Some(rest)
    }

    /// How long ago a connect failed last: what nobody asks for any more can be forgotten.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_endpoint_is_rested_after_three_failures_in_a_row_and_ever_longer_after_each_probe_that_fails() {
        let begun = Instant::now();
        let mut standing = Standing::new(begun);
        assert_eq!((standing.failed(false, begun), standing.rested(begun)), (None, None));
        let mut now = begun;
        let mut rest = standing.failed(false, now).unwrap();
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(rest, seconds(expected));
            let end = now + rest;
            assert!(standing.rested(end - seconds(1).min(rest) / 2).is_some() && standing.rested(end).is_none());
            assert!(!standing.probes(end - rest / 2), "a connect within the rest is no probe");
            assert!(standing.probes(end) && standing.rested(end).is_some(), "while one probes, the others stay away");
            assert!(!standing.probes(end), "there is one probe");
            now = end;
            rest = standing.failed(true, now).unwrap();
        }
    }

    #[test]
    fn a_late_failure_of_an_earlier_connect_makes_no_rest_longer() {
        let begun = Instant::now();
        let mut standing = Standing::new(begun);
        standing.failed(false, begun);
        standing.failed(false, begun);
        let late = begun + seconds(1) / 2;
        for _ in 0..10 {
            assert_eq!(standing.failed(false, late), None);
        }
        assert_eq!(standing.rested(late), Some(late));
        assert_eq!(standing.rested(begun + seconds(1)), None);
    }

    #[test]
    fn a_probe_that_is_given_up_lets_the_next_one_probe() {
        let begun = Instant::now();
        let mut standing = Standing::new(begun);
        standing.failed(false, begun);
        standing.failed(false, begun);
        let later = begun + seconds(1);
        assert!(standing.probes(later));
        standing.unprobed();
        assert!(standing.rested(later).is_none() && standing.probes(later));
    }
}

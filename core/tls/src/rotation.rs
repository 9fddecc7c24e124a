//! When to ask for the next certificate. Pure: the times are arguments.

use std::time::{Duration, SystemTime};

/// Spread of the renewal around the half-life, as a fraction of the lifetime to each side, so that a node's identities do not all
/// ask at once.
const JITTER: f64 = 0.05;

/// When a certificate that came at `obtained` is to be renewed: at the half of what was left of its life then, moved by `spread` (0 to
/// 1; a half is exact). What the authority dated back does not count, so that a short-lived certificate is not due at once.
pub(crate) fn renew_at((not_before, not_after): (SystemTime, SystemTime), obtained: SystemTime, spread: f64) -> SystemTime {
    let from = obtained.clamp(not_before.min(not_after), not_after);
    let life = not_after.duration_since(from).unwrap_or(Duration::ZERO);
    from + life.mul_f64(0.5 - JITTER + 2.0 * JITTER * spread.clamp(0.0, 1.0))
}

/// What to do about a certificate at `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Get another one: it is due, or it is not valid by the clock as it is now.
    Renew,
    /// Nothing for this long, unless the clock jumps meanwhile.
    Wait(Duration),
}

/// See [`Step`]; `due` is from [`renew_at`].
pub(crate) fn step((not_before, not_after): (SystemTime, SystemTime), due: SystemTime, now: SystemTime) -> Step {
    match due.duration_since(now) {
        Ok(left) if not_before <= now && now < not_after && !left.is_zero() => Step::Wait(left),
        _ => Step::Renew,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(hours: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * (1000 + hours)
    }

    #[test]
    fn pauses_double_from_the_least_to_the_most_and_start_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(150));
        let pauses: Vec<_> = (0..11).map(|_| backoff.after_failure(0.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128_000, 150_000, 150_000]);
        backoff.after_success();
        assert_eq!(backoff.after_failure(1.0), Duration::from_millis(500));
        assert_eq!(backoff.after_failure(1.0), Duration::from_millis(800));
    }

    #[test]
    fn a_certificate_is_due_at_its_half_life_within_the_jitter() {
        let day = (at(0), at(24));
        let near = |due: SystemTime, expected: SystemTime| {
            let off = due.duration_since(expected).unwrap_or_else(|early| early.duration());
            assert!(off < Duration::from_secs(1), "{off:?}");
        };
        near(renew_at(day, at(0), 0.5), at(12));
        near(renew_at(day, at(0), 0.0), at(12) - Duration::from_mins(72));
        near(renew_at(day, at(0), 1.0), at(12) + Duration::from_mins(72));
        // Dated back by most of its life: the half of what is left, not at once.
        near(renew_at((at(0), at(24)), at(22), 0.5), at(23));
        // It came by a clock that is behind the authority's, or far ahead.
        near(renew_at((at(2), at(4)), at(0), 0.5), at(3));
        assert_eq!(renew_at((at(2), at(4)), at(9), 0.5), at(4));
    }

    #[test]
    fn a_clock_that_jumps_over_the_due_time_or_out_of_the_validity_makes_the_certificate_due_at_once() {
        let (validity, due) = ((at(0), at(24)), at(12));
        assert_eq!(step(validity, due, at(6)), Step::Wait(6 * HOUR));
        assert_eq!(step(validity, due, at(12)), Step::Renew);
        assert_eq!(step(validity, due, at(20)), Step::Renew, "the machine slept");
        assert_eq!(step(validity, due, at(30)), Step::Renew, "it slept too long");
        assert_eq!(step(validity, due, at(0) - HOUR), Step::Renew, "the clock was set back to before its time");
    }
}

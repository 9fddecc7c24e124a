//! Endpoints that are given little at first, and their share only by and by.

use std::time::Duration;

use serde::Serialize;

/// So much is all of a weight.
const PARTS: u32 = 10_000;
/// An endpoint counts as at least so old, as with Envoy.
const MOMENT: Duration = Duration::from_millis(1);

/// How much of its weight an endpoint has: all of it, or less while it warms up. Never nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warmth(u32);

impl Warmth {
    /// All of it.
    pub const WHOLE: Self = Self(PARTS);

    /// What is left of a weight, in parts that are the same for all endpoints.
    pub(super) fn of(self, weight: u32) -> u64 {
        u64::from(weight) * u64::from(self.0)
    }
}

/// How the share of an endpoint grows that is new, or is well again (`envoy.config.cluster.v3.Cluster.SlowStartConfig`), or returns after it was
/// ejected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlowStart {
    /// How long it takes until the share is whole.
    pub window: Duration,
    /// With 1 the share grows evenly, with more it grows faster at first. More than nothing.
    pub aggression: f64,
    /// In a hundred: the least that it is, from the first moment on.
    pub least_percent: f64,
    /// When an endpoint is new, or passes its health check again.
    pub new: bool,
    /// When an endpoint returns that was ejected. Envoy knows no such thing: there one that returns has its whole share at once.
    pub after_ejection: bool,
}

impl SlowStart {
    /// Of an endpoint that was ejected, where nobody says anything of shares: whether it is well is seen by few requests at first.
    pub const OF_RETURNING: Self =
        Self { window: Duration::from_secs(10), aggression: 1.0, least_percent: 10.0, new: false, after_ejection: true };

    /// How much of its weight an endpoint has that takes requests for so long (Envoy, "Slow start mode" of its architecture overview).
    #[must_use]
    pub fn warmth(&self, since: Duration) -> Warmth {
        if since >= self.window {
            return Warmth::WHOLE;
        }
        let passed = since.max(MOMENT).as_secs_f64() / self.window.as_secs_f64();
        let share = passed.powf(1.0 / self.aggression).max(self.least_percent / 100.0);
        Warmth(((share * f64::from(PARTS)).round() as u32).clamp(1, PARTS))
    }

    /// How often it is reckoned anew what shares are: so often that no step of them is seen, and not for every request.
    #[must_use]
    pub fn step(&self) -> Duration {
        (self.window / 100).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// What becomes of a new endpoint, as the beginning of a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        let who = match (self.new, self.after_ejection) {
            (true, true) => "that is new or well again, and one that was ejected",
            (false, true) => "that was ejected and returns",
            (_, false) => "that is new or well again",
        };
        format!(
            "an endpoint {who} has its whole share after {:?}, and {}% of it from the first moment on",
            self.window, self.least_percent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SlowStart =
        SlowStart { window: Duration::from_mins(1), aggression: 1.0, least_percent: 10.0, new: true, after_ejection: false };

    /// In ten thousand, what is left of a weight of 1 after so many milliseconds.
    fn parts(slow: SlowStart, millis: u64) -> u64 {
        slow.warmth(Duration::from_millis(millis)).of(1)
    }

    #[test]
    fn a_share_grows_evenly_from_the_least_to_the_whole() {
        for (millis, expected) in [(0, 1000), (6_000, 1000), (15_000, 2500), (30_000, 5000), (59_999, 10_000), (60_000, 10_000)] {
            assert_eq!(parts(MINUTE, millis), expected, "after {millis} ms");
        }
        assert_eq!(MINUTE.warmth(Duration::MAX), Warmth::WHOLE);
        assert_eq!(Warmth::WHOLE.of(7), 70_000);
    }

    #[test]
    fn aggression_makes_it_grow_faster_at_first_or_later() {
        // The root of a quarter, and its square.
        assert_eq!(parts(SlowStart { aggression: 2.0, ..MINUTE }, 15_000), 5000);
        assert_eq!(parts(SlowStart { aggression: 0.5, least_percent: 0.0, ..MINUTE }, 15_000), 625);
    }

    #[test]
    fn a_share_never_shrinks_and_is_never_nothing() {
        for aggression in [0.01, 0.5, 1.0, 1.5, 10.0, 1e9] {
            for least_percent in [0.0, 1.0, 10.0, 50.0, 100.0] {
                for window in [1, 10, 999, 60_000] {
                    let slow = SlowStart { window: Duration::from_millis(window), aggression, least_percent, ..MINUTE };
                    let shares: Vec<_> = (0..=200).map(|at| parts(slow, at * window / 200)).collect();
                    assert!(shares.is_sorted() && shares[0] > 0, "{slow:?}: {shares:?}");
                    assert_eq!(shares.last(), Some(&10_000), "{slow:?}");
                    let least = (least_percent * 100.0) as u64;
                    assert!(shares[0] >= least, "{slow:?}: {} is less than {least}", shares[0]);
                }
            }
        }
    }

    #[test]
    fn it_says_whose_share_grows() {
        let words = |new, after_ejection| SlowStart { new, after_ejection, ..MINUTE }.in_words();
        assert!(words(true, false).starts_with("an endpoint that is new or well again has its whole share after 60s"));
        assert!(words(true, true).starts_with("an endpoint that is new or well again, and one that was ejected has"));
        assert!(words(false, true).starts_with("an endpoint that was ejected and returns has its whole share"));
    }

    #[test]
    fn it_is_reckoned_anew_neither_for_every_request_nor_so_rarely_that_steps_are_seen() {
        for (window, expected) in [(20, 10), (30_000, 300), (3_600_000, 1000)] {
            let slow = SlowStart { window: Duration::from_millis(window), ..MINUTE };
            assert_eq!(slow.step(), Duration::from_millis(expected));
        }
    }
}

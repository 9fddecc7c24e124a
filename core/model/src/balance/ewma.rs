//! How soon an endpoint answers, of which what was long ago counts for less, and what takes long at once.

use std::time::Duration;

/// After so long what was seen counts for about a third of what it did.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken to need that has not answered yet, in seconds: with nothing under way it is tried at once, and is not given all.
const UNKNOWN: f64 = 0.03;
/// What a failure counts for at least, in seconds: who fails at once would else be the quickest of all.
const FAILURE: Duration = Duration::from_secs(1);
/// And what failures in a row count for at most.
const MOST_FAILURE: f64 = 30.0;

/// What is known of how soon an endpoint answers. Times are those since some beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PeakEwma(Option<Seen>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    /// In seconds.
    latency: f64,
    at: Duration,
}

impl PeakEwma {
    /// Takes in that an answer has begun `now`, after so long.
    pub fn note(&mut self, now: Duration, took: Duration) {
        let took = took.as_secs_f64();
        let latency = match self.0 {
            // What takes longer counts at once, and what takes less by and by.
            Some(seen) if seen.latency > took => {
                let kept = decayed(now.saturating_sub(seen.at));
                seen.latency * kept + took * (1.0 - kept)
            }
            _ => took,
        };
        self.0 = Some(Seen { latency, at: now });
    }

    /// Takes in that there was no answer `now`, after so long. Each failure counts for twice what is known, so that one that only fails comes to
    /// cost more than those that take their time to answer well, however long that is.
    pub fn note_failure(&mut self, now: Duration, took: Duration) {
        let twice = self.latency(now).map_or(0.0, |known| (2.0 * known).min(MOST_FAILURE));
        self.note(now, took.max(FAILURE).max(Duration::try_from_secs_f64(twice).unwrap_or_default()));
    }

    /// What it is taken to cost to send one more request there `now`, where so many are under way. Who is sent nothing is tried again in time.
    #[must_use]
    pub fn cost(&self, now: Duration, under_way: usize) -> f64 {
        let under_way = under_way as f64;
        match self.0 {
            None => UNKNOWN * under_way,
            Some(seen) => seen.latency * decayed(now.saturating_sub(seen.at)) * (under_way + 1.0),
        }
    }

    /// In seconds, what it takes now, where that is known.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Option<f64> {
        self.0.map(|seen| seen.latency * decayed(now.saturating_sub(seen.at)))
    }
}

/// What is left of something after so long.
fn decayed(since: Duration) -> f64 {
    (-since.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn seen(notes: &[(u64, u64)]) -> PeakEwma {
        let mut seen = PeakEwma::default();
        notes.iter().for_each(|(at, took)| seen.note(millis(*at), millis(*took)));
        seen
    }

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < expected * 1e-3, "{got} where {expected} is expected");
    }

    #[test]
    fn a_peak_counts_at_once_and_what_is_quicker_by_and_by() {
        near(seen(&[(0, 10), (0, 200)]).cost(millis(0), 0), 0.2);
        // At the same moment it counts for nothing; after a decay for 63 in a hundred.
        near(seen(&[(0, 200), (0, 10)]).cost(millis(0), 0), 0.2);
        near(seen(&[(0, 200), (10_000, 10)]).cost(millis(10_000), 0), 0.2 * 0.367_88 + 0.01 * 0.632_12);
        near(seen(&[(0, 200), (10_000, 300)]).cost(millis(10_000), 0), 0.3);
    }

    #[test]
    fn what_was_seen_fades_and_what_is_under_way_counts() {
        let one = seen(&[(0, 100)]);
        for (at, expected) in [(0, 0.1), (10_000, 0.036_788), (20_000, 0.013_534)] {
            near(one.cost(millis(at), 0), expected);
            near(one.cost(millis(at), 4), 5.0 * expected);
            near(one.latency(millis(at)).unwrap(), expected);
        }
        // A clock that is read before another one has not gone back.
        near(seen(&[(500, 100)]).cost(millis(0), 0), 0.1);
    }

    #[test]
    fn one_that_was_never_asked_is_tried_before_all_others_but_not_given_everything() {
        let (new, quick) = (PeakEwma::default(), seen(&[(0, 1)]));
        assert!(new.cost(millis(0), 0) < quick.cost(millis(0), 0));
        assert!(new.cost(millis(0), 1) > quick.cost(millis(0), 1));
        assert_eq!(new.latency(millis(0)), None);
    }

    #[test]
    fn one_that_failed_for_long_is_asked_again_though_the_others_are_quick() {
        let mut failing = seen(&[(0, 10)]);
        (0..100).for_each(|_| failing.note_failure(millis(0), millis(1)));
        for (minutes, asked) in [(1, false), (2, true)] {
            let now = millis(minutes * 60_000);
            let mut quick = PeakEwma::default();
            quick.note(now, millis(1));
            assert_eq!(failing.cost(now, 0) < quick.cost(now, 0), asked, "after {minutes} minutes");
        }
    }

    #[test]
    fn who_fails_at_once_is_not_the_quickest() {
        let mut failing = seen(&[(0, 10)]);
        failing.note_failure(millis(0), millis(1));
        near(failing.cost(millis(0), 0), 1.0);
        failing.note_failure(millis(0), millis(3000));
        near(failing.cost(millis(0), 0), 3.0);
        // Nor of those that all take longer than a failure counts for.
        for expected in [6.0, 12.0, 24.0, 30.0, 30.0] {
            failing.note_failure(millis(0), millis(1));
            near(failing.cost(millis(0), 0), expected);
        }
        let mut slow = seen(&[(0, 90_000)]);
        slow.note_failure(millis(0), millis(1));
        near(slow.cost(millis(0), 0), 90.0);
    }
}

//! Buckets of tokens. They fill steadily, as Envoy's do, and not at the ends of intervals.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;

/// How a bucket fills (`envoy.type.v3.TokenBucket`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Filling {
    /// So many tokens it holds at most, and at the beginning.
    pub most: u32,
    /// So many come …
    pub tokens: u32,
    /// … in this time; never zero.
    pub every: Duration,
}

impl Filling {
    /// One that is never empty in practice.
    pub const UNLIMITED: Self = Self { most: u32::MAX, tokens: u32::MAX, every: Duration::from_secs(1) };

    fn every_nanos(self) -> i128 {
        i128::try_from(self.every.as_nanos()).unwrap_or(i128::MAX).max(1)
    }

    fn per_interval(self) -> i128 {
        i128::from(self.tokens.max(1))
    }

    /// The nanoseconds in which so many tokens come, rounded up.
    fn nanos_of(self, tokens: u32) -> i64 {
        let of = (i128::from(tokens) * self.every_nanos() + self.per_interval() - 1) / self.per_interval();
        i64::try_from(of).unwrap_or(i64::MAX)
    }

    /// Which of two fills more slowly.
    pub(super) fn slower(&self, other: &Self) -> std::cmp::Ordering {
        (self.per_interval() * other.every_nanos()).cmp(&(other.per_interval() * self.every_nanos()))
    }

    /// The limit in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!("{} in {:?}, {} at once", self.tokens, self.every, self.most)
    }
}

/// A bucket that all threads take from. What it holds follows from when it would last have been empty.
#[derive(Debug)]
pub struct Bucket {
    filling: Filling,
    began: Instant,
    /// In nanoseconds from `began`.
    emptied: AtomicI64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(filling: Filling, now: Instant) -> Self {
        Self { filling, began: now, emptied: AtomicI64::new(filling.nanos_of(filling.most).saturating_neg()) }
    }

    /// How it fills.
    #[must_use]
    pub fn filling(&self) -> Filling {
        self.filling
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let at = self.at(now);
        let Filling { most, .. } = self.filling;
        let one = i64::try_from(self.filling.every_nanos() / self.filling.per_interval()).unwrap_or(i64::MAX);
        let taken = |emptied: i64| {
            let oldest = at.saturating_sub(self.filling.nanos_of(most));
            let emptied = emptied.max(oldest);
            (self.tokens(emptied, at) >= 1).then(|| emptied.saturating_add(one))
        };
        self.emptied.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }

    /// The tokens that it holds.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> u32 {
        self.tokens(self.emptied.load(Ordering::Acquire), self.at(now))
    }

    /// How long until it holds a token; nothing if it does.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let (at, emptied) = (self.at(now), self.emptied.load(Ordering::Acquire));
        if self.tokens(emptied, at) >= 1 || self.filling.most == 0 {
            return Duration::ZERO;
        }
        let left = self.filling.nanos_of(1).saturating_sub(at.saturating_sub(emptied));
        Duration::from_nanos(u64::try_from(left).unwrap_or_default())
    }

    fn at(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(i64::MAX)
    }

    fn tokens(&self, emptied: i64, at: i64) -> u32 {
        let filled = i128::from(at.saturating_sub(emptied)).max(0);
        let tokens = filled.saturating_mul(self.filling.per_interval()) / self.filling.every_nanos();
        u32::try_from(tokens).unwrap_or(u32::MAX).min(self.filling.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(most: u32, tokens: u32, millis: u64) -> Filling {
        Filling { most, tokens, every: Duration::from_millis(millis) }
    }

    /// How many can be taken at once.
    fn all(bucket: &Bucket, now: Instant) -> usize {
        (0..100).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_bucket_is_full_at_first_and_fills_steadily_up_to_what_it_holds() {
        let began = Instant::now();
        let bucket = Bucket::new(filling(3, 3, 1000), began);
        let after = |millis| began + Duration::from_millis(millis);
        assert_eq!((bucket.remaining(began), all(&bucket, began)), (3, 3));
        assert_eq!(all(&bucket, after(333)), 0);
        assert_eq!(bucket.wait(after(333)).as_nanos(), 333_333);
        assert_eq!(all(&bucket, after(334)), 1, "a third of the time, a third of the tokens");
        assert_eq!(all(&bucket, after(100_000)), 3, "it holds no more");
    }

    #[test]
    fn tokens_do_not_get_lost_in_fractions() {
        let began = Instant::now();
        for (most, tokens, millis) in [(7, 7, 60_000), (90, 9, 1000), (1, 13, 999)] {
            let bucket = Bucket::new(filling(most, tokens, millis), began);
            assert_eq!(all(&bucket, began), most as usize, "{most} {tokens} {millis}");
            let much_later = began + Duration::from_secs(40 * 365 * 24 * 3600);
            assert_eq!(all(&bucket, much_later), most as usize, "after many years");
        }
    }

    #[test]
    fn one_that_holds_nothing_gives_nothing_and_the_largest_is_never_empty() {
        let now = Instant::now();
        let none = Bucket::new(filling(0, 1, 1000), now);
        assert!(!none.take(now + Duration::from_secs(9)));
        let unlimited = Bucket::new(Filling::UNLIMITED, now);
        assert!((0..100_000).all(|_| unlimited.take(now)));
    }

    #[test]
    fn of_several_threads_each_token_is_taken_once() {
        let now = Instant::now();
        let bucket = Bucket::new(filling(1000, 1, 3_600_000), now);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..500).filter(|_| bucket.take(now)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn the_slower_one_is_told() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        assert_eq!(filling(9, 1, 1000).slower(&filling(1, 2, 1000)), Less);
        assert_eq!(filling(1, 60, 60_000).slower(&filling(1, 1, 1000)), Equal);
        assert_eq!(filling(1, 2, 1000).slower(&filling(1, 1, 1000)), Greater);
    }
}

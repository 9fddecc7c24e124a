//! How many certificates a caller may ask for: a bucket of tokens for each, and one for all. Pure: the time is given.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Caller;
use crate::config::Account;

/// A bucket: how much it holds, which is what may come at once, and how much it gains in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// What may come at once.
    pub burst: f64,
    /// What may come in each second for ever.
    pub per_second: f64,
}

/// The limits of the certificate service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// For a node account on one node: all identities of a full node at once, and their renewals.
    pub node: Rate,
    /// For any other service account on one node.
    pub workload: Rate,
    /// For all callers together.
    pub all: Rate,
    /// Callers that are remembered.
    pub callers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            node: Rate { burst: 1000.0, per_second: 20.0 },
            workload: Rate { burst: 60.0, per_second: 1.0 },
            all: Rate { burst: 5000.0, per_second: 500.0 },
            callers: 20_000,
        }
    }
}

/// Who is asked to wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// This caller.
    #[error("it asks for certificates too often; again in {} ms", .0.as_millis())]
    Caller(Duration),
    /// Everybody.
    #[error("all together ask for certificates too often; again in {} ms", .0.as_millis())]
    All(Duration),
    /// Whoever comes while so many wait for a signature.
    #[error("too many certificates wait to be signed; again in {} ms", .0.as_millis())]
    Waiting(Duration),
}

impl TooMany {
    /// How long to wait until one more is allowed.
    #[must_use]
    pub fn wait(self) -> Duration {
        match self {
            Self::Caller(wait) | Self::All(wait) | Self::Waiting(wait) => wait,
        }
    }
}

/// Counts by service account and node.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    buckets: Mutex<Buckets>,
}

type Who = (Account, String);

#[derive(Debug)]
struct Buckets {
    all: Bucket,
    callers: HashMap<Who, Bucket>,
}

/// How much is left of a rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, at: now }
    }

    fn left_at(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.per_second;
        (self.left + gained).min(self.rate.burst)
    }

    /// How long until there is one; zero when there is.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let missing = 1.0 - self.left_at(now);
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        // A rate of nothing is a long wait, not a division by zero.
        Duration::try_from_secs_f64(missing / self.rate.per_second)
            .unwrap_or(Duration::from_hours(1))
            .max(Duration::from_millis(1))
    }

    /// Takes one, whether there is one or not.
    pub(super) fn take(&mut self, now: Instant) {
        self.left = self.left_at(now) - 1.0;
        self.at = now;
    }
}

impl Limiter {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let buckets = Buckets { all: Bucket::full(limits.all, Instant::now()), callers: HashMap::new() };
        Self { limits, buckets: Mutex::new(buckets) }
    }

    /// Counts one request of `caller`. What is refused is not counted.
    ///
    /// # Errors
    /// When it, or everybody, has to wait.
    pub fn take(&self, caller: &Caller, is_node: bool, now: Instant) -> Result<(), TooMany> {
        let place = caller.node.clone().or_else(|| caller.pod.as_ref().map(|pod| pod.name.clone()));
        let who = (caller.account.clone(), place.unwrap_or_default());
        let rate = if is_node { self.limits.node } else { self.limits.workload };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { all, callers } = &mut *buckets;
        make_room(callers, &who, self.limits.callers, now);
        let bucket = callers.entry(who).or_insert_with(|| Bucket::full(rate, now));
        let (own, everybody) = (bucket.wait(now), all.wait(now));
        if !own.is_zero() {
            return Err(TooMany::Caller(own));
        }
        if !everybody.is_zero() {
            return Err(TooMany::All(everybody));
        }
        bucket.take(now);
        all.take(now);
        Ok(())
    }
}

/// A bucket that is full says what none says. When none is, the fullest goes: who has used the least is given back the least.
pub(super) fn make_room<K: Eq + Hash + Clone>(callers: &mut HashMap<K, Bucket>, who: &K, most: usize, now: Instant) {
    if callers.len() < most || callers.contains_key(who) {
        return;
    }
    callers.retain(|_, bucket| bucket.left_at(now) < bucket.rate.burst);
    while callers.len() >= most {
        let missing = |bucket: &Bucket| bucket.rate.burst - bucket.left_at(now);
        let fullest = callers.iter().min_by(|(_, a), (_, b)| missing(a).total_cmp(&missing(b))).map(|(who, _)| who.clone());
        let Some(fullest) = fullest else { return };
        callers.remove(&fullest);
    }
}

#[cfg(test)]
mod tests {
    use ambit_tls::token::ObjectReference;

    use super::*;

    fn caller(account: &str, node: &str) -> Caller {
        let pod = Some(ObjectReference::new("pod", "uid"));
        Caller { account: account.parse().unwrap(), pod, node: (!node.is_empty()).then(|| node.to_owned()) }
    }

    fn limiter(node: f64, workload: f64, all: f64, callers: usize) -> Limiter {
        let rate = |burst| Rate { burst, per_second: 2.0 };
        Limiter::new(Limits { node: rate(node), workload: rate(workload), all: rate(all), callers })
    }

    #[test]
    fn a_caller_gets_its_burst_then_its_rate_and_is_told_how_long_to_wait() {
        let (limiter, now) = (limiter(3.0, 1.0, 100.0, 10), Instant::now());
        let node = caller("istio-system/ztunnel", "n1");
        for _ in 0..3 {
            assert_eq!(limiter.take(&node, true, now), Ok(()));
        }
        assert_eq!(limiter.take(&node, true, now), Err(TooMany::Caller(Duration::from_millis(500))));
        let later = now + Duration::from_millis(400);
        assert_eq!(limiter.take(&node, true, later), Err(TooMany::Caller(Duration::from_millis(100))));
        let later = now + Duration::from_millis(500);
        assert_eq!(limiter.take(&node, true, later), Ok(()));
        assert!(limiter.take(&node, true, later).is_err());
        // However long it was quiet, it gets its burst and no more.
        let later = now + Duration::from_hours(1);
        assert_eq!((0..10).filter(|_| limiter.take(&node, true, later).is_ok()).count(), 3);
        assert_eq!(
            TooMany::Caller(Duration::from_millis(1500)).to_string(),
            "it asks for certificates too often; again in 1500 ms"
        );
    }

    #[test]
    fn nodes_and_accounts_do_not_count_for_each_other() {
        let (limiter, now) = (limiter(1.0, 1.0, 100.0, 10), Instant::now());
        for (account, node) in
            [("istio-system/ztunnel", "n1"), ("istio-system/ztunnel", "n2"), ("shop/web", "n1"), ("shop/web", "")]
        {
            assert_eq!(limiter.take(&caller(account, node), false, now), Ok(()), "{account} on {node}");
            assert!(limiter.take(&caller(account, node), false, now).is_err(), "{account} on {node}");
        }
    }

    #[test]
    fn all_together_have_a_limit_and_what_is_refused_by_it_is_not_counted_for_the_caller() {
        let (limiter, now) = (limiter(5.0, 5.0, 3.0, 10), Instant::now());
        for node in ["n1", "n2", "n3"] {
            assert_eq!(limiter.take(&caller("istio-system/ztunnel", node), true, now), Ok(()));
        }
        let fourth = caller("istio-system/ztunnel", "n4");
        for _ in 0..20 {
            assert_eq!(limiter.take(&fourth, true, now), Err(TooMany::All(Duration::from_millis(500))));
        }
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| limiter.take(&fourth, true, later).is_ok()).count(), 3);
    }

    #[test]
    fn the_callers_that_are_remembered_are_bounded_and_who_asks_too_often_stays_among_them() {
        let (limiter, now) = (limiter(1.0, 2.0, 1e9, 8), Instant::now());
        let greedy = caller("shop/greedy", "n1");
        while limiter.take(&greedy, false, now).is_ok() {}
        for name in 0..1000 {
            assert_eq!(limiter.take(&caller(&format!("shop/a{name}"), "n1"), false, now), Ok(()));
            assert!(limiter.buckets.lock().unwrap().callers.len() <= 8);
            assert!(limiter.take(&greedy, false, now).is_err(), "it was forgotten after {name}");
        }
    }

    #[test]
    fn a_rate_of_nothing_is_a_long_wait() {
        let never = Rate { burst: 0.0, per_second: 0.0 };
        let limiter = Limiter::new(Limits { node: never, workload: never, all: never, callers: 1 });
        let refused = limiter.take(&caller("shop/web", "n1"), false, Instant::now()).unwrap_err();
        assert!(refused.wait() >= Duration::from_mins(10));
    }
}

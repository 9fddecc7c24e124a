//! A limit on metric series, on by default: peers choose some label values, and each new one costs memory for as long as it is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::metrics::{Label, SharedString, counter};

use super::metrics::forget;
use super::{label, metric};

/// How long it is not looked again for sets that may leave, when there was none, and how long a set that found no room is folded.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Of so many sets one leaves at once, so that it is not looked for one for each newcomer.
const PART: usize = 16;
/// The users of a set that has left.
const GONE: u32 = u32::MAX;

/// Admits at most so many different label sets. For one more, those leave that were not used for longest, with all that was counted
/// under them; a set that is used, or was a short while ago, never does, so that no counter goes back that somebody watches. When none
/// may leave, the newcomer has every value that a peer influences replaced by `other`.
#[derive(Debug)]
pub struct SeriesLimit {
    limit: usize,
    idle: Duration,
    begun: Instant,
    sets: Mutex<Sets>,
}

#[derive(Debug, Default)]
struct Sets {
    leases: HashMap<Arc<[Label]>, Arc<Lease>>,
    /// Until then none may leave.
    full_until: Option<Instant>,
}

/// What is known of the use of a set.
#[derive(Debug)]
struct Lease {
    /// How many use it now, or [`GONE`].
    users: AtomicU32,
    /// When it was last used, in nanoseconds since the limit began.
    last: AtomicU64,
    begun: Instant,
}

/// A set of labels to record under.
#[derive(Clone, Debug)]
pub struct Admitted {
    labels: Arc<[Label]>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Kept(Arc<Lease>),
    /// There was no room. Until then it is not worth to ask again.
    Folded(Instant),
}

/// Keeps a set from leaving until it is dropped; by default, none.
#[derive(Debug, Default)]
pub struct InUse(Option<Arc<Lease>>);

impl SeriesLimit {
    /// Label sets admitted per family of metrics unless told otherwise.
    pub const DEFAULT: usize = 10_000;
    /// For how long a set that is not used stays at least: several scrapes of Prometheus.
    pub const IDLE: Duration = Duration::from_mins(5);

    /// Admits `limit` different label sets, of which those may leave that were not used for `idle`.
    pub fn new(limit: usize, idle: Duration) -> Self {
        Self { limit, idle, begun: Instant::now(), sets: Mutex::default() }
    }

    /// The labels to record under: `labels` itself while there is room (or when seen before), else the folded set, in which only
    /// the labels of small fixed range (`reporter`, `reason`, `connection_security_policy`) keep their values.
    pub fn admit(&self, labels: Vec<Label>) -> (Admitted, InUse) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((labels, lease)) = sets.leases.get_key_value(&*labels) {
            let known = Admitted { labels: Arc::clone(labels), place: Place::Kept(Arc::clone(lease)) };
            if let Some(used) = known.enter() {
                return (known, used);
            }
        }
        if sets.leases.len() >= self.limit {
            self.make_room(&mut sets);
        }
        if sets.leases.len() >= self.limit {
            drop(sets);
            counter!(metric::SERIES_FOLDED).increment(1);
            let place = Place::Folded(Instant::now() + LOOK_AGAIN);
            return (Admitted { labels: labels.into_iter().map(fold).collect(), place }, InUse(None));
        }
        let labels: Arc<[Label]> = labels.into();
        let lease = Arc::new(Lease { users: AtomicU32::new(1), last: AtomicU64::new(0), begun: self.begun });
        sets.leases.insert(Arc::clone(&labels), Arc::clone(&lease));
        (Admitted { labels, place: Place::Kept(Arc::clone(&lease)) }, InUse(Some(lease)))
    }

    fn make_room(&self, sets: &mut Sets) {
        let now = Instant::now();
        if sets.full_until.is_some_and(|until| now < until) {
            return;
        }
        let before = nanoseconds(now.duration_since(self.begun).saturating_sub(self.idle));
        let mut idle: Vec<(u64, Arc<[Label]>)> = sets
            .leases
            .iter()
            .map(|(labels, lease)| (lease, lease.last.load(Ordering::Acquire), labels))
            .filter(|(lease, last, _)| lease.users.load(Ordering::Acquire) == 0 && *last <= before)
            .map(|(_, last, labels)| (last, Arc::clone(labels)))
            .collect();
        idle.sort_by_key(|(last, _)| *last);
        let mut left = 0;
        for (_, labels) in idle.iter().take((self.limit / PART).max(1)) {
            let Some(lease) = sets.leases.get(labels) else { continue };
            // Whoever has it and did not use it learns at the next use that it is gone.
            if lease.users.compare_exchange(0, GONE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                // It may have been used since it was looked at. Who comes now waits for the sets, and finds it.
                if lease.last.load(Ordering::Acquire) > before {
                    lease.users.store(0, Ordering::Release);
                    continue;
                }
                sets.leases.remove(labels);
                forget(labels);
                left += 1;
            }
        }
        counter!(metric::SERIES_EVICTED).increment(left);
        sets.full_until = (left == 0).then(|| now + LOOK_AGAIN);
    }
}

impl Default for SeriesLimit {
    fn default() -> Self {
        Self::new(Self::DEFAULT, Self::IDLE)
    }
}

impl Admitted {
    /// The labels.
    #[must_use]
    pub fn labels(&self) -> Vec<Label> {
        self.labels.to_vec()
    }

    /// Begins a use. Nothing when the set has left (counters under it begin anew), or there may be room for it now: it has to be
    /// admitted anew.
    #[must_use]
    pub fn enter(&self) -> Option<InUse> {
        let lease = match &self.place {
            Place::Kept(lease) => lease,
            Place::Folded(until) => return (Instant::now() < *until).then_some(InUse(None)),
        };
        let one_more = |users: u32| users.checked_add(1).filter(|more| *more < GONE);
        lease.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(InUse(Some(Arc::clone(lease))))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(lease) = &self.0 {
            lease.last.fetch_max(nanoseconds(lease.begun.elapsed()), Ordering::AcqRel);
            lease.users.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn fold(kept: Label) -> Label {
    match kept.key() {
        label::REPORTER | label::REASON | label::CONNECTION_SECURITY_POLICY => kept,
        key => Label::new(SharedString::from_owned(key.to_owned()), SharedString::const_str(label::OTHER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(workload: &'static str) -> Vec<Label> {
        vec![Label::from_static_parts(label::REPORTER, "source"), Label::from_static_parts(label::SOURCE_WORKLOAD, workload)]
    }

    /// Uses a set once.
    fn once(limit: &SeriesLimit, workload: &'static str) -> Vec<Label> {
        limit.admit(labels(workload)).0.labels()
    }

    #[test]
    fn beyond_the_limit_new_sets_are_folded_and_known_ones_are_not() {
        let limit = SeriesLimit::new(2, SeriesLimit::IDLE);
        assert_eq!(once(&limit, "a"), labels("a"));
        assert_eq!(once(&limit, "b"), labels("b"));
        assert_eq!(once(&limit, "c"), labels(label::OTHER));
        assert_eq!(once(&limit, "a"), labels("a"));
    }

    #[test]
    fn the_set_that_was_not_used_for_longest_leaves_and_one_in_use_never() {
        let limit = SeriesLimit::new(3, Duration::ZERO);
        let (a, used) = limit.admit(labels("a"));
        let (b, _) = limit.admit(labels("b"));
        let (c, _) = limit.admit(labels("c"));
        drop(b.enter().unwrap());
        assert_eq!(once(&limit, "d"), labels("d"));
        assert!(c.enter().is_none() && a.enter().is_some() && b.enter().is_some());
        drop(used);
        drop((b.enter(), a.enter()));
        let (_, d) = limit.admit(labels("d"));
        assert_eq!(once(&limit, "e"), labels("e"));
        assert!(b.enter().is_none() && a.enter().is_some());
        let all = [d, a.enter().unwrap(), limit.admit(labels("e")).1];
        assert_eq!(once(&limit, "f"), labels(label::OTHER));
        drop(all);
        limit.sets.lock().unwrap().full_until = None;
        assert_eq!(once(&limit, "c"), labels("c"), "one that has left comes back");
    }

    #[test]
    fn a_set_that_leaves_while_others_begin_to_use_it_is_either_used_or_gone() {
        let limit = SeriesLimit::new(1, Duration::ZERO);
        for _ in 0..200 {
            let (admitted, used) = limit.admit(labels("a"));
            drop(used);
            std::thread::scope(|scope| {
                let user = scope.spawn(|| admitted.enter());
                let (newcomer, _used) = limit.admit(labels("b"));
                let used = user.join().unwrap();
                let folded = newcomer.labels() == labels(label::OTHER);
                // Whoever came later may have found it unused again, but nobody uses what is gone.
                assert!(used.is_none() || folded, "used and gone");
            });
            limit.sets.lock().unwrap().full_until = None;
        }
    }
}

//! The connections that are open now, so that what they carry is in the metrics before they end. A connection needs no timer for that.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_hbone::copy::Counters;
use ambit_identity::SpiffeId;
use ambit_model::authorize::Allowed;
use ambit_runtime::telemetry::{Direction, InUse, Trace};

use super::series::Series;

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) counters: Arc<Counters>,
    /// Whose pump counts.
    pub(super) counted: Direction,
    pub(super) ends: Ends,
    /// The W3C trace that it is part of.
    pub(super) trace: Option<Trace>,
    /// On whose behalf it comes, as a waypoint says; few have it.
    pub(super) forwarded: Option<Box<SpiffeId>>,
    /// Why it may; something else may take its place.
    allowed: Mutex<Allowed>,
    /// Its metrics, and who is at its ends.
    pub(super) series: Arc<Series>,
    /// Its series stay as long as it does.
    _used: InUse,
    /// Its number among those that are open.
    place: AtomicU32,
    /// What of the counters is in the metrics already: bytes sent and received.
    reported: [AtomicU64; 2],
    /// What it had carried when that was last looked at, and when that was otherwise, in seconds since it stands.
    seen: AtomicU64,
    since: AtomicU32,
}

/// Which connection it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    /// As the client dialled it, as far as this proxy knows.
    pub(super) destination: SocketAddr,
    /// Where it really goes, when that is another address.
    pub(super) reached: Option<SocketAddr>,
    pub(super) begun: Instant,
}

impl Open {
    pub(super) fn new(
        counters: Arc<Counters>,
        counted: Direction,
        ends: Ends,
        (series, used): (Arc<Series>, InUse),
        (trace, forwarded): (Option<Trace>, Option<Box<SpiffeId>>),
    ) -> Self {
        Self {
            counters,
            counted,
            ends,
            trace,
            forwarded,
            allowed: Mutex::default(),
            series,
            _used: used,
            place: AtomicU32::new(NOWHERE),
            reported: Default::default(),
            seen: AtomicU64::new(0),
            since: AtomicU32::new(0),
        }
    }

    pub(super) fn allowed(&self) -> MutexGuard<'_, Allowed> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_allowed(&self, allowed: Allowed) {
        *self.allowed() = allowed;
    }

    /// Ends the connection if it has carried nothing for so long. To be called by one task, again and again.
    fn expire(&self, idle: Duration, half_open: Duration) {
        let half = self.counters.is_half_open();
        let seen = (self.counters.sent() + self.counters.received()) << 1 | u64::from(half);
        let now = u32::try_from(self.ends.begun.elapsed().as_secs()).unwrap_or(u32::MAX);
        if self.seen.swap(seen, Ordering::Relaxed) != seen {
            return self.since.store(now, Ordering::Relaxed);
        }
        let quiet = Duration::from_secs(now.saturating_sub(self.since.load(Ordering::Relaxed)).into());
        if quiet >= if half { half_open.min(idle) } else { idle } {
            self.counters.cut();
        }
    }

    /// Puts what was carried since the last time into the metrics. May run on several threads at once.
    pub(super) fn report(&self) {
        let (sent, received) = bytes(&self.counters, self.counted);
        for (now, reported, metric) in
            [(sent, &self.reported[0], &self.series.sent), (received, &self.reported[1], &self.series.received)]
        {
            // The numbers only rise, so whoever comes second adds what is left.
            let before = reported.fetch_max(now, Ordering::Relaxed);
            metric.increment(now.saturating_sub(before));
        }
    }
}

/// Bytes from the client to the server, and back. A pump counts from the side of the tunnel, which is the server's for what pods open
/// and the client's for what comes to them.
pub(super) fn bytes(counters: &Counters, counted: Direction) -> (u64, u64) {
    match counted {
        Direction::Outbound => (counters.sent(), counters.received()),
        Direction::Inbound => (counters.received(), counters.sent()),
    }
}

/// All of them, each at a place that it keeps until it ends.
#[derive(Debug, Default)]
pub(super) struct OpenConnections(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    taken: Vec<Option<Arc<Open>>>,
    free: Vec<u32>,
}

/// The place of a connection that has none: there are more than numbers.
const NOWHERE: u32 = u32::MAX;
/// How many connections are reported before others may open or end.
const AT_ONCE: usize = 256;
/// Room for so many places is kept when no connection is open.
const KEPT: usize = 1024;

impl OpenConnections {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it a place, if there is one.
    pub(super) fn add(&self, open: &Arc<Open>) {
        let mut places = self.places();
        let place = match places.free.pop() {
            Some(place) => place,
            None => match u32::try_from(places.taken.len()) {
                Ok(place) if place != NOWHERE => {
                    places.taken.push(None);
                    place
                }
                _ => return,
            },
        };
        open.place.store(place, Ordering::Relaxed);
        if let Some(taken) = places.taken.get_mut(place as usize) {
            *taken = Some(Arc::clone(open));
        }
    }

    pub(super) fn remove(&self, open: &Open) {
        let place = open.place.load(Ordering::Relaxed);
        let mut places = self.places();
        if let Some(taken) = places.taken.get_mut(place as usize) {
            *taken = None;
            places.free.push(place);
        }
        if places.free.len() == places.taken.len() && places.taken.len() > KEPT {
            *places = Places::default();
        }
    }

    /// Up to `most` of them, and how many more there are.
    pub(super) fn some(&self, most: usize) -> (Vec<Arc<Open>>, usize) {
        let places = self.places();
        let some: Vec<_> = places.taken.iter().flatten().take(most).cloned().collect();
        let more = places.taken.len() - places.free.len() - some.len();
        (some, more)
    }

    /// Ends those that have carried nothing for so long.
    pub(super) fn expire(&self, idle: Duration, half_open: Duration) {
        self.each(|open| open.expire(idle, half_open));
    }

    pub(super) fn report(&self) {
        self.each(Open::report);
    }

    fn each(&self, work: impl Fn(&Open)) {
        for from in (0..).step_by(AT_ONCE) {
            let some: Vec<Arc<Open>> = {
                let places = self.places();
                let Some(left) = places.taken.get(from..).filter(|left| !left.is_empty()) else { return };
                left.iter().take(AT_ONCE).flatten().cloned().collect()
            };
            some.iter().for_each(|open| work(open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_all_are_given_back_when_nothing_is_open() {
        let all = OpenConnections::default();
        let nowhere = SocketAddr::from(([0; 4], 0));
        let ends = Ends { source: nowhere, destination: nowhere, reached: None, begun: Instant::now() };
        let series = Arc::new(Series::of_nothing());
        let open = || {
            let used = (Arc::clone(&series), InUse::default());
            let open = Arc::new(Open::new(Arc::default(), Direction::Outbound, ends, used, (None, None)));
            all.add(&open);
            open
        };
        let mut opened: Vec<Arc<Open>> = (0..2000).map(|_| open()).collect();
        let places = |opened: &[Arc<Open>]| Vec::from_iter(opened.iter().map(|open| open.place.load(Ordering::Relaxed)));
        assert_eq!(places(&opened), (0..2000).collect::<Vec<_>>());
        all.remove(&opened.remove(7));
        assert_eq!((all.some(10).0.len(), all.some(10).1, all.some(5000).0.len()), (10, 1989, 1999));
        opened.push(open());
        assert_eq!(places(&opened[1999..]), [7]);
        all.report();
        let some = all.some(1).0;
        all.expire(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!some[0].counters.is_cut());
        some[0].since.store(0, Ordering::Relaxed);
        all.expire(Duration::ZERO, Duration::from_secs(1));
        assert!(some[0].counters.is_cut(), "it has carried nothing for as long as that");
        opened.iter().for_each(|open| all.remove(open));
        assert_eq!(all.places().taken.capacity(), 0);
    }
}

//! How soon endpoints answer, for clusters that go by it (`load_balancing: peak_ewma` of our own metadata). Decided in the model; here is the
//! clock.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ambit_model::balance::{PeakEwma, Policy};

use super::{Host, Live};
use crate::compiled::Cluster;

/// How soon an endpoint answers.
#[derive(Debug, Default)]
pub(super) struct Latency(Mutex<PeakEwma>);

impl Latency {
    /// What it takes to answer now, where that is known.
    pub(super) fn known(&self, now: Duration) -> Option<Duration> {
        self.with(|seen| seen.latency(now)).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn with<R>(&self, change: impl FnOnce(&mut PeakEwma) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Live {
    /// What it is taken to cost to send one more request to an endpoint.
    pub(super) fn cost(&self, host: &Host) -> f64 {
        let now = self.began.elapsed();
        host.latency.with(|seen| seen.cost(now, host.under_way()))
    }
}

impl Cluster {
    /// Whether it matters to it how requests end of which nothing is heard in time.
    pub fn is_noted(&self) -> bool {
        self.outliers.is_some() || self.balance.policy == Policy::PeakEwma
    }

    /// A request is sent to an endpoint.
    pub fn wait_for<'a>(&'a self, host: &'a Host) -> Waiting<'a> {
        // Others do not go by it, and look at no clock.
        let host = (self.balance.policy == Policy::PeakEwma).then(|| (host, Instant::now()));
        Waiting { cluster: self, host }
    }

    /// Takes in how long an endpoint took until its answer began, or that there is none.
    pub(super) fn answered(&self, host: &Host, took: Duration, well: bool) {
        if self.balance.policy != Policy::PeakEwma {
            return;
        }
        let now = self.live.began.elapsed();
        host.latency.with(|seen| match well {
            true => seen.note(now, took),
            false => seen.note_failure(now, took),
        });
    }
}

/// The time that an endpoint takes to answer, which is taken in when this is dropped. Whoever gives up before has seen that it takes as long at
/// least: else an endpoint that never answers those who do not wait for ever would seem the quicker the longer it is silent.
pub struct Waiting<'a> {
    cluster: &'a Cluster,
    /// Who is waited for, and since when.
    host: Option<(&'a Host, Instant)>,
}

impl Waiting<'_> {
    /// There is no answer, which is taken in otherwise.
    pub fn failed(mut self) {
        self.host = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((host, since)) = self.host {
            self.cluster.answered(host, since.elapsed(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread::sleep};

    use ambit_model::balance::Limits;

    use super::super::tests::{cluster, endpoints, host};
    use super::*;

    #[test]
    fn who_is_given_up_on_takes_as_long_as_was_waited_for_it_and_who_fails_at_once_is_not_quick() {
        let live = Arc::new(Live::default());
        let limits = Limits { connections: 0, pending: 0, requests: 0 };
        let mut cluster = Arc::into_inner(cluster(&live, None, limits)).unwrap();
        cluster.balance.policy = Policy::PeakEwma;
        live.follow(&cluster, endpoints(&[1, 2]));
        let cluster = Arc::new(cluster);
        let (silent, failing) = (host(&cluster, 1), host(&cluster, 2));
        let waiting = cluster.wait_for(&silent);
        sleep(Duration::from_millis(20));
        drop(waiting);
        // What was seen fades, hardly at all in less than a second.
        assert!(silent.latency.known(live.began.elapsed()).unwrap() > Duration::from_millis(10));
        cluster.wait_for(&failing).failed();
        assert_eq!(failing.latency.known(live.began.elapsed()), None);
    }
}

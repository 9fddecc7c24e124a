//! How soon endpoints answer, for clusters that go by it (`load_balancing: peak_ewma` of our own metadata). Decided in the model; here is the
//! clock.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
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

    /// Takes in how long an endpoint took until its answer began, or that there is none.
    pub fn answered(&self, host: &Host, took: Duration, well: bool) {
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

//! Endpoints that are given their share by and by (`slow_start_config`). Decided in the model; here is since when each takes requests, and the
//! clock. Shares are reckoned anew by the requests that come, while any grows.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ambit_model::balance::{Locality, SlowStart, Standing, Warmth};

use super::{Host, Known, Live, Place, outliers::millis};

/// No time at all, in milliseconds.
pub(super) const NEVER: u64 = u64::MAX;

/// Since when an endpoint takes requests, in milliseconds of its cluster's time.
#[derive(Debug)]
pub(super) struct Since(AtomicU64);

impl Default for Since {
    /// It never did.
    fn default() -> Self {
        Self(AtomicU64::new(NEVER))
    }
}

impl Since {
    /// It takes requests at `now`, if not before.
    fn now_at_the_latest(&self, now: Duration) -> Duration {
        let since = self.0.fetch_min(millis(now), Ordering::AcqRel).min(millis(now));
        Duration::from_millis(since)
    }

    /// When that was, if ever.
    fn known(&self) -> Option<Duration> {
        let since = self.0.load(Ordering::Acquire);
        (since != NEVER).then(|| Duration::from_millis(since))
    }

    /// Whatever was before, it takes requests from `now` on.
    pub(super) fn now(&self, now: Duration) {
        self.0.store(millis(now), Ordering::Release);
    }
}

impl Live {
    /// Reckons anew what the shares are of endpoints that warm up, if it is time to.
    pub(super) fn warm(&self) {
        let is_due = || match self.warms.load(Ordering::Acquire) {
            NEVER => false,
            due => millis(self.began.elapsed()) >= due,
        };
        if !is_due() {
            return;
        }
        let known = self.known();
        // Another request may have seen to it meanwhile.
        if is_due() {
            self.spread(&known);
        }
    }

    /// Says when it is looked next what the shares are.
    pub(super) fn warms_on(&self, localities: &[Locality<Place>], slow: Option<&SlowStart>, now: Duration) {
        let mut members = localities.iter().flat_map(|locality| &locality.members);
        let due = match slow {
            Some(slow) if members.any(|member| member.warmth < Warmth::WHOLE) => millis(now.saturating_add(slow.step())),
            _ => NEVER,
        };
        self.warms.store(due, Ordering::Release);
    }
}

impl Known {
    /// How much of its weight an endpoint of this standing has.
    pub(super) fn warmth(&self, host: &Host, standing: Standing, now: Duration) -> Warmth {
        if standing != Standing::Healthy {
            return Warmth::WHOLE;
        }
        let since = host.since.now_at_the_latest(now);
        let Some(slow) = &self.rules.slow_start else { return Warmth::WHOLE };
        let since = if slow.new { Some(since) } else { host.returned.known() };
        since.map_or(Warmth::WHOLE, |since| slow.warmth(now.saturating_sub(since)))
    }

    /// An endpoint that was ejected is given requests again.
    pub(super) fn returns(&self, host: &Host, now: Duration) {
        if self.rules.slow_start.is_some_and(|slow| slow.after_ejection) {
            host.since.now(now);
            host.returned.now(now);
        }
    }
}

#[cfg(test)]
mod tests;

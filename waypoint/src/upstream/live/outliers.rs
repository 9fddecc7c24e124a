//! Endpoints that are ejected for what they failed at, and return (`outlier_detection`). Decided in the model; here is what they did, and the
//! clock. Who returns is looked at by the requests that come, and now and then.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ambit_model::balance::{Outcome, OutlierDetection, Why};
use metrics::counter;

use super::{Host, Known, Live};
use crate::compiled::Cluster;

/// Counts ejections, by `reason`.
const EJECTIONS: &str = "ambit_endpoint_ejections_total";
/// Counts outliers that were not ejected because too many were, or because it is not enforced, by `cause`.
const SPARED: &str = "ambit_endpoint_ejections_spared_total";
/// Counts returns.
pub(super) const RETURNS: &str = "ambit_endpoint_returns_total";

impl Cluster {
    /// Counts how a request or a connection to one of its endpoints ended.
    pub fn note(&self, host: &Arc<Host>, outcome: Outcome) {
        if !matches!(outcome, Outcome::Status(..500)) {
            host.errors.fetch_add(1, Ordering::Relaxed);
        }
        if !matches!(outcome, Outcome::Status(_)) {
            self.answered(host, Duration::ZERO, false);
        }
        let Some(rules) = &self.outliers else { return };
        let found = host.history().note(outcome, rules);
        for why in found {
            let live = &self.live;
            let known = live.known();
            if live.eject(&self.name, rules, &known, host, why) {
                live.spread(&known);
            }
        }
    }
}

impl Live {
    /// Whether it is ejected by this.
    fn eject(&self, cluster: &str, rules: &OutlierDetection, known: &Known, host: &Arc<Host>, why: Why) -> bool {
        // It may have left the cluster meanwhile.
        if !known.hosts.get(&host.target).is_some_and(|one| Arc::ptr_eq(one, host)) || host.is_ejected() {
            return false;
        }
        let (hosts, ejected) = (known.hosts.len(), known.hosts.values().filter(|host| host.is_ejected()).count());
        let spared = match rules.has_room(ejected, hosts) {
            false => Some("max_ejection_percent"),
            true => (!rules.enforces(why, fastrand::u64(..))).then_some("not_enforced"),
        };
        if let Some(cause) = spared {
            counter!(SPARED, "cause" => cause).increment(1);
            tracing::debug!(cluster, endpoint = %host, reason = why.label(), cause, "an outlier is not ejected");
            return false;
        }
        let now = self.began.elapsed();
        host.judge(|history| history.eject(why, now, fastrand::u64(..), rules));
        let lasts = host.history().ejected().map_or(Duration::ZERO, |(_, until)| until.saturating_sub(now));
        counter!(EJECTIONS, "reason" => why.label()).increment(1);
        tracing::warn!(cluster, endpoint = %host, reason = why.label(), seconds = lasts.as_secs_f64(), ejected = ejected + 1, hosts,
            "an endpoint is ejected");
        true
    }

    /// Looks who returns, and who answered more rarely well than the others or than it may, if an interval has passed since the last time.
    pub fn look(&self, cluster: &Cluster) {
        let Some(rules) = &cluster.outliers else { return };
        let now = self.began.elapsed();
        // Nor later than the interval is now: it may have been longer when this was set.
        let later = |due: u64| millis(now) < due && due <= millis(now + rules.interval);
        if later(self.due.load(Ordering::Acquire)) {
            return;
        }
        let known = self.known();
        let due = self.due.load(Ordering::Acquire);
        if later(due) {
            return;
        }
        self.due.store(millis(now + rules.interval), Ordering::Release);
        let intervals = match due {
            0 => 0,
            due => millis(now).saturating_sub(due).checked_div(millis(rules.interval)).unwrap_or(0).saturating_add(1),
        };
        if self.pass(cluster, rules, &known, now, u32::try_from(intervals).unwrap_or(u32::MAX)) {
            self.spread(&known);
        }
    }

    /// One interval's end; whether anything changes by it.
    fn pass(&self, cluster: &Cluster, rules: &OutlierDetection, known: &Known, now: Duration, intervals: u32) -> bool {
        let mut changed = false;
        let hosts: Vec<_> = known.hosts.values().cloned().collect();
        for host in &hosts {
            if host.judge(|history| history.look(now, intervals, rules)) {
                counter!(RETURNS).increment(1);
                known.returns(host, now);
                tracing::info!(cluster = &*cluster.name, endpoint = %host, "an endpoint that was ejected is given requests again");
                changed = true;
            }
        }
        let rates = |host: &Arc<Host>| {
            let [answered, reached] = host.history().rates();
            (answered, reached)
        };
        let (answered, reached): (Vec<_>, Vec<_>) = hosts.iter().map(rates).unzip();
        for (rates, why, also) in [
            (answered, Why::SuccessRate, Why::FailurePercentage),
            (reached, Why::LocalOriginSuccessRate, Why::LocalOriginFailurePercentage),
        ] {
            for (host, outlier) in hosts.iter().zip(rules.success_rate.outliers(&rates)) {
                changed |= outlier && self.eject(&cluster.name, rules, known, host, why);
            }
            // Where nobody is ejected by it nobody is spared either: that would be counted.
            if !rules.may(also) {
                continue;
            }
            for (host, outlier) in hosts.iter().zip(rules.failure_percentage.outliers(&rates)) {
                changed |= outlier && self.eject(&cluster.name, rules, known, host, also);
            }
        }
        changed
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

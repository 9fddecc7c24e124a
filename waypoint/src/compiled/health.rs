//! What the endpoints of a cluster are asked, to see whether they are well.

use std::{ops::Range, sync::Arc, time::Duration};

use ambit_model::balance::Thresholds;
use serde::Serialize;

/// How endpoints are checked (`envoy.config.core.v3.HealthCheck`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// What they are asked.
    pub probe: Probe,
    /// How long they may take to answer, from the connection on.
    pub timeout: Duration,
    /// From the end of a check to the next one.
    pub interval: Duration,
    /// The same of an endpoint that fails.
    pub unhealthy_interval: Duration,
    /// The same, of each, before the cluster has had anything to do.
    pub no_traffic_interval: Duration,
    /// At most so much later, at random: the first check of all.
    pub initial_jitter: Duration,
    /// The same, of each other one.
    pub jitter: Duration,
    /// The same, in a hundred parts of the interval.
    pub jitter_percent: u32,
    /// How many checks in a row count.
    pub thresholds: Thresholds,
    /// Who answers well is no longer ejected (`successful_active_health_check_uneject_host`).
    pub acquits: bool,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// For a status.
    Http {
        /// In the header `Host`.
        host: Arc<str>,
        /// With the query.
        path: Arc<str>,
        /// In HTTP/2 with prior knowledge.
        http2: bool,
        /// The statuses of endpoints that are well.
        expected: Vec<Range<i64>>,
    },
    /// By the gRPC health checking protocol (`grpc.health.v1.Health/Check`).
    Grpc {
        /// In `:authority`.
        authority: Arc<str>,
        /// The service that is asked about; the server as a whole where it is empty.
        service: Arc<str>,
    },
    /// For nothing but a connection.
    Tcp,
}

impl HealthCheck {
    /// How long to wait for the next check of an endpoint, which is `failing` or not, of a cluster that has been `used` or not; `random` is
    /// spread over its whole range.
    #[must_use]
    pub fn pause(&self, failing: bool, used: bool, random: u64) -> Duration {
        let base = match (used, failing) {
            (false, _) => self.no_traffic_interval,
            (true, true) => self.unhealthy_interval,
            (true, false) => self.interval,
        };
        let parts = base.checked_mul(self.jitter_percent).map_or(Duration::ZERO, |parts| parts / 100);
        base.saturating_add(part(self.jitter.saturating_add(parts), random))
    }

    /// How long to wait for the first check.
    #[must_use]
    pub fn begins_after(&self, random: u64) -> Duration {
        part(self.initial_jitter, random)
    }
}

/// A part of a length of time.
fn part(whole: Duration, random: u64) -> Duration {
    let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.checked_rem(millis.saturating_add(1)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_that_of_the_state_and_at_most_its_jitter_longer() {
        let seconds = Duration::from_secs;
        let plain = HealthCheck {
            probe: Probe::Tcp,
            timeout: seconds(1),
            interval: seconds(5),
            unhealthy_interval: seconds(2),
            no_traffic_interval: seconds(60),
            initial_jitter: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_percent: 0,
            thresholds: Thresholds { unhealthy: 3, healthy: 2 },
            acquits: true,
        };
        let jittery =
            HealthCheck { jitter: seconds(1), jitter_percent: 10, initial_jitter: Duration::from_millis(7), ..plain.clone() };
        for (failing, used, expected) in [(false, true, 5), (true, true, 2), (false, false, 60), (true, false, 60)] {
            let most = seconds(expected) + seconds(1) + seconds(expected) / 10;
            for random in [0, 1, 12_345_678_901, u64::MAX] {
                assert_eq!(plain.pause(failing, used, random), seconds(expected));
                let paused = jittery.pause(failing, used, random);
                assert!((seconds(expected)..=most).contains(&paused), "{paused:?}");
                assert_eq!(plain.begins_after(random), Duration::ZERO);
                assert!(jittery.begins_after(random) <= Duration::from_millis(7));
            }
        }
        assert!(jittery.pause(false, true, 3) > jittery.pause(false, true, 0));
    }
}

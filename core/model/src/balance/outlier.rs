//! Endpoints that are given no requests for a while because what they were given failed.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{FailurePercentage, Rate, SuccessRate};

/// How many failures in a row, and in how many of a hundred cases they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enforced {
    /// In a row; 0 for none.
    pub failures: u32,
    /// In a hundred.
    pub percent: u32,
}

impl Enforced {
    /// One failure fewer than lead to an ejection; nothing where none does.
    const fn last_but_one(self) -> u32 {
        if self.percent > 0 { self.failures.saturating_sub(1) } else { 0 }
    }
}

/// When endpoints are ejected, and for how long (`envoy.config.cluster.v3.OutlierDetection`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Statuses from 500 on; and unless these are split off, what fails on the way to the endpoint.
    pub server_errors: Enforced,
    /// 502, 503 and 504.
    pub gateway_failures: Enforced,
    /// What fails on the way to the endpoint, if this is split off.
    pub local_failures: Enforced,
    /// What fails on the way (no connection, no answer in time) is no answer of the endpoint's.
    pub split: bool,
    /// Who succeeds more rarely than the others.
    pub success_rate: SuccessRate,
    /// How often it is looked who may return.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one as much longer.
    pub base_time: Duration,
    /// The longest that one lasts.
    pub max_time: Duration,
    /// At most so much longer, at random.
    pub max_jitter: Duration,
    /// In a hundred endpoints, how many may be ejected at once.
    pub max_percent: u32,
    /// One may be, whatever their share.
    pub always_one: bool,
    /// Who fails in too many cases, however the others do.
    pub failure_percentage: FailurePercentage,
    /// One that returns is on probation: until it has answered well, its next failure ejects it again. Envoy knows no such thing: there all that
    /// failed before is forgotten.
    pub probation: bool,
}

impl Default for OutlierDetection {
    /// What Envoy has where nothing is said.
    fn default() -> Self {
        let enforced = |percent| Enforced { failures: 5, percent };
        Self {
            server_errors: enforced(100),
            gateway_failures: enforced(0),
            local_failures: enforced(100),
            split: false,
            success_rate: SuccessRate::default(),
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_jitter: Duration::ZERO,
            max_percent: 10,
            always_one: false,
            failure_percentage: FailurePercentage::default(),
            probation: false,
        }
    }
}

/// How a request, or a connection, to an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer of this status.
    Status(u16),
    /// No connection stood, or it broke.
    Failed,
    /// There was no answer in time.
    TimedOut,
}

/// Why an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Statuses from 500 on, in a row.
    Consecutive5xx,
    /// 502, 503 or 504, in a row.
    ConsecutiveGatewayFailure,
    /// It was not reached, in a row.
    ConsecutiveLocalOriginFailure,
    /// It answers more rarely well than the others.
    SuccessRate,
    /// It is reached more rarely than the others.
    LocalOriginSuccessRate,
    /// It answers badly in too many cases.
    FailurePercentage,
    /// It is not reached in too many cases.
    LocalOriginFailurePercentage,
}

impl Why {
    /// The word for it, as in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalOriginFailurePercentage => "local_origin_failure_percentage",
        }
    }
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl OutlierDetection {
    /// Whether one more of `hosts` may be ejected while `ejected` are.
    #[must_use]
    pub fn has_room(&self, ejected: usize, hosts: usize) -> bool {
        let most = (self.max_percent.min(100) as usize).saturating_mul(hosts);
        (self.always_one && ejected == 0) || 100 * (ejected + 1) <= most
    }

    /// Whether an outlier is ejected or only noted; `random` is spread over its whole range.
    #[must_use]
    pub fn enforces(&self, why: Why, random: u64) -> bool {
        random % 100 < u64::from(self.enforced(why))
    }

    /// Whether anybody is ejected for this.
    #[must_use]
    pub fn may(&self, why: Why) -> bool {
        self.enforced(why) > 0
    }

    /// In how many of a hundred cases an outlier is ejected.
    fn enforced(&self, why: Why) -> u32 {
        match why {
            Why::Consecutive5xx => self.server_errors.percent,
            Why::ConsecutiveGatewayFailure => self.gateway_failures.percent,
            Why::ConsecutiveLocalOriginFailure => self.local_failures.percent,
            Why::SuccessRate => self.success_rate.enforcing,
            Why::LocalOriginSuccessRate => self.success_rate.enforcing_local,
            Why::FailurePercentage => self.failure_percentage.enforcing,
            Why::LocalOriginFailurePercentage => self.failure_percentage.enforcing_local,
        }
    }
}

/// What is known of an endpoint. Times are since any moment that all of them have in common.
#[derive(Debug, Clone, Default)]
pub struct History {
    server_errors: u32,
    gateway_failures: u32,
    local_failures: u32,
    /// What it answered in this interval.
    answered: Rate,
    /// How often it was reached in this interval.
    reached: Rate,
    /// How many times as long as the first one the next ejection lasts, less one.
    times: u32,
    ejected: Option<Ejected>,
}

/// An endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ejected {
    why: Why,
    until: Duration,
}

impl History {
    /// Counts how a request ended, and says what it is an outlier by now.
    pub fn note(&mut self, outcome: Outcome, rules: &OutlierDetection) -> impl Iterator<Item = Why> + use<> {
        let status = match outcome {
            Outcome::Status(status) => Some(status),
            _ if rules.split => None,
            Outcome::Failed => Some(503),
            Outcome::TimedOut => Some(504),
        };
        if rules.split {
            self.reached.count(status.is_some());
        }
        let found = match status {
            None => {
                let over = run(&mut self.local_failures, true, rules.local_failures);
                [over.then_some(Why::ConsecutiveLocalOriginFailure), None]
            }
            Some(status) => {
                self.local_failures = 0;
                self.answered.count(status < 500);
                let gateway = run(&mut self.gateway_failures, (502..=504).contains(&status), rules.gateway_failures);
                let any = run(&mut self.server_errors, status >= 500, rules.server_errors);
                [gateway.then_some(Why::ConsecutiveGatewayFailure), any.then_some(Why::Consecutive5xx)]
            }
        };
        found.into_iter().flatten()
    }

    /// It is given no requests from `now` on; `random` is spread over its whole range.
    pub fn eject(&mut self, why: Why, now: Duration, random: u64, rules: &OutlierDetection) {
        // Not beyond what the longest needs, so that it shrinks again soon once the endpoint is well.
        if rules.base_time.saturating_mul(self.times) < rules.max_time.saturating_add(rules.base_time) {
            self.times = self.times.saturating_add(1);
        }
        let jitter = u64::try_from(rules.max_jitter.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        let jitter = Duration::from_nanos(random.checked_rem(jitter).unwrap_or(0));
        let lasts = rules.base_time.saturating_mul(self.times).min(rules.max_time).saturating_add(jitter);
        self.ejected = Some(Ejected { why, until: now.saturating_add(lasts) });
    }

    /// Looks at `now` what has become of it since the last time, `intervals` ago; whether it returns. Each interval that it is well makes
    /// its next ejection shorter.
    pub fn look(&mut self, now: Duration, intervals: u32, rules: &OutlierDetection) -> bool {
        let Some(Ejected { until, .. }) = self.ejected else {
            self.times = self.times.saturating_sub(intervals);
            return false;
        };
        if until > now {
            return false;
        }
        // Of the intervals that nobody looked at, those after its time was over.
        let since = (now - until).as_nanos().checked_div(rules.interval.as_nanos()).unwrap_or(0);
        self.times = self.times.saturating_sub(u32::try_from(since).unwrap_or(u32::MAX));
        self.acquit();
        if rules.probation {
            self.suspect(rules);
        }
        true
    }

    /// Of each row of failures by which it may be ejected there is one to come: an answer that ends the row ends this as well.
    fn suspect(&mut self, rules: &OutlierDetection) {
        self.server_errors = rules.server_errors.last_but_one();
        self.gateway_failures = rules.gateway_failures.last_but_one();
        self.local_failures = rules.local_failures.last_but_one();
    }

    /// It is ejected no more, and its failures are forgotten.
    pub fn acquit(&mut self) {
        (self.server_errors, self.gateway_failures, self.local_failures) = (0, 0, 0);
        self.ejected = None;
    }

    /// What it answered and how often it was reached since this was last asked for.
    pub fn rates(&mut self) -> [Rate; 2] {
        [std::mem::take(&mut self.answered), std::mem::take(&mut self.reached)]
    }

    /// Why it is ejected and until when, if it is.
    #[must_use]
    pub fn ejected(&self) -> Option<(Why, Duration)> {
        self.ejected.map(|ejected| (ejected.why, ejected.until))
    }
}

/// Counts failures in a row; whether there are as many as are borne. Counting begins anew then.
fn run(count: &mut u32, failed: bool, rule: Enforced) -> bool {
    *count = if failed { count.saturating_add(1) } else { 0 };
    let over = rule.failures > 0 && *count >= rule.failures;
    if over {
        *count = 0;
    }
    over
}

#[cfg(test)]
mod tests;

//! Whether a request that failed is sent again, and when.

use std::time::Duration;

use serde::Serialize;

use super::ended::{CallStatuses, Ended};

/// What a request is sent again for (`retry_on` of `envoy.config.route.v3.RetryPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetryOn {
    /// No connection stood (`connect-failure`).
    pub unreached: bool,
    /// The endpoint gave the request back unseen (`refused-stream`).
    pub refused: bool,
    /// The connection broke before anything of the request was sent (`reset-before-request`).
    pub reset_before_request: bool,
    /// There was no response, for whatever reason: the connection broke, or the time of the try was over (`reset`).
    pub reset: bool,
    /// Any status from 500 on, or no response (`5xx`).
    pub server_errors: bool,
    /// 502, 503 or 504, or no response (`gateway-error`).
    pub gateway_errors: bool,
    /// 409 (`retriable-4xx`).
    pub conflicts: bool,
    /// One of the statuses of the policy (`retriable-status-codes`).
    pub statuses: bool,
    /// One of these statuses of gRPC in the head of the response (`unavailable` and its like).
    pub calls: CallStatuses,
}

/// Whether a request that has left, and failed with the connection at hand, may be sent once more, whatever its route says of retries: one that
/// was not looked at may (RFC 9113, section 8.7), and one without a body of a method that changes nothing, or no more a second time (RFC 9110,
/// section 9.2.2). One with a body, of which something may have been looked at, is for a route to say.
#[must_use]
pub fn may_leave_again(method: &str, body: bool, unseen: bool) -> bool {
    unseen || (!body && matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"))
}

/// When a request is sent again, how often, and how long after (`envoy.config.route.v3.RetryPolicy`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// What for.
    pub on: RetryOn,
    /// The statuses that [`RetryOn::statuses`] means.
    pub statuses: Vec<u16>,
    /// How often it is sent again at most.
    pub retries: u32,
    /// The longest that one try may take to the head of its response, once the request has come whole; `None` for no limit.
    pub per_try: Option<Duration>,
    /// The least wait before the first retry; each further wait is twice as long.
    pub backoff: Duration,
    /// What the wait does not grow beyond.
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// Whether a try that ended so is to be followed by another one.
    #[must_use]
    pub fn asks_for_another(&self, ended: Ended) -> bool {
        let on = &self.on;
        let without_response = on.reset || on.server_errors || on.gateway_errors;
        match ended {
            Ended::Status(status) => self.asks_after(status),
            Ended::Call(status, call) => self.asks_after(status) || on.calls.has(call),
            // Envoy's router sends these again for a condition of their own alone, which is not carried out (`envoy-ratelimited`).
            Ended::Limited => false,
            Ended::Unreached => without_response || on.unreached || on.reset_before_request,
            Ended::Refused => without_response || on.refused,
            Ended::BeforeRequest => without_response || on.reset_before_request,
            Ended::Reset | Ended::TimedOut => without_response,
        }
    }

    /// The same after a response of this status of HTTP.
    fn asks_after(&self, status: u16) -> bool {
        let on = &self.on;
        (on.server_errors && status >= 500)
            || (on.gateway_errors && (502..=504).contains(&status))
            || (on.conflicts && status == 409)
            || (on.statuses && self.statuses.contains(&status))
    }

    /// How long to wait before the next try, of which `before` have been retries; `random`, evenly spread over its whole range, spreads
    /// it by up to a half more, so that requests which failed together do not come back together. Envoy's wait is shorter than the
    /// policy's; the Gateway API takes it for the least.
    #[must_use]
    pub fn wait(&self, before: u32, random: u64) -> Duration {
        let least = self.backoff.saturating_mul(2_u32.saturating_pow(before.min(16))).min(self.max_backoff.max(self.backoff));
        let half = u64::try_from(least.as_nanos() / 2).unwrap_or(u64::MAX);
        least.saturating_add(Duration::from_nanos(random.checked_rem(half).unwrap_or(0)))
    }
}

/// How many requests to a cluster may be under way for another time at once (`envoy.config.cluster.v3.CircuitBreakers.Thresholds`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryBudget {
    /// So many.
    Count(u32),
    /// So many in a hundred of those that are under way, and some in any case.
    Share {
        /// In a hundred.
        percent: f64,
        /// At least so many, if it is said; [`Self::LEAST`] where it is not.
        least: Option<u32>,
    },
}

impl Default for RetryBudget {
    /// What Envoy has where nothing is said.
    fn default() -> Self {
        Self::Count(3)
    }
}

impl RetryBudget {
    /// So many there may be in any case where nothing is said, as Envoy has it.
    pub const LEAST: u32 = 3;

    /// Of how many requests that go well one may be sent again, as a part of one: a quarter of what may be under way at once for another time.
    /// `None` where nothing holds over time. Three services in a row that all retry then ask the last one for less than a fifth more, and for what
    /// they may send again in any case ([`Self::a_second`]).
    #[must_use]
    pub fn earned(&self) -> Option<f64> {
        match self {
            Self::Count(_) => None,
            Self::Share { percent, .. } => Some(percent / 400.0),
        }
    }

    /// So many requests a second may be sent again even where none goes well: as many as it is said that there may be at once in any case, or ten
    /// where nothing is said (as `minRetryRate` of GEP-3388).
    #[must_use]
    pub fn a_second(&self) -> f64 {
        match self {
            Self::Share { least: Some(least), .. } => f64::from((*least).max(1)),
            Self::Share { least: None, .. } | Self::Count(_) => 10.0,
        }
    }

    /// Whether one more may begin while `requests` are under way, `retries` of them for another time.
    #[must_use]
    pub fn allows(&self, requests: usize, retries: usize) -> bool {
        match self {
            Self::Count(most) => retries < usize::try_from(*most).unwrap_or(usize::MAX),
            Self::Share { percent, least } => {
                let share = requests as f64 * percent / 100.0;
                let least = least.unwrap_or(Self::LEAST);
                retries < usize::try_from(least).unwrap_or(usize::MAX) || retries as f64 + 1.0 <= share
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: RetryOn) -> RetryPolicy {
        let (backoff, max_backoff) = (Duration::from_millis(25), Duration::from_millis(250));
        RetryPolicy { on, statuses: vec![500, 429], retries: 2, per_try: None, backoff, max_backoff }
    }

    #[test]
    fn what_may_have_been_looked_at_leaves_again_only_if_it_does_no_more_a_second_time() {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"] {
            assert!(may_leave_again(method, false, false), "{method}");
            assert!(!may_leave_again(method, true, false) && may_leave_again(method, true, true), "{method} with a body");
        }
        for method in ["POST", "PATCH", "CONNECT", "PURGE", "get"] {
            for body in [false, true] {
                assert!(!may_leave_again(method, body, false) && may_leave_again(method, body, true), "{method}");
            }
        }
    }

    #[test]
    fn each_condition_asks_for_another_try_after_what_it_names() {
        use Ended::{BeforeRequest, Refused, Reset, Status, TimedOut, Unreached};
        let all = [Status(500), Status(503), Status(409), Status(429), Unreached, Refused, BeforeRequest, Reset, TimedOut];
        let no_response = [Unreached, Refused, BeforeRequest, Reset, TimedOut];
        let with = |some: &[Ended]| [some, &no_response].concat();
        let none = RetryOn::default();
        for (on, expected) in [
            (none, vec![]),
            (RetryOn { unreached: true, ..none }, vec![Unreached]),
            (RetryOn { refused: true, ..none }, vec![Refused]),
            (RetryOn { reset_before_request: true, ..none }, vec![Unreached, BeforeRequest]),
            (RetryOn { reset: true, ..none }, no_response.to_vec()),
            (RetryOn { server_errors: true, ..none }, with(&[Status(500), Status(503)])),
            (RetryOn { gateway_errors: true, ..none }, with(&[Status(503)])),
            (RetryOn { conflicts: true, ..none }, vec![Status(409)]),
            (RetryOn { statuses: true, ..none }, vec![Status(500), Status(429)]),
        ] {
            let asked: Vec<_> = all.into_iter().filter(|ended| policy(on).asks_for_another(*ended)).collect();
            assert_eq!(asked, expected, "{on:?}");
        }
    }

    #[test]
    fn each_condition_of_calls_asks_for_another_try_after_its_status_alone() {
        let no = CallStatuses::default();
        let conditions = [
            (CallStatuses { cancelled: true, ..no }, 1),
            (CallStatuses { deadline_exceeded: true, ..no }, 4),
            (CallStatuses { resource_exhausted: true, ..no }, 8),
            (CallStatuses { internal: true, ..no }, 13),
            (CallStatuses { unavailable: true, ..no }, 14),
        ];
        let without_answer =
            [Ended::Unreached, Ended::Refused, Ended::BeforeRequest, Ended::Reset, Ended::TimedOut, Ended::Limited];
        for (calls, own) in conditions {
            let policy = policy(RetryOn { calls, ..RetryOn::default() });
            for status in (0..=20).chain([114, u32::MAX]) {
                assert_eq!(policy.asks_for_another(Ended::Call(200, status)), status == own, "{calls:?} {status}");
            }
            for status in 100..600 {
                assert!(!policy.asks_for_another(Ended::Status(status)), "{calls:?}: {status} is none of gRPC's");
            }
            assert!(!without_answer.into_iter().any(|ended| policy.asks_for_another(ended)), "{calls:?}");
        }
        let none = policy(RetryOn::default());
        assert!((0..=20).all(|status| !none.asks_for_another(Ended::Call(200, status))));
        // The status of HTTP counts as ever.
        let of_http = policy(RetryOn { server_errors: true, ..RetryOn::default() });
        assert!(of_http.asks_for_another(Ended::Call(503, 0)) && !of_http.asks_for_another(Ended::Call(200, 14)));
    }

    #[test]
    fn what_a_limit_refused_is_sent_again_for_no_condition() {
        let calls = CallStatuses { resource_exhausted: true, unavailable: true, ..CallStatuses::default() };
        let on = RetryOn { reset: true, server_errors: true, gateway_errors: true, statuses: true, calls, ..RetryOn::default() };
        assert!(policy(on).asks_for_another(Ended::Status(429)) && !policy(on).asks_for_another(Ended::Limited));
    }

    #[test]
    fn waits_double_to_their_limit_and_are_never_shorter_than_asked_for() {
        let policy = policy(RetryOn::default());
        let least: Vec<_> = (0..6).map(|before| policy.wait(before, 0).as_millis()).collect();
        assert_eq!(least, [25, 50, 100, 200, 250, 250]);
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            let wait = policy.wait(0, random);
            assert!((25..38).contains(&wait.as_millis()), "{wait:?}");
        }
        let none = RetryPolicy { backoff: Duration::ZERO, max_backoff: Duration::ZERO, ..policy };
        assert_eq!(none.wait(u32::MAX, 7), Duration::ZERO);
    }

    #[test]
    fn a_share_holds_over_time_as_well() {
        assert_eq!(RetryBudget::Share { percent: 20.0, least: None }.earned(), Some(0.05));
        assert_eq!(RetryBudget::Count(3).earned(), None);
        for (least, expected) in [(None, 10.0), (Some(0), 1.0), (Some(3), 3.0), (Some(20), 20.0)] {
            assert_eq!(RetryBudget::Share { percent: 20.0, least }.a_second(), expected);
        }
        assert!(Ended::Unreached.unseen() && !Ended::Reset.unseen() && !Ended::Status(503).unseen());
    }

    #[test]
    fn a_budget_is_a_number_or_a_share_with_a_floor() {
        assert!(RetryBudget::Count(2).allows(0, 1) && !RetryBudget::Count(2).allows(1000, 2));
        for least in [None, Some(3)] {
            let share = RetryBudget::Share { percent: 20.0, least };
            assert!(share.allows(1, 2) && !share.allows(1, 3));
            assert!(share.allows(100, 19) && !share.allows(100, 20));
        }
        let none_in_any_case = RetryBudget::Share { percent: 20.0, least: Some(0) };
        assert!(!none_in_any_case.allows(4, 0) && none_in_any_case.allows(5, 0));
    }
}

//! How long a connection that the kernel carries has carried nothing.

use std::time::{Duration, Instant};

use ambit_model::{Reason, Refusal};

use crate::config::Limits;

/// What was seen of a connection, as far as it tells how long it has been quiet.
#[derive(Debug)]
pub(super) struct Quiet {
    /// When it was last seen that it had carried something, or that one side had ended.
    since: Instant,
    half_open: bool,
}

impl Quiet {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, half_open: false }
    }

    /// It has carried something since it was last looked at.
    pub(super) fn carried(&mut self, now: Instant) {
        self.since = now;
    }

    /// One side has ended, and the other not yet.
    pub(super) fn half_open(&mut self, now: Instant) {
        if !self.half_open {
            *self = Self { since: now, half_open: true };
        }
    }

    fn limit(&self, limits: &Limits) -> Duration {
        if self.half_open { limits.half_open.min(limits.idle) } else { limits.idle }
    }

    /// The longest pause between two looks at it.
    pub(super) fn pause(&self, limits: &Limits) -> Duration {
        self.limit(limits) / 4
    }

    /// Why it is to be ended `now`.
    pub(super) fn for_too_long(&self, limits: &Limits, now: Instant) -> Option<Refusal> {
        let reason = if self.half_open { Reason::HalfOpenTimeout } else { Reason::IdleTimeout };
        (now.saturating_duration_since(self.since) >= self.limit(limits)).then(|| Refusal::new(reason, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_something_now_and_then_goes_on_and_one_half_of_a_connection_waits_less_long() {
        let limits = Limits { idle: Duration::from_secs(40), half_open: Duration::from_secs(8), ..Limits::default() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = Quiet::new(start);
        let reason = |quiet: &Quiet, seconds| quiet.for_too_long(&limits, at(seconds)).map(|refusal| refusal.reason);
        assert_eq!((reason(&quiet, 39), reason(&quiet, 40)), (None, Some(Reason::IdleTimeout)));
        quiet.carried(at(30));
        assert_eq!((reason(&quiet, 69), quiet.pause(&limits)), (None, Duration::from_secs(10)));
        quiet.half_open(at(60));
        quiet.half_open(at(67));
        assert_eq!((reason(&quiet, 67), reason(&quiet, 68)), (None, Some(Reason::HalfOpenTimeout)));
        assert_eq!(quiet.pause(&limits), Duration::from_secs(2));
        quiet.carried(at(68));
        assert_eq!(reason(&quiet, 75), None, "what the other side still sends counts");
    }
}

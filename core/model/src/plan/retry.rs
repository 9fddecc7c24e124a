//! Whether a connection whose endpoint did not take it is tried on another one.
//!
//! Only where no byte of it can have been processed, only when the endpoint was away and did not refuse, and only as often as a budget
//! allows: when a whole service is away, its clients must not meet it with several times the load.

use std::time::{Duration, Instant};

use super::Hop;
use crate::reason::Reason;

/// Whether an endpoint was away: another one may do better, and this one is to be held responsible. `hop` is what was dialled over HBONE.
///
/// A waypoint that answers has tried by itself; only one that does not answer is replaced by another replica. What a peer refuses for a
/// policy, or because of who we are, is final: another replica would have to refuse it too, and one that does not must not be looked for.
pub(super) const fn is_away(reason: Reason, hop: Option<Hop>) -> bool {
    match reason {
        Reason::WaypointUnreachable
        | Reason::TunnelFailed
        | Reason::TlsHandshakeTimeout
        | Reason::Draining
        // The address belongs to somebody else by now.
        | Reason::PeerIdentityMismatch => true,
        Reason::UpstreamRefused | Reason::UpstreamTimeout | Reason::UpstreamUnreachable | Reason::DestinationUnknown => {
            !matches!(hop, Some(Hop::Waypoint))
        }
        _ => false,
    }
}

/// Retries per second that are always allowed, so that a service with few connections is retried at all.
const RESERVE: u64 = 10;
/// One retry for so many connections.
const SHARE: u64 = 5;
/// Retries that can be saved up.
const MOST: u64 = 100;

/// How many connections of one service may be tried again: one in five and ten a second, and what was saved up of that.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// What is left, in [`SHARE`]ths of a retry.
    left: u64,
    /// Until when the reserve was paid in.
    paid: Instant,
}

impl Budget {
    /// A budget as it is when all is well for some time: full.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { left: MOST * SHARE, paid: now }
    }

    /// A connection is tried for the first time. Whether the budget is full now: then it is as good as a new one and can be forgotten.
    pub fn connection(&mut self, now: Instant) -> bool {
        self.pay_in(now);
        self.left = (self.left + 1).min(MOST * SHARE);
        self.left == MOST * SHARE
    }

    /// Whether a connection may be tried again now; if so, that is paid for.
    pub fn retry(&mut self, now: Instant) -> bool {
        self.pay_in(now);
        let allowed = self.left >= SHARE;
        if allowed {
            self.left -= SHARE;
        }
        allowed
    }

    fn pay_in(&mut self, now: Instant) {
        const UNIT: Duration = Duration::from_millis(1000 / (RESERVE * SHARE));
        let units = now.saturating_duration_since(self.paid).as_millis() / UNIT.as_millis();
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        if units > 0 {
            self.paid = now;
            self.left = self.left.saturating_add(units).min(MOST * SHARE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_met_with_a_fifth_more_connects_and_a_service_with_few_connections_is_retried() {
        let begun = Instant::now();
        let mut budget = Budget::new(begun);
        let mut retries = 0;
        for number in 0..10_000_u64 {
            // A thousand connections a second, each of which would be tried twice again.
            let now = begun + Duration::from_millis(number);
            budget.connection(now);
            retries += u64::from(budget.retry(now)) + u64::from(budget.retry(now));
        }
        assert!((2000..=2000 + MOST + RESERVE * 11).contains(&retries), "{retries}");
        let mut quiet = Budget::new(begun);
        for second in 1..100 {
            let now = begun + Duration::from_secs(second);
            quiet.connection(now);
            assert!((0..RESERVE).all(|_| quiet.retry(now)));
        }
    }

    #[test]
    fn what_is_saved_up_is_bounded_and_a_budget_of_which_nothing_is_used_is_as_a_new_one() {
        let begun = Instant::now();
        let mut budget = Budget::new(begun);
        assert!((0..1_000_000).all(|_| budget.connection(begun)));
        assert_eq!((0..1000).filter(|_| budget.retry(begun)).count(), MOST as usize);
        assert!(!budget.connection(begun));
        assert!(budget.connection(begun + Duration::from_secs(MOST / RESERVE)));
    }

    #[test]
    fn a_refusal_is_final_and_an_absence_is_not() {
        for hop in [None, Some(Hop::Endpoint), Some(Hop::Waypoint)] {
            for reason in Reason::ALL.iter().copied().filter(|reason| reason.is_policy()) {
                assert!(!is_away(reason, hop), "{reason}");
            }
            for reason in [Reason::TlsHandshakeFailed, Reason::PeerUntrusted, Reason::ClientReset, Reason::ConnectionLimit] {
                assert!(!is_away(reason, hop), "{reason}");
            }
            assert!(is_away(Reason::TunnelFailed, hop) && is_away(Reason::PeerIdentityMismatch, hop));
        }
        assert!(is_away(Reason::UpstreamRefused, Some(Hop::Endpoint)) && is_away(Reason::UpstreamRefused, None));
        // The waypoint is well: what it stands for is not.
        assert!(!is_away(Reason::UpstreamRefused, Some(Hop::Waypoint)));
    }
}

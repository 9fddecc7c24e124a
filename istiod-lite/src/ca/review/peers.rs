//! How many questions to the API server one address may be the cause of. Pure: the time is given.

use std::{collections::HashMap, net::IpAddr};

use tokio::time::Instant;

use crate::ca::limits::{Bucket, Rate, make_room};

/// Much more than the proxies of a large node need, which have a token each for an hour; a cluster behind one address gets along with it.
const RATE: Rate = Rate { burst: 1000.0, per_second: 100.0 };
/// Addresses that are remembered.
const MOST: usize = 20_000;

/// Whoever sends tokens that nobody knows must not keep others from being asked about, nor the API server from its work.
#[derive(Debug, Default)]
pub(super) struct Peers(HashMap<IpAddr, Bucket>);

impl Peers {
    /// Counts one question, if there may be one more.
    pub fn may_ask(&mut self, peer: IpAddr, now: Instant) -> bool {
        make_room(&mut self.0, &peer, MOST, now);
        let bucket = self.0.entry(peer).or_insert_with(|| Bucket::full(RATE, now));
        let may = bucket.wait(now).is_zero();
        if may {
            bucket.take(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_address_that_asks_without_end_does_not_count_for_another() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let (greedy, other) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert_eq!((0..5000).filter(|_| peers.may_ask(greedy, now)).count(), 1000);
        assert!(peers.may_ask(other, now));
        assert_eq!((0..5000).filter(|_| peers.may_ask(greedy, now + Duration::from_secs(2))).count(), 200);
    }
}

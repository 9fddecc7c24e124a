//! How much of its requests a cluster sends to each of its priorities.

use super::{Locality, Standing};

/// In a hundred: as if a priority had so many more endpoints than it has, so that it takes all of its load while some of them are away.
pub const OVERPROVISIONING: u32 = 140;
/// In a hundred: with fewer endpoints to use than this, all of a priority's are used.
pub const PANIC_THRESHOLD: u32 = 50;

/// The endpoints of a priority, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub all: usize,
    /// Those that are healthy.
    pub healthy: usize,
    /// Those that are degraded.
    pub degraded: usize,
}

/// What a priority is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// In a hundred requests, those to its healthy endpoints.
    pub healthy: u32,
    /// In a hundred requests, those to its degraded endpoints.
    pub degraded: u32,
    /// Too few of its endpoints can be used: all of them are.
    pub panic: bool,
}

impl Counts {
    pub(super) fn of<T>(localities: &[&Locality<T>]) -> Self {
        let mut counts = Self::default();
        for member in localities.iter().flat_map(|locality| &locality.members) {
            counts.all += 1;
            match member.standing {
                Standing::Healthy => counts.healthy += 1,
                Standing::Degraded => counts.degraded += 1,
                Standing::Unhealthy => {}
            }
        }
        counts
    }

    fn panics(self, threshold: u32) -> bool {
        match self.all {
            0 => threshold > 0,
            all => 100 * (self.healthy + self.degraded) < all.saturating_mul(threshold as usize),
        }
    }
}

/// The shares of the priorities, the first of which comes first: each takes as much as it can bear, and what is left goes to the next one.
/// Of a hundred requests all are sent somewhere. `factor` and `threshold` are in a hundred, see [`OVERPROVISIONING`] and
/// [`PANIC_THRESHOLD`]. Envoy, "Priority levels" and "Panic threshold" of its architecture overview.
#[must_use]
pub fn shares(levels: &[Counts], factor: u32, threshold: u32) -> Vec<Share> {
    let can_bear = |part: usize, all: usize| part.saturating_mul(factor as usize).checked_div(all).unwrap_or(0).min(100);
    let healthy: Vec<_> = levels.iter().map(|level| can_bear(level.healthy, level.all)).collect();
    let degraded: Vec<_> = levels.iter().map(|level| can_bear(level.degraded, level.all)).collect();
    let total = healthy.iter().chain(&degraded).sum::<usize>().min(100);
    // As long as all of the load can be borne, nobody panics: a priority with few endpoints left is sent little.
    let panics: Vec<_> = levels.iter().map(|level| total < 100 && level.panics(threshold)).collect();
    if panics.iter().all(|panics| *panics) {
        return by_size(levels);
    }
    let mut left = 100;
    let mut take = |can_bear: &usize| {
        let load = (can_bear * 100).checked_div(total).unwrap_or(0).min(left);
        left -= load;
        load as u32
    };
    let healthy: Vec<_> = healthy.iter().map(&mut take).collect();
    let degraded: Vec<_> = degraded.iter().map(&mut take).collect();
    let mut shares: Vec<_> = std::iter::zip(healthy, degraded)
        .zip(panics)
        .map(|((healthy, degraded), panic)| Share { healthy, degraded, panic })
        .collect();
    // What was lost by rounding; all of it, where nothing can be used and nobody is to panic.
    let left = left as u32;
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    } else if let Some(share) = shares.iter_mut().find(|share| share.degraded > 0) {
        share.degraded += left;
    } else if let Some(share) = shares.first_mut() {
        share.healthy = left;
    }
    shares
}

/// All of them panic: each is sent as much as it has endpoints, whether these are healthy or not.
fn by_size(levels: &[Counts]) -> Vec<Share> {
    let total: usize = levels.iter().map(|level| level.all).sum();
    let load = |level: &Counts| (100 * level.all).checked_div(total).unwrap_or(0) as u32;
    let mut shares: Vec<_> = levels.iter().map(|level| Share { healthy: load(level), degraded: 0, panic: true }).collect();
    let left = 100_u32.saturating_sub(shares.iter().map(|share| share.healthy).sum());
    let first = levels.iter().position(|level| level.all > 0).unwrap_or(0);
    if let Some(share) = shares.get_mut(first) {
        share.healthy += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels as `(all, healthy, degraded)`, and what each is sent as `(healthy, degraded, panic)`.
    fn check(levels: &[(usize, usize, usize)], threshold: u32, expected: &[(u32, u32, bool)]) {
        let counts: Vec<_> = levels.iter().map(|&(all, healthy, degraded)| Counts { all, healthy, degraded }).collect();
        let got: Vec<_> = shares(&counts, OVERPROVISIONING, threshold)
            .iter()
            .map(|share| (share.healthy, share.degraded, share.panic))
            .collect();
        assert_eq!(got, expected, "{levels:?} at {threshold}");
        assert!(got.is_empty() || got.iter().map(|(healthy, degraded, _)| healthy + degraded).sum::<u32>() == 100, "{got:?}");
    }

    #[test]
    fn a_priority_takes_all_while_seven_in_ten_of_it_are_healthy_and_then_the_next_one_takes_the_rest() {
        check(&[], 50, &[]);
        check(&[(10, 10, 0), (10, 10, 0)], 50, &[(100, 0, false), (0, 0, false)]);
        // 72 in a hundred are enough by the factor of 140.
        check(&[(100, 72, 0), (100, 100, 0)], 50, &[(100, 0, false), (0, 0, false)]);
        check(&[(100, 71, 0), (100, 100, 0)], 50, &[(99, 0, false), (1, 0, false)]);
        check(&[(10, 5, 0), (10, 10, 0)], 50, &[(70, 0, false), (30, 0, false)]);
        check(&[(4, 1, 0), (4, 1, 0), (10, 10, 0)], 50, &[(35, 0, false), (35, 0, false), (30, 0, false)]);
        check(&[(10, 0, 0), (10, 10, 0)], 50, &[(0, 0, false), (100, 0, false)]);
        check(&[(0, 0, 0), (3, 3, 0)], 50, &[(0, 0, false), (100, 0, false)]);
    }

    #[test]
    fn where_all_together_bear_less_than_the_load_it_is_shared_by_what_each_bears() {
        // 70 and 14 of 84.
        check(&[(10, 5, 0), (10, 1, 0)], 0, &[(84, 0, false), (16, 0, false)]);
        check(&[(10, 5, 0), (10, 1, 0)], 50, &[(84, 0, false), (16, 0, true)]);
        check(&[(2, 1, 0)], 50, &[(100, 0, false)]);
    }

    #[test]
    fn a_priority_panics_below_the_threshold_and_with_all_in_panic_each_takes_by_its_size() {
        check(&[(3, 1, 0)], 50, &[(100, 0, true)]);
        check(&[(3, 1, 0)], 33, &[(100, 0, false)]);
        check(&[(3, 0, 0)], 50, &[(100, 0, true)]);
        check(&[(10, 2, 0), (30, 3, 0)], 50, &[(25, 0, true), (75, 0, true)]);
        check(&[(0, 0, 0), (3, 0, 0), (3, 0, 0)], 50, &[(0, 0, true), (50, 0, true), (50, 0, true)]);
        check(&[(1, 0, 0), (2, 0, 0)], 50, &[(34, 0, true), (66, 0, true)]);
        check(&[(0, 0, 0)], 50, &[(100, 0, true)]);
    }

    #[test]
    fn with_the_threshold_at_nothing_nobody_panics() {
        check(&[(3, 1, 0)], 0, &[(100, 0, false)]);
        check(&[(3, 0, 0), (3, 0, 0)], 0, &[(100, 0, false), (0, 0, false)]);
    }

    #[test]
    fn degraded_endpoints_take_what_the_healthy_ones_of_all_priorities_do_not_bear() {
        check(&[(10, 10, 0), (10, 0, 10)], 50, &[(100, 0, false), (0, 0, false)]);
        check(&[(10, 5, 5)], 50, &[(70, 30, false)]);
        check(&[(10, 5, 5), (10, 1, 0)], 50, &[(70, 16, false), (14, 0, false)]);
        check(&[(10, 0, 10)], 50, &[(0, 100, false)]);
    }
}

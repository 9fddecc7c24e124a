//! Which of the endpoints that may take a request takes it.

use serde::Serialize;

/// How a cluster's requests are spread over its endpoints (`lb_policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// One after the other, by their weights.
    #[default]
    RoundRobin,
    /// Any, whatever their weights (so does Envoy).
    Random,
    /// Of so many at random the one with the fewest requests under way. Where weights differ: at random by weight, divided by the requests
    /// under way and one.
    LeastRequest {
        /// How many are looked at.
        choices: u32,
    },
}

impl Policy {
    /// Which endpoint takes a request, as the beginning of a sentence.
    #[must_use]
    pub fn in_words(self) -> String {
        match self {
            Self::RoundRobin => "requests go round by weight".to_owned(),
            Self::Random => "requests go to any at random, whatever its weight".to_owned(),
            Self::LeastRequest { choices } => format!(
                "requests go to the one of {choices} at random with the fewest under way; where weights differ, at random by weight and load"
            ),
        }
    }
}

/// Endpoints among which the policy chooses.
#[derive(Debug, Clone)]
pub struct Group<T> {
    items: Vec<T>,
    /// The sums of the weights up to each of them, where these differ.
    sums: Option<Vec<u64>>,
}

/// A number for a further choice, made of a random one.
pub(super) fn mixed(random: u64) -> u64 {
    // SplitMix64: neighbours become far apart.
    let mut mixed = random.wrapping_add(GOLDEN);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The golden ratio's part of the whole range: its multiples are spread evenly however many there are.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A point of `0..most`, where `point` is in its own whole range.
fn scaled(point: u64, most: u64) -> u64 {
    ((u128::from(point) * u128::from(most)) >> 64) as u64
}

impl<T> Group<T> {
    /// The endpoints, each with its weight.
    pub(super) fn new(members: impl Iterator<Item = (T, u64)>) -> Self {
        let (items, weights): (Vec<_>, Vec<_>) = members.unzip();
        let uniform = weights.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
        let sums = weights.iter().scan(0_u64, |sum, weight| {
            *sum = sum.saturating_add(*weight);
            Some(*sum)
        });
        let sums = (!uniform).then(|| sums.collect());
        Self { items, sums }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The place of the one that takes a request. `turn` rises by one with each request, `random` is spread over its whole range, `active`
    /// says how many requests are under way with one. Allocates nothing.
    #[must_use]
    pub fn first(&self, policy: Policy, turn: usize, random: u64, active: impl Fn(&T) -> usize) -> usize {
        let any = |random| scaled(random, self.items.len() as u64) as usize;
        match (policy, &self.sums) {
            (Policy::RoundRobin, None) => turn.checked_rem(self.items.len()).unwrap_or(0),
            (Policy::RoundRobin, Some(sums)) => {
                let point = scaled((turn as u64).wrapping_mul(GOLDEN), sums.last().copied().unwrap_or(0));
                sums.partition_point(|sum| *sum <= point)
            }
            (Policy::Random, _) => any(random),
            (Policy::LeastRequest { choices }, None) => {
                let mut next = random;
                let looked_at = (0..choices.max(1)).map(|_| {
                    next = mixed(next);
                    any(next)
                });
                looked_at.min_by_key(|place| self.items.get(*place).map_or(usize::MAX, &active)).unwrap_or(0)
            }
            (Policy::LeastRequest { .. }, Some(sums)) => self.least(sums, random, active),
        }
    }

    fn least(&self, sums: &[u64], random: u64, active: impl Fn(&T) -> usize) -> usize {
        let shares = || {
            let mut before = 0;
            std::iter::zip(&self.items, sums).map(move |(item, sum)| {
                let weight = sum - std::mem::replace(&mut before, *sum);
                (item, weight as f64)
            })
        };
        let share = |(item, weight): (&T, f64)| weight / (active(item) as f64 + 1.0);
        let mut point = shares().map(share).sum::<f64>() * (random as f64 / u64::MAX as f64);
        let place = shares().map(share).position(|share| {
            point -= share;
            point < 0.0
        });
        // What is under way changes while this is added up.
        place.unwrap_or(self.items.len().saturating_sub(1))
    }

    /// All of them in the order to try them: the one at `first`, then those after it.
    pub fn order(&self, first: usize) -> impl Iterator<Item = &T> {
        self.items.iter().cycle().skip(first).take(self.items.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Policy = Policy::LeastRequest { choices: 2 };

    fn group(weights: &[u32]) -> Group<usize> {
        Group::new(weights.iter().map(|weight| u64::from(*weight)).enumerate())
    }

    /// How often each was chosen in `times` requests.
    fn chosen(group: &Group<usize>, policy: Policy, times: usize, active: impl Fn(&usize) -> usize) -> Vec<usize> {
        let mut counts = vec![0; group.len()];
        for turn in 0..times {
            counts[group.first(policy, turn, mixed(turn as u64), &active)] += 1;
        }
        counts
    }

    #[test]
    fn requests_go_round_and_the_next_in_line_is_tried_after_a_failure() {
        let group = group(&[1, 1, 1]);
        let places: Vec<_> = (0..5).map(|turn| group.first(Policy::RoundRobin, turn, 9, |_| 0)).collect();
        assert_eq!(places, [0, 1, 2, 0, 1]);
        assert_eq!(group.order(2).copied().collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn weights_share_first_tries() {
        for (weights, expected) in [(vec![3, 1], vec![3000, 1000]), (vec![1, 2, 5], vec![500, 1000, 2500])] {
            let got = chosen(&group(&weights), Policy::RoundRobin, 4000, |_| 0);
            for (got, expected) in std::iter::zip(&got, &expected) {
                assert!(got.abs_diff(*expected) <= 8, "{weights:?}: {got} where {expected} are due");
            }
        }
        // Also in a few.
        let few = chosen(&group(&[3, 1]), Policy::RoundRobin, 8, |_| 0);
        assert!((1..=3).contains(&few[1]), "{few:?}");
    }

    #[test]
    fn at_random_each_is_as_likely_as_another_whatever_its_weight() {
        for got in chosen(&group(&[9, 1, 1, 1]), Policy::Random, 40_000, |_| 0) {
            assert!(got.abs_diff(10_000) < 500, "{got}");
        }
    }

    #[test]
    fn of_two_the_one_with_fewer_requests_under_way_is_chosen() {
        let busy = |place: &usize| if *place == 0 { 7 } else { 0 };
        // Chosen only when it is both of the two.
        let got = chosen(&group(&[1, 1, 1, 1]), LEAST, 16_000, busy);
        assert!(got[0].abs_diff(1000) < 200, "{got:?}");
        let got = chosen(&group(&[1, 1]), Policy::LeastRequest { choices: 30 }, 1000, busy);
        assert_eq!(got, [0, 1000]);
        let idle = chosen(&group(&[1, 1, 1, 1]), LEAST, 16_000, |_| 3);
        assert!(idle.iter().all(|got| got.abs_diff(4000) < 400), "{idle:?}");
    }

    #[test]
    fn with_weights_the_least_loaded_for_its_weight_is_likelier() {
        let got = chosen(&group(&[3, 1]), LEAST, 40_000, |_| 0);
        assert!(got[0].abs_diff(30_000) < 600, "{got:?}");
        // 3 in 6 to 1 in 1: a third of them.
        let got = chosen(&group(&[3, 1]), LEAST, 40_000, |place| if *place == 0 { 5 } else { 0 });
        assert!(got[0].abs_diff(13_333) < 600, "{got:?}");
    }

    #[test]
    fn among_none_there_is_none() {
        for policy in [Policy::RoundRobin, Policy::Random, LEAST] {
            let none = group(&[]);
            assert_eq!(none.order(none.first(policy, 7, 7, |_| 0)).count(), 0);
            assert_eq!(group(&[5]).first(policy, 7, u64::MAX, |_| 0), 0);
        }
        assert!(group(&[2, 3]).first(LEAST, 0, u64::MAX, |_| 0) < 2);
    }
}

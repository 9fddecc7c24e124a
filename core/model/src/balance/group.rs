//! Which of the endpoints that may take a request takes it.

use std::sync::Arc;

use serde::Serialize;

use super::{Hashing, table::Table};

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
    /// Of two at random the one that answers sooner, by what is under way there; by weight where weights differ.
    PeakEwma,
    /// The one that the hash of the request leads to.
    Hash(Hashing),
}

impl Policy {
    /// Which endpoint takes a request, as the beginning of a sentence.
    #[must_use]
    pub fn in_words(self) -> String {
        match self {
            Self::Hash(hashing) => hashing.in_words(),
            Self::PeakEwma => {
                "requests go to the one of two at random with the lower latency times requests under way".to_owned()
            }
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
    /// Where hashes lead to them.
    table: Option<Arc<Table>>,
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
        Self { items, sums, table: None }
    }

    /// The endpoints, each with its key and its share, for hashes to lead to. In whatever order they come: it is the same for all who are told of
    /// the same endpoints.
    pub(super) fn hashed(mut members: Vec<(String, T, f64)>, hashing: Hashing) -> Self {
        members.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let total: f64 = members.iter().map(|(_, _, share)| share).sum();
        let (mut items, mut keys) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
        for (key, item, share) in members {
            keys.push((key, share / total));
            items.push(item);
        }
        Self { items, sums: None, table: Some(Arc::new(hashing.table(&keys))) }
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
            (Policy::RoundRobin, Some(sums)) => by_weight(sums, (turn as u64).wrapping_mul(GOLDEN)),
            (Policy::Random | Policy::Hash(_), _) | (Policy::PeakEwma, None) => any(random),
            (Policy::PeakEwma, Some(sums)) => by_weight(sums, random),
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

    /// The place of the one of two at random that costs less.
    #[must_use]
    pub fn cheaper(&self, random: u64, cost: impl Fn(&T) -> f64) -> usize {
        let drawn = |random| self.first(Policy::PeakEwma, 0, random, |_| 0);
        let (one, mut other) = (drawn(random), drawn(mixed(random)));
        if one == other && self.sums.is_none() {
            // Two of them, and not the same one twice, which would be no choice. Where weights differ it is that one's weight.
            other = (other + 1).checked_rem(self.items.len()).unwrap_or(0);
        }
        let cost = |place: usize| self.items.get(place).map_or(f64::INFINITY, &cost);
        if cost(other) < cost(one) { other } else { one }
    }

    /// The places of the endpoints that a hash leads to, the one that takes it first, without those that have `failed` at it; none where hashes
    /// lead nowhere.
    #[must_use]
    pub fn near(&self, hash: u64, failed: impl Fn(&T) -> bool) -> Vec<usize> {
        let Some(table) = &self.table else { return Vec::new() };
        let mut near = table.near(hash);
        let first = near.first().copied().unwrap_or(0);
        let left = |place: &usize| self.items.get(*place).is_some_and(|item| !failed(item));
        near.retain(left);
        if near.is_empty() {
            near.extend(self.round(first).find(left));
        }
        near
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

    /// The same after those at the places `near`.
    pub fn order_after(&self, near: Vec<usize>, first: usize) -> impl Iterator<Item = &T> {
        let before = near.clone();
        let rest = self.round(first).filter(move |place| !before.contains(place));
        near.into_iter().chain(rest).filter_map(move |place| self.items.get(place))
    }

    /// All places from one on.
    fn round(&self, first: usize) -> impl Iterator<Item = usize> + use<T> {
        let all = self.items.len();
        (first.min(all)..all).chain(0..first.min(all))
    }
}

/// The place that a number leads to, by weights whose sums these are.
fn by_weight(sums: &[u64], random: u64) -> usize {
    let point = scaled(random, sums.last().copied().unwrap_or(0));
    sums.partition_point(|sum| *sum <= point)
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
    fn of_two_the_cheaper_one_is_chosen_and_weights_say_how_often_one_is_looked_at() {
        let cost = |place: &usize| if *place == 0 { 5.0 } else { 1.0 };
        let chosen = |group: &Group<usize>, cost: &dyn Fn(&usize) -> f64| {
            let mut counts = vec![0_usize; group.len()];
            (0..40_000).for_each(|turn| counts[group.cheaper(mixed(turn), cost)] += 1);
            counts
        };
        assert_eq!(chosen(&group(&[1, 1]), &cost), [0, 40_000], "never twice the same");
        assert_eq!(chosen(&group(&[1, 1, 1]), &cost)[0], 0);
        let even = chosen(&group(&[3, 1]), &|_| 1.0);
        assert!(even[0].abs_diff(30_000) < 800, "{even:?}");
        // Both of them that one: 9 in 16.
        let weighted = chosen(&group(&[3, 1]), &cost);
        assert!(weighted[0].abs_diff(22_500) < 800, "{weighted:?}");
        assert_eq!(group(&[1]).cheaper(7, cost), 0);
        assert_eq!(group(&[]).cheaper(7, cost), 0);
    }

    #[test]
    fn a_hash_leads_to_another_endpoint_only_when_its_own_has_failed() {
        for hashing in [Hashing::Ring { least: 1024, most: 4096 }, Hashing::Maglev { size: 251 }] {
            let of = |places: &[usize]| {
                Group::hashed(places.iter().map(|place| (format!("10.0.0.{place}:80"), *place, 1.0)).collect(), hashing)
            };
            let (group, other) = (of(&[1, 2, 3, 4]), of(&[4, 2, 3, 1]));
            for hash in (0..100).map(mixed) {
                let order = |group: &Group<usize>, failed: &[usize]| {
                    let near = group.near(hash, |item| failed.contains(item));
                    let first = near.first().copied().unwrap_or(0);
                    group.order_after(near, first).copied().collect::<Vec<_>>()
                };
                let all = order(&group, &[]);
                assert_eq!(all.len(), 4, "each of them once: {all:?}");
                assert_eq!(all, order(&other, &[]), "in whatever order they were delivered");
                assert_eq!(order(&group, &all[..1])[0], all[1]);
                assert_eq!(order(&group, &all[..3])[0], all[3]);
                assert_eq!(order(&group, &all).len(), 4, "those that have failed are better than none");
            }
        }
        assert!(group(&[1, 1]).near(7, |_| false).is_empty());
    }

    #[test]
    fn among_none_there_is_none() {
        for policy in [Policy::RoundRobin, Policy::Random, LEAST, Policy::PeakEwma] {
            let none = group(&[]);
            assert_eq!(none.order(none.first(policy, 7, 7, |_| 0)).count(), 0);
            assert_eq!(group(&[5]).first(policy, 7, u64::MAX, |_| 0), 0);
        }
        assert!(group(&[2, 3]).first(LEAST, 0, u64::MAX, |_| 0) < 2);
    }
}

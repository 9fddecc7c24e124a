//! The endpoints of a cluster, sorted out by priority, locality and health: what a request chooses from.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Counts, Group, Hashing, PANIC_THRESHOLD, Policy, SlowStart, Warmth, group::mixed, shares::shares};

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It does.
    #[default]
    Healthy,
    /// Only those that the healthy ones do not bear.
    Degraded,
    /// It does not, unless so few do that all are tried.
    Unhealthy,
}

/// An endpoint.
#[derive(Debug, Clone)]
pub struct Member<T> {
    /// What is chosen.
    pub item: T,
    /// Its share among the others, at least 1.
    pub weight: u32,
    /// Whether it takes requests.
    pub standing: Standing,
    /// How much of its weight it has now.
    pub warmth: Warmth,
}

/// Endpoints of one place and priority.
#[derive(Debug, Clone)]
pub struct Locality<T> {
    /// 0 is tried first.
    pub priority: u32,
    /// Its share among the localities of its priority.
    pub weight: u32,
    /// Its endpoints.
    pub members: Vec<Member<T>>,
}

/// How a cluster's requests are spread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rules {
    /// Which endpoint.
    pub policy: Policy,
    /// In a hundred: with fewer endpoints to use than this, all of a priority's are used.
    pub panic_threshold: u32,
    /// Localities have shares of their own (`locality_weighted_lb_config`).
    pub by_locality: bool,
    /// Endpoints have their share only by and by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
}

impl Default for Rules {
    /// What Envoy does where nothing is said.
    fn default() -> Self {
        Self { policy: Policy::default(), panic_threshold: PANIC_THRESHOLD, by_locality: false, slow_start: None }
    }
}

/// What requests are spread over, at one moment.
#[derive(Debug, Clone)]
pub struct Spread<T> {
    parts: Vec<Part<T>>,
}

/// The healthy or the degraded endpoints of a priority.
#[derive(Debug, Clone)]
struct Part<T> {
    /// In a hundred requests.
    load: u32,
    /// Each with the sum of the weights up to it.
    groups: Vec<(Group<T>, f64)>,
}

impl<T> Default for Spread<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T: Clone> Spread<T> {
    /// Sorts out the endpoints; `factor` is how much more a priority bears than it has endpoints, in a hundred.
    #[must_use]
    pub fn new(localities: &[Locality<T>], rules: &Rules, factor: u32) -> Self {
        Self::by_key(localities, rules, factor, |_| String::new())
    }

    /// The same where hashes may lead to the endpoints, each of which has a `key` that is its own.
    #[must_use]
    pub fn by_key(localities: &[Locality<T>], rules: &Rules, factor: u32, key: impl Fn(&T) -> String) -> Self {
        let mut levels: BTreeMap<u32, Vec<&Locality<T>>> = BTreeMap::new();
        for locality in localities {
            levels.entry(locality.priority).or_default().push(locality);
        }
        let counts: Vec<_> = levels.values().map(|level| Counts::of(level)).collect();
        let shares = shares(&counts, factor, rules.panic_threshold);
        let by = rules.by_locality.then_some(factor);
        let (mut parts, mut degraded) = (Vec::new(), Vec::new());
        for (level, share) in levels.values().zip(shares) {
            if let Policy::Hash(hashing) = rules.policy {
                // A table takes its time.
                if share.healthy + share.degraded > 0 {
                    let may = |standing: Standing| share.panic || standing == Standing::Healthy;
                    let groups = vec![(hashed(level, hashing, rules.by_locality, &key, may), 1.0)];
                    parts.push(Part { load: share.healthy, groups: groups.clone() });
                    // What the healthy ones do not bear goes to them all the same (so does Envoy).
                    degraded.push(Part { load: share.degraded, groups });
                }
                continue;
            }
            if share.panic {
                parts.push(Part::new(level, share.healthy + share.degraded, None, |_| true));
                continue;
            }
            parts.push(Part::new(level, share.healthy, by, |standing| standing == Standing::Healthy));
            degraded.push(Part::new(level, share.degraded, by, |standing| standing == Standing::Degraded));
        }
        parts.append(&mut degraded);
        parts.retain(|part| part.load > 0);
        Self { parts }
    }
}

impl<T> Spread<T> {
    /// The endpoints from which the policy chooses for a request; `random` is spread over its whole range. Allocates nothing. `None`, or an
    /// empty group, when no endpoint may be used.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Group<T>> {
        let mut point = (random % 100) as u32;
        let chosen = self.parts.iter().find(|part| match point.checked_sub(part.load) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        });
        chosen?.group(random)
    }

    /// All that may be chosen.
    pub fn members(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| &part.groups).flat_map(|(group, _)| group.order(0))
    }
}

/// The endpoints of a priority that `may` take requests, for hashes to lead to: all in one table, with the weights of their localities where
/// these have shares of their own.
fn hashed<T: Clone>(
    level: &[&Locality<T>],
    hashing: Hashing,
    by_locality: bool,
    key: &impl Fn(&T) -> String,
    may: impl Fn(Standing) -> bool,
) -> Group<T> {
    let by_locality = by_locality && level.iter().any(|locality| locality.weight > 0);
    let mut members = Vec::new();
    for locality in level {
        let usable: Vec<&Member<T>> = locality.members.iter().filter(|member| may(member.standing)).collect();
        let sum: f64 = usable.iter().map(|member| f64::from(member.weight)).sum();
        let share = if by_locality { f64::from(locality.weight) / sum } else { 1.0 };
        if share > 0.0 {
            let member = |member: &Member<T>| (key(&member.item), member.item.clone(), f64::from(member.weight) * share);
            members.extend(usable.into_iter().map(member));
        }
    }
    Group::hashed(members, hashing)
}

impl<T: Clone> Part<T> {
    /// The endpoints of these localities that `may` take requests; by locality where `factor` is given.
    fn new(localities: &[&Locality<T>], load: u32, factor: Option<u32>, may: impl Fn(Standing) -> bool) -> Self {
        let group = |localities: &[&Locality<T>]| {
            let members = localities.iter().flat_map(|locality| &locality.members).filter(|member| may(member.standing));
            Group::new(members.map(|member| (member.item.clone(), member.warmth.of(member.weight))))
        };
        let mut groups = Vec::new();
        let mut sum = 0.0;
        for locality in localities.iter().filter(|locality| factor.is_some() && locality.weight > 0) {
            let group = group(&[*locality]);
            if !group.is_empty() {
                // What a locality lacks beyond what it bears its share loses.
                let there = group.len() as f64 / locality.members.len() as f64;
                sum += f64::from(locality.weight) * (there * f64::from(factor.unwrap_or(100)) / 100.0).min(1.0);
                groups.push((group, sum));
            }
        }
        if groups.is_empty() {
            groups.push((group(localities), 1.0));
        }
        Self { load, groups }
    }
}

impl<T> Part<T> {
    fn group(&self, random: u64) -> Option<&Group<T>> {
        if let [(only, _)] = self.groups.as_slice() {
            return Some(only);
        }
        let (last, total) = self.groups.last()?;
        // Not the number that chose the part: its low digits are settled.
        let point = mixed(random) as f64 / u64::MAX as f64 * total;
        Some(self.groups.iter().find(|(_, sum)| point < *sum).map_or(last, |(group, _)| group))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::OVERPROVISIONING;

    const UP: Standing = Standing::Healthy;
    const DOWN: Standing = Standing::Unhealthy;

    /// A locality whose endpoints are called by their place, from `name` on.
    fn locality(priority: u32, weight: u32, name: u32, standings: &[Standing]) -> Locality<u32> {
        let member = |(item, standing): (u32, &Standing)| Member { item, weight: 1, standing: *standing, warmth: Warmth::WHOLE };
        let members = (name..).zip(standings).map(member).collect();
        Locality { priority, weight, members }
    }

    /// How many of 10,000 requests each endpoint takes.
    fn taken(localities: &[Locality<u32>], rules: &Rules) -> BTreeMap<u32, u32> {
        let spread = Spread::new(localities, rules, OVERPROVISIONING);
        let mut taken = BTreeMap::new();
        for turn in 0..10_000_usize {
            let random = mixed(turn as u64);
            let group = spread.choose(random).unwrap();
            if let Some(item) = group.order(group.first(rules.policy, turn, random, |_| 0)).next() {
                *taken.entry(*item).or_default() += 1;
            }
        }
        taken
    }

    fn near(taken: &BTreeMap<u32, u32>, expected: &[(u32, u32)]) {
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), expected.iter().map(|(item, _)| *item).collect::<Vec<_>>());
        for (item, count) in expected {
            assert!(taken[item].abs_diff(*count) < 400, "{item}: {taken:?}");
        }
    }

    #[test]
    fn a_later_priority_is_used_when_those_before_it_bear_too_little() {
        let rules = Rules::default();
        near(&taken(&[locality(1, 0, 10, &[UP]), locality(0, 0, 0, &[DOWN, DOWN])], &rules), &[(10, 10_000)]);
        near(&taken(&[locality(0, 0, 0, &[UP, DOWN]), locality(1, 0, 10, &[UP])], &rules), &[(0, 7000), (10, 3000)]);
        near(&taken(&[locality(0, 0, 0, &[UP, UP]), locality(1, 0, 10, &[UP])], &rules), &[(0, 5000), (1, 5000)]);
    }

    #[test]
    fn below_the_threshold_all_are_tried_and_without_one_only_the_healthy() {
        let few = [locality(0, 0, 0, &[UP, DOWN, DOWN])];
        let third = 3333;
        near(&taken(&few, &Rules::default()), &[(0, third), (1, third), (2, third)]);
        let never = Rules { panic_threshold: 0, ..Rules::default() };
        near(&taken(&few, &never), &[(0, 10_000)]);
        assert!(taken(&[locality(0, 0, 0, &[DOWN, DOWN])], &never).is_empty());
        let spread = Spread::<u32>::new(&[], &Rules::default(), OVERPROVISIONING);
        assert!(spread.choose(7).is_none(), "nothing was delivered yet");
        assert_eq!(PANIC_THRESHOLD, 50);
    }

    #[test]
    fn localities_have_shares_only_where_the_cluster_says_so() {
        let both = [locality(0, 3, 0, &[UP]), locality(0, 1, 10, &[UP, UP, UP])];
        near(&taken(&both, &Rules::default()), &[(0, 2500), (10, 2500), (11, 2500), (12, 2500)]);
        let by = Rules { by_locality: true, ..Rules::default() };
        near(&taken(&both, &by), &[(0, 7500), (10, 833), (11, 833), (12, 833)]);
        // One that has lost half of its endpoints bears 70 in a hundred of its share: 0.7 to 1.
        let half = [locality(0, 1, 0, &[UP, DOWN]), locality(0, 1, 10, &[UP, UP])];
        near(&taken(&half, &by), &[(0, 4118), (10, 2941), (11, 2941)]);
        // One without a weight is sent nothing, unless no other is there.
        near(&taken(&[locality(0, 0, 0, &[UP]), locality(0, 2, 10, &[UP])], &by), &[(10, 10_000)]);
        near(&taken(&[locality(0, 0, 0, &[UP])], &by), &[(0, 10_000)]);
    }

    #[test]
    fn an_endpoint_that_warms_up_is_sent_its_part_of_a_share_and_the_others_the_rest() {
        let slow =
            SlowStart { window: Duration::from_secs(10), aggression: 1.0, least_percent: 10.0, new: true, after_ejection: false };
        for policy in [Policy::RoundRobin, Policy::LeastRequest { choices: 2 }] {
            let rules = Rules { policy, ..Rules::default() };
            for (seconds, first) in [(0, 476), (5, 2000), (9, 3103), (10, 3333)] {
                let mut warming = locality(0, 0, 0, &[UP, UP, UP]);
                warming.members[0].warmth = slow.warmth(Duration::from_secs(seconds));
                let rest = (10_000 - first) / 2;
                near(&taken(&[warming], &rules), &[(0, first), (1, rest), (2, rest)]);
            }
        }
    }

    /// Which endpoint each of 1000 hashes leads to.
    fn led(localities: &[Locality<u32>], rules: &Rules) -> Vec<u32> {
        let spread = Spread::by_key(localities, rules, OVERPROVISIONING, |item| format!("10.0.0.{item}:80"));
        let led = |hash| {
            let group = spread.choose(hash).unwrap();
            *group.order_after(group.near(hash, |_| false), 0).next().unwrap()
        };
        (0..1000).map(mixed).map(led).collect()
    }

    #[test]
    fn hashes_lead_to_the_endpoints_that_may_be_used_of_the_priority_that_takes_them() {
        for hashing in [Hashing::Ring { least: 1024, most: 4096 }, Hashing::Maglev { size: 65_537 }] {
            let rules = Rules { policy: Policy::Hash(hashing), ..Rules::default() };
            let all = led(&[locality(0, 0, 0, &[UP, UP, UP, UP])], &rules);
            let one_down = led(&[locality(0, 0, 0, &[UP, UP, UP, DOWN]), locality(1, 0, 10, &[UP])], &rules);
            assert!(one_down.iter().all(|item| *item < 3), "three of four bear all of it");
            let moved = all.iter().zip(&one_down).filter(|(before, after)| **before != 3 && before != after).count();
            assert!(moved < 250, "{hashing:?}: {moved} moved that need not have");
            // As many as round robin would send there.
            let half = led(&[locality(0, 0, 0, &[UP, DOWN]), locality(1, 0, 10, &[UP])], &rules);
            assert!(half.iter().filter(|item| **item == 10).count().abs_diff(300) < 60);
            let few = led(&[locality(0, 0, 0, &[UP, DOWN, DOWN])], &rules);
            assert!((0..3).all(|item| few.contains(&item)), "below the threshold all are tried");
            // Degraded ones are in no table; what goes by localities has their weights.
            let some = led(&[locality(0, 0, 0, &[UP, Standing::Degraded])], &rules);
            assert!(some.iter().all(|item| *item == 0));
            let by = Rules { by_locality: true, ..rules };
            let shares = led(&[locality(0, 3, 0, &[UP]), locality(0, 1, 10, &[UP, UP]), locality(0, 0, 20, &[UP])], &by);
            assert!(shares.iter().filter(|item| **item == 0).count().abs_diff(750) < 100);
            assert!(!shares.contains(&20), "a locality without a share is sent nothing");
        }
    }

    #[test]
    fn degraded_ones_are_sent_what_the_healthy_do_not_bear() {
        let some = [locality(0, 0, 0, &[UP, Standing::Degraded])];
        near(&taken(&some, &Rules::default()), &[(0, 7000), (1, 3000)]);
    }
}

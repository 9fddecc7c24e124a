//! The endpoints of a service in an order in which those of one place lie together, so that a choice looks at few of them.
//!
//! The order is by network and then by the service's preferences. Endpoints that match the first *n* preferences of a client are one range
//! of it, within the range of those that match *n* - 1; each range is found by bisection, and an endpoint within it, by its share of the
//! capacity, too.

use std::{cmp::Ordering, ops::Range, sync::Arc};

use crate::{
    address::Network,
    service::{LoadBalancing, Mode, Scope},
    workload::Workload,
};

/// The endpoints of a service that may be used at all: healthy ones, or all if the service says so, that take a share.
#[derive(Debug, Clone)]
pub(crate) struct Ranked {
    endpoints: Vec<Arc<Workload>>,
    /// The capacity of all endpoints before this one, and of all of them at the end.
    before: Vec<u64>,
}

/// Whether an endpoint takes connections, whoever the client is.
pub(crate) fn in_use(lb: &LoadBalancing, endpoint: &Workload) -> bool {
    (endpoint.healthy || lb.allow_unhealthy) && endpoint.capacity > 0
}

impl Ranked {
    pub(crate) fn new<'a>(lb: &LoadBalancing, endpoints: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let mut endpoints: Vec<Arc<Workload>> = endpoints.filter(|endpoint| in_use(lb, endpoint)).cloned().collect();
        // Stable, so that endpoints of one place stay in the order of their uids.
        endpoints.sort_by(|a, b| {
            let by_place =
                || preferences(lb).iter().map(|scope| part(*scope, a).cmp(part(*scope, b))).find(|order| order.is_ne());
            network(a).cmp(network(b)).then_with(|| by_place().unwrap_or(Ordering::Equal))
        });
        let mut before = Vec::with_capacity(endpoints.len() + 1);
        let mut sum = 0_u64;
        before.push(sum);
        for endpoint in &endpoints {
            sum = sum.saturating_add(endpoint.capacity.into());
            before.push(sum);
        }
        Self { endpoints, before }
    }

    /// What `choose` finds in the best rank it finds anything in: it is asked with the endpoints of the best rank, then with those of the
    /// next one together with the best, and so on.
    pub(crate) fn best<T>(
        &self,
        lb: &LoadBalancing,
        client: &Workload,
        mut choose: impl FnMut(Share<'_>) -> Option<T>,
    ) -> Option<T> {
        let range = self.within(0..self.endpoints.len(), |endpoint| network(endpoint).cmp(network(client)));
        self.in_rank(range, preferences(lb), lb.mode, client, &mut choose)
    }

    fn in_rank<T>(
        &self,
        range: Range<usize>,
        preferences: &[Scope],
        mode: Mode,
        client: &Workload,
        choose: &mut impl FnMut(Share<'_>) -> Option<T>,
    ) -> Option<T> {
        if range.is_empty() {
            return None;
        }
        let Some((first, others)) = preferences.split_first() else { return choose(self.share(range)) };
        let nearer = self.within(range.clone(), |endpoint| part(*first, endpoint).cmp(part(*first, client)));
        let all_near = nearer == range;
        match self.in_rank(nearer, others, mode, client, choose) {
            Some(chosen) => Some(chosen),
            // What was asked already is not asked again.
            None if mode == Mode::Strict || all_near => None,
            None => choose(self.share(range)),
        }
    }

    /// The part of `range`, which is in the order of `compare`, that is equal.
    fn within(&self, range: Range<usize>, compare: impl Fn(&Workload) -> Ordering) -> Range<usize> {
        let some = self.endpoints.get(range.clone()).unwrap_or_default();
        let from = some.partition_point(|endpoint| compare(endpoint).is_lt());
        let equal = some.get(from..).unwrap_or_default().partition_point(|endpoint| compare(endpoint).is_eq());
        range.start + from..range.start + from + equal
    }

    fn share(&self, range: Range<usize>) -> Share<'_> {
        Share { ranked: self, range }
    }
}

/// Endpoints that are as good as each other.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    ranked: &'a Ranked,
    range: Range<usize>,
}

impl<'a> Share<'a> {
    /// One of them with a probability proportional to its capacity, by a random number.
    pub(crate) fn pick(&self, random: u64) -> Option<&'a Arc<Workload>> {
        let before = self.ranked.before.get(self.range.start..=self.range.end)?;
        let (first, last) = (before.first()?, before.last()?);
        let point = first + scale(random, last - first)?;
        let at = before.partition_point(|sum| *sum <= point).checked_sub(1)?;
        self.ranked.endpoints.get(self.range.start + at)
    }

    /// All of them.
    pub(crate) fn all(&self) -> &'a [Arc<Workload>] {
        self.ranked.endpoints.get(self.range.clone()).unwrap_or_default()
    }
}

/// A number below `total`, spread evenly; nothing when there is none.
///
/// The high bits of a product spread evenly over the total (Lemire 2019), without the cost or the bias of a division.
pub(crate) fn scale(random: u64, total: u64) -> Option<u64> {
    let point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).ok()?;
    (total > 0).then_some(point)
}

/// The preferences by which endpoints are told apart.
fn preferences(lb: &LoadBalancing) -> &[Scope] {
    match lb.mode {
        Mode::Any | Mode::Passthrough => &[],
        Mode::Strict | Mode::Failover => &lb.preferences,
    }
}

/// How many preferences the endpoint matches, in order; nothing when it may not be used at all for that.
pub(crate) fn rank(lb: &LoadBalancing, client: &Workload, endpoint: &Workload) -> Option<usize> {
    let preferences = preferences(lb);
    let matched = preferences.iter().take_while(|scope| part(**scope, client) == part(**scope, endpoint)).count();
    (lb.mode != Mode::Strict || matched == preferences.len()).then_some(matched)
}

fn network(workload: &Workload) -> &Network {
    &workload.network
}

/// The part of its place by which a workload is compared. A part that is not known is a place of its own.
fn part(scope: Scope, workload: &Workload) -> &str {
    match scope {
        Scope::Region => &workload.locality.region,
        Scope::Zone => &workload.locality.zone,
        Scope::Subzone => &workload.locality.subzone,
        Scope::Node => &workload.node,
        Scope::Cluster => &workload.cluster,
        Scope::Network => workload.network.as_str(),
    }
}

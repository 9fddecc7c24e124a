//! What goes on in a cluster: its endpoints with the requests under way at each, which of them are ejected, and how much of it is in use.
//! It outlives the cluster's configuration, so that an endpoint which stays is met as it was when something else changes.

mod aside;
mod breakers;
mod checks;
mod host;
mod latency;
mod outliers;
#[cfg(test)]
mod tests;
mod warm;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use ambit_model::{
    balance::{Locality, Member, Policy, Rules, Spread, Standing},
    route::EndpointName,
};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use self::{
    aside::{Latest, Work},
    breakers::Breakers,
};
pub use self::{
    breakers::{Connected, Pending, UnderWay},
    host::Host,
};
use super::Candidate;
use crate::compiled::{Cluster, Endpoint, Endpoints, Target};

/// What goes on in a cluster.
#[derive(Debug)]
pub struct Live {
    began: Instant,
    /// Where the next request's round begins.
    turn: AtomicUsize,
    sorted: Arc<Latest>,
    known: Mutex<Known>,
    /// When it is looked next which endpoints return, in milliseconds since the beginning.
    due: AtomicU64,
    /// When it is looked next what the shares are of those that warm up, in the same.
    warms: AtomicU64,
    breakers: Breakers,
}

/// An endpoint, and what goes on at it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// What goes on.
    pub host: Arc<Host>,
    /// What requests are told of it, from the first one on that it takes.
    pub(super) candidate: OnceLock<Arc<Candidate>>,
}

/// How much of a cluster is in use, and was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Connections that stand or are being made.
    pub(crate) connections: usize,
    /// Requests that wait for one.
    pub(crate) pending: usize,
    /// Requests under way.
    pub(crate) requests: usize,
    /// Requests, and connections whose bytes are carried, that went to an endpoint so far.
    pub(crate) sent: u64,
}

/// What a request says of the endpoint that it is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aim<'a> {
    /// The one that its session goes on with, which takes nobody's turn.
    pub first: Option<&'a Place>,
    /// Its hash, where hashes lead to endpoints.
    pub hash: Option<u64>,
    /// Those that have failed at it before: a hash leads to another one.
    pub failed: &'a [SocketAddr],
}

/// The endpoints as they are sorted out for requests.
#[derive(Debug, Default)]
struct Sorted {
    spread: Spread<Place>,
    /// Those that take requests, of all priorities: what sessions may go on with.
    taking: Vec<Place>,
    /// The same by their names, from the first time on that somebody asks.
    named: OnceLock<HashMap<EndpointName, Place>>,
}

#[derive(Debug, Default)]
struct Known {
    hosts: HashMap<Target, Arc<Host>>,
    endpoints: Arc<Endpoints>,
    rules: Rules,
    /// Endpoints may be ejected.
    ejects: bool,
    /// Endpoints are checked.
    checks: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            turn: AtomicUsize::default(),
            sorted: Arc::default(),
            known: Mutex::default(),
            due: AtomicU64::default(),
            warms: AtomicU64::new(warm::NEVER),
            breakers: Breakers::default(),
        }
    }
}

impl Live {
    /// Takes over what is configured now. The endpoints that were there before keep what is known of them.
    pub fn follow(&self, cluster: &Cluster, endpoints: Option<Arc<Endpoints>>) {
        let endpoints = endpoints.unwrap_or_default();
        let mut known = self.known();
        let checks = std::mem::replace(&mut known.checks, cluster.checks.is_some()) == cluster.checks.is_some();
        let same = checks && Arc::ptr_eq(&known.endpoints, &endpoints) && known.rules == cluster.balance;
        let acquitted = std::mem::replace(&mut known.ejects, cluster.outliers.is_some()) && !known.ejects;
        if acquitted {
            known.hosts.values().for_each(|host| host.acquit());
        }
        if same && !acquitted {
            return;
        }
        let before = std::mem::take(&mut known.hosts);
        for endpoint in endpoints.localities.iter().flat_map(|locality| &locality.endpoints) {
            let host = || before.get(&endpoint.target).cloned().unwrap_or_else(|| Arc::new(Host::new(endpoint.target.clone())));
            known.hosts.entry(endpoint.target.clone()).or_insert_with(host);
        }
        known.endpoints = endpoints;
        known.rules.clone_from(&cluster.balance);
        known.check(cluster.checks.is_some(), &before);
        let work = self.work(&known);
        // Whoever reads what is known need not wait for a table.
        drop(known);
        self.sorted.make(&work);
    }

    /// Whether anything was ever sent to the cluster.
    pub(crate) fn is_used(&self) -> bool {
        self.turn.load(Ordering::Relaxed) > 0
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorts out the endpoints anew. What takes its time is made beside whoever asks for it.
    fn spread(&self, known: &Known) {
        self.sorted.make_aside(self.work(known));
    }

    /// The endpoints as they stand now.
    fn work(&self, known: &Known) -> Work {
        let now = self.began.elapsed();
        let member = |endpoint: &Arc<Endpoint>| {
            let host = known.hosts.get(&endpoint.target)?.clone();
            let standing = if host.is_ejected() || host.is_failing() { Standing::Unhealthy } else { endpoint.standing };
            let warmth = known.warmth(&host, standing, now);
            Some(Member { item: Place::new(endpoint, host), weight: endpoint.weight, standing, warmth })
        };
        let localities: Vec<_> = known
            .endpoints
            .localities
            .iter()
            .map(|locality| Locality {
                priority: locality.priority,
                weight: locality.weight,
                // One without a share is none.
                members: locality.endpoints.iter().filter(|endpoint| endpoint.weight > 0).filter_map(member).collect(),
            })
            .collect();
        self.warms_on(&localities, known.rules.slow_start.as_ref(), now);
        self.sorted.next(localities, known.rules.clone(), known.endpoints.overprovisioning)
    }

    /// How much is in use, and was.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            connections: self.breakers.connections(),
            pending: self.breakers.waiting(),
            requests: self.breakers.requests(),
            sent: self.breakers.sent(),
        }
    }

    /// All endpoints in the order in which they were delivered, with the priority of each.
    pub(crate) fn listed(&self) -> Vec<(u32, Place)> {
        let known = self.known();
        let mut listed = Vec::new();
        for locality in &known.endpoints.localities {
            for endpoint in &locality.endpoints {
                let Some(host) = known.hosts.get(&endpoint.target).cloned() else { continue };
                listed.push((locality.priority, Place::new(endpoint, host)));
            }
        }
        listed
    }

    /// Why an endpoint fails its health check, if it does.
    pub(crate) fn why_failing(&self, endpoint: &Endpoint) -> Option<String> {
        self.known().hosts.get(&endpoint.target)?.why_failing()
    }

    /// The endpoints that may be chosen now. Looking at them takes nobody's turn.
    pub(crate) fn usable(&self) -> Vec<Arc<Endpoint>> {
        self.sorted.load().spread.members().map(|place| place.endpoint.clone()).collect()
    }

    /// The endpoint of this name, if it takes requests: it is healthy or degraded, of whatever priority, and not ejected (Envoy's
    /// `override_host_status` where a cluster says nothing of it).
    pub(crate) fn named(&self, name: EndpointName) -> Option<Place> {
        let sorted = self.sorted.load();
        let by_name = || sorted.taking.iter().filter_map(|place| Some((place.endpoint.target.name()?, place.clone()))).collect();
        sorted.named.get_or_init(by_name).get(&name).cloned()
    }

    /// The endpoint that a hash leads to now. Looking takes nobody's turn.
    pub(crate) fn led_by(&self, hash: u64) -> Option<Place> {
        let sorted = self.sorted.load();
        let group = sorted.spread.choose(hash)?;
        let first = group.near(hash, |_| false).first().copied()?;
        group.order(first).next().cloned()
    }

    /// Endpoints for a request, the one that the policy chooses and then those after it, at most `most`. Those that are no place for a
    /// request are passed over.
    ///
    /// # Errors
    /// When all are.
    pub fn choose<R, E>(&self, cluster: &Cluster, most: usize, each: impl FnMut(&Place) -> Result<R, E>) -> Result<Vec<R>, E> {
        self.choose_for(Aim::default(), cluster, most, each)
    }

    /// The same for a request that says something of its endpoint.
    ///
    /// # Errors
    /// When none is a place for a request.
    pub fn choose_for<R, E>(
        &self,
        Aim { first, hash, failed }: Aim<'_>,
        cluster: &Cluster,
        most: usize,
        mut each: impl FnMut(&Place) -> Result<R, E>,
    ) -> Result<Vec<R>, E> {
        self.look(cluster);
        self.warm();
        let turn = match first {
            Some(_) => self.turn.load(Ordering::Relaxed),
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let sorted = self.sorted.load();
        let policy = cluster.balance.policy;
        let random = || fastrand::u64(..);
        // Without a hash any other number is as good.
        let point = hash.filter(|_| matches!(policy, Policy::Hash(_))).unwrap_or_else(random);
        let others = sorted.spread.choose(point).map(|group| {
            let near = group.near(point, |place| place.is_one_of(failed));
            let first = near.first().copied().unwrap_or_else(|| match policy {
                Policy::PeakEwma => group.cheaper(random(), |place| self.cost(&place.host)),
                _ => group.first(policy, turn, random(), |place| place.host.under_way()),
            });
            group.order_after(near, first)
        });
        let others = others.into_iter().flatten();
        let is_other = |place: &&Place| first.is_none_or(|first| !Arc::ptr_eq(&first.host, &place.host));
        let (mut chosen, mut refused) = (Vec::new(), None);
        for place in first.into_iter().chain(others.filter(is_other)) {
            if chosen.len() == most {
                break;
            }
            match each(place) {
                Ok(one) => chosen.push(one),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match refused {
            Some(error) if chosen.is_empty() => Err(error),
            _ => Ok(chosen),
        }
    }
}

impl Place {
    fn new(endpoint: &Arc<Endpoint>, host: Arc<Host>) -> Self {
        Self { endpoint: endpoint.clone(), host, candidate: OnceLock::new() }
    }

    /// Whether it is at one of these addresses.
    fn is_one_of(&self, addresses: &[SocketAddr]) -> bool {
        !addresses.is_empty() && self.endpoint.target.name().is_some_and(|name| addresses.contains(&name.address))
    }
}

impl Serialize for Live {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hosts: Vec<_> = self.known().hosts.values().cloned().collect();
        let mut shown = serializer.serialize_struct("Live", 4)?;
        shown.serialize_field("connections", &self.breakers.connections())?;
        shown.serialize_field("pending", &self.breakers.waiting())?;
        shown.serialize_field("requests", &self.breakers.requests())?;
        shown.serialize_field("endpoints", &hosts.iter().map(|host| host.shown(self.began.elapsed())).collect::<Vec<_>>())?;
        shown.end()
    }
}

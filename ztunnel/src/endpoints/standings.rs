//! Which endpoints keep failing the connects of one pod, and how often its connections may be tried again.
//!
//! Each pod has its own: connects are made in its namespace, and a pod whose network lets nothing out must not make endpoints look bad to
//! the others.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_model::{
    Reason,
    address::ServiceKey,
    plan::{Budget, Standing},
    workload::Uid,
};
use ambit_runtime::telemetry::{label, metric};
use metrics::counter;
use serde::Serialize;

/// Endpoints whose failures are remembered, and services with a budget. When there are more failing endpoints, the first ones are rested
/// and further ones are not.
const MOST: usize = 4096;
/// Ports of one endpoint whose failures are remembered.
const PORTS: usize = 32;
/// How often it is looked for what can be forgotten, at most.
const SWEEP: Duration = Duration::from_secs(1);
/// After so long without a connect a failure says nothing any more.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What the connects of one pod have met.
#[derive(Debug, Default)]
pub struct Standings {
    failing: Mutex<Failing>,
    /// How many endpoints there are in it. Nearly always none, which is known without the lock.
    count: AtomicUsize,
    /// Of the services whose connections were tried again lately.
    budgets: Mutex<HashMap<Option<ServiceKey>, Budget>>,
    /// How many budgets there are in it; nearly always none, too.
    limited: AtomicUsize,
}

/// Endpoints that failed since they last took a connect, each with its ports.
#[derive(Debug, Default)]
struct Failing {
    ports: HashMap<Uid, Vec<(u16, Standing)>>,
    /// When it was last looked for what can be forgotten.
    swept: Option<Instant>,
}

impl Failing {
    /// Forgets what says nothing any more, now and then.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.ports.retain(|_, ports| {
            ports.retain(|(_, standing)| standing.age(now) < FORGOTTEN);
            !ports.is_empty()
        });
    }
}

/// An endpoint that is rested, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Rested {
    /// The endpoint.
    pub endpoint: Uid,
    /// Its port.
    pub port: u16,
    /// How long ago a connect failed last, in seconds.
    pub failed_seconds_ago: f64,
}

impl Standings {
    fn failing(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn none(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// When a connect to this port of the endpoint failed last, if it is rested.
    #[must_use]
    pub fn rested(&self, endpoint: &Uid, port: u16, now: Instant) -> Option<Instant> {
        if self.none() {
            return None;
        }
        let failing = self.failing();
        failing.ports.get(endpoint)?.iter().find(|(of, _)| *of == port)?.1.rested(now)
    }

    /// All that is rested now.
    #[must_use]
    pub fn all_rested(&self) -> Vec<Rested> {
        let now = Instant::now();
        let failing = self.failing();
        let each = failing
            .ports
            .iter()
            .flat_map(|(endpoint, ports)| ports.iter().map(move |(port, standing)| (endpoint, port, standing)));
        let rested = each.filter(|(_, _, standing)| standing.rested(now).is_some());
        rested
            .map(|(endpoint, port, standing)| Rested {
                endpoint: endpoint.clone(),
                port: *port,
                failed_seconds_ago: standing.age(now).as_secs_f64(),
            })
            .collect()
    }

    /// A connect to this port of the endpoint begins.
    #[must_use]
    pub fn begin<'a>(&'a self, endpoint: &'a Uid, port: u16) -> Attempt<'a> {
        Attempt { standings: self, endpoint, port, probe: !self.none() && self.probes(endpoint, port, Instant::now()) }
    }

    /// Whether a connect that begins is a probe.
    fn probes(&self, endpoint: &Uid, port: u16, now: Instant) -> bool {
        let mut failing = self.failing();
        // Here too: what failed may not be dialled any more, and it is asked for what is rested as long as anything is known.
        failing.sweep(now);
        self.count.store(failing.ports.len(), Ordering::Relaxed);
        drop(failing);
        self.change(endpoint, port, |standing| standing.probes(now)).unwrap_or_default()
    }

    fn change<T>(&self, endpoint: &Uid, port: u16, change: impl FnOnce(&mut Standing) -> T) -> Option<T> {
        let mut failing = self.failing();
        let (_, standing) = failing.ports.get_mut(endpoint)?.iter_mut().find(|(of, _)| *of == port)?;
        Some(change(standing))
    }

    fn remove(&self, endpoint: &Uid, port: u16) {
        let mut failing = self.failing();
        let Some(ports) = failing.ports.get_mut(endpoint) else { return };
        let before = ports.len();
        ports.retain(|(of, _)| *of != port);
        if ports.len() < before {
            tracing::info!(%endpoint, port, "an endpoint that failed answers again");
        }
        if ports.is_empty() {
            failing.ports.remove(endpoint);
        }
        self.count.store(failing.ports.len(), Ordering::Relaxed);
    }

    fn failed(&self, endpoint: &Uid, port: u16, probe: bool, reason: Reason) {
        let now = Instant::now();
        let mut failing = self.failing();
        failing.sweep(now);
        let room = failing.ports.len() < MOST;
        let rest = match failing.ports.get_mut(endpoint) {
            Some(ports) => match ports.iter_mut().find(|(of, _)| *of == port) {
                Some((_, standing)) => standing.failed(probe, now),
                None => {
                    ports.retain(|(_, standing)| standing.age(now) < FORGOTTEN);
                    if ports.len() < PORTS {
                        ports.push((port, Standing::new(now)));
                    }
                    None
                }
            },
            None if room => {
                failing.ports.insert(endpoint.clone(), vec![(port, Standing::new(now))]);
                None
            }
            None => None,
        };
        self.count.store(failing.ports.len(), Ordering::Relaxed);
        drop(failing);
        if let Some(rest) = rest {
            counter!(metric::ENDPOINT_RESTS, label::REASON => reason.label()).increment(1);
            tracing::info!(%endpoint, port, %reason, ?rest, "an endpoint that keeps failing is rested");
        }
    }

    /// Counts a connection to this service; to none if the client dialled a pod.
    pub fn connection(&self, service: Option<&ServiceKey>) {
        if self.limited.load(Ordering::Relaxed) == 0 {
            return;
        }
        let service = service.cloned();
        let mut budgets = self.budgets();
        if budgets.get_mut(&service).is_some_and(|budget| budget.connection(Instant::now())) {
            budgets.remove(&service);
            self.limited.store(budgets.len(), Ordering::Relaxed);
        }
    }

    fn budgets(&self) -> MutexGuard<'_, HashMap<Option<ServiceKey>, Budget>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection that failed for `reason` may be tried again now; if so, it is counted.
    pub fn may_retry(&self, service: Option<&ServiceKey>, reason: Reason) -> bool {
        let now = Instant::now();
        let mut budgets = self.budgets();
        // So many services are not dialled by one pod; they begin again with full budgets.
        if budgets.len() >= MOST {
            budgets.clear();
        }
        let may = budgets.entry(service.cloned()).or_insert_with(|| Budget::new(now)).retry(now);
        self.limited.store(budgets.len(), Ordering::Relaxed);
        drop(budgets);
        let name = if may { metric::CONNECT_RETRIES } else { metric::CONNECT_RETRIES_OVER_BUDGET };
        counter!(name, label::REASON => reason.label()).increment(1);
        may
    }
}

/// A connect to an endpoint. When it is dropped it was given up, and says nothing.
#[derive(Debug)]
pub struct Attempt<'a> {
    standings: &'a Standings,
    endpoint: &'a Uid,
    port: u16,
    probe: bool,
}

impl Attempt<'_> {
    /// The endpoint took the connection.
    pub fn worked(mut self) {
        self.probe = false;
        if !self.standings.none() {
            self.standings.remove(self.endpoint, self.port);
        }
    }

    /// The endpoint was away.
    pub fn failed(mut self, reason: Reason) {
        let probe = std::mem::take(&mut self.probe);
        self.standings.failed(self.endpoint, self.port, probe, reason);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.standings.change(self.endpoint, self.port, Standing::unprobed);
        }
    }
}

#[cfg(test)]
mod tests {
    use ambit_model::plan::{FAILURES, FIRST_REST};

    use super::*;

    #[test]
    fn one_port_of_an_endpoint_is_rested_until_it_takes_a_connect_and_nothing_is_kept_then() {
        let (standings, api) = (Standings::default(), Uid::from("api"));
        for _ in 0..FAILURES {
            standings.begin(&api, 8080).failed(Reason::UpstreamRefused);
        }
        let now = Instant::now();
        assert!(standings.rested(&api, 8080, now).is_some() && standings.rested(&api, 9090, now).is_none());
        assert_eq!(standings.all_rested().iter().map(|rested| rested.port).collect::<Vec<_>>(), [8080]);
        assert!(standings.rested(&api, 8080, now + FIRST_REST).is_none());
        standings.begin(&api, 8080).worked();
        assert!(standings.rested(&api, 8080, now).is_none() && standings.none() && standings.failing().ports.is_empty());
    }

    #[test]
    fn a_connect_that_is_given_up_says_nothing() {
        let (standings, api) = (Standings::default(), Uid::from("api"));
        for _ in 0..2 * FAILURES {
            drop(standings.begin(&api, 8080));
        }
        assert!(standings.none());
    }

    #[test]
    fn what_failed_long_ago_is_forgotten_when_anything_else_is_dialled() {
        let (standings, gone, api) = (Standings::default(), Uid::from("gone"), Uid::from("api"));
        standings.begin(&gone, 8080).failed(Reason::UpstreamRefused);
        let now = Instant::now();
        assert!(!standings.probes(&api, 8080, now + FORGOTTEN / 2) && !standings.none());
        assert!(!standings.probes(&api, 8080, now + FORGOTTEN) && standings.none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let standings = Standings::default();
        for number in 0..2 * MOST {
            standings.begin(&Uid::from(number.to_string().as_str()), 80).failed(Reason::UpstreamTimeout);
        }
        assert_eq!(standings.failing().ports.len(), MOST);
        let one = Standings::default();
        for port in 0..u16::MAX {
            one.begin(&Uid::from("api"), port).failed(Reason::UpstreamRefused);
        }
        assert_eq!(one.failing().ports.values().map(Vec::len).sum::<usize>(), PORTS);
    }
}

//! Puts the edges of a mesh together from what its programs count and what its proxies log and measure. Whoever looks at a mesh feeds
//! it: [`Observer::look`] does for a local one, `ambit up --kubernetes` for a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use istiod_lite::source::NamespacedName;

use super::access::{AccessLine, Tail};
use super::edges::{Edge, EdgeKey, Protection, Sightings};
use super::hosts;
use super::mesh::LocalMesh;
use super::scrape;
use super::topology::Topology;
use crate::demo::stats::{self, EdgeStats, ProgramStats};

/// Counter of connections that a node proxy opened (wire contract, section 7).
const OPENED: &str = "istio_tcp_connections_opened_total";

/// Counts of one edge as one pod tells them, whichever of its programs did so.
#[derive(Debug, Clone)]
struct Counter {
    /// What was told last, by a program that has counted from its start on.
    last: EdgeStats,
    /// All that was told, of this program and those before it.
    total: EdgeStats,
    /// Of that, what was before the reset.
    before: EdgeStats,
}

impl Counter {
    /// Takes in what is told now. Less than before is told by a program that was started again.
    fn take(&mut self, now: EdgeStats) {
        self.total.add(&now.since(&self.last));
        self.last = now;
    }
}

/// Counts of one edge up to a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Total {
    stats: EdgeStats,
    protection: Protection,
}

/// Counts of all edges up to a moment.
pub type Totals = BTreeMap<EdgeKey, Total>;

/// Watches all edges from the moment it is made or [`Observer::reset`].
#[derive(Default)]
pub struct Observer {
    tails: BTreeMap<String, Tail>,
    opened: BTreeMap<String, BTreeMap<String, u64>>,
    sightings: Sightings,
    told: BTreeMap<(EdgeKey, NamespacedName), Counter>,
    topology: Arc<Topology>,
}

impl Observer {
    /// Takes in everything new of a local mesh.
    pub async fn look(&mut self, mesh: &LocalMesh) {
        let topology = mesh.topology().borrow().clone();
        self.see(topology.clone());
        self.ask_programs(&topology).await;
        self.read_logs(&topology);
        self.read_metrics(mesh, &topology).await;
    }

    /// Takes in what runs where now: what comes next is read with it.
    pub(crate) fn see(&mut self, topology: Arc<Topology>) {
        self.topology = topology;
    }

    /// Takes in what the program in a pod tells.
    pub(crate) fn take_counts(&mut self, pod: &NamespacedName, program: ProgramStats) {
        let Some(source) = self.topology.workload(pod) else { return };
        for edge in program.edges {
            let destination = hosts::service_of(&edge.host, &pod.namespace);
            let destination = destination.unwrap_or_else(|| NamespacedName::new("", edge.host.as_str()));
            let at = (EdgeKey { source: source.clone(), destination }, pod.clone());
            match self.told.get_mut(&at) {
                Some(counter) => counter.take(edge),
                None => _ = self.told.insert(at, Counter { last: edge.clone(), total: edge, before: EdgeStats::default() }),
            }
        }
    }

    /// Takes in a line of the access log of the proxy of this name in the mesh.
    pub(crate) fn take_line(&mut self, proxy: &str, line: &AccessLine) {
        self.sightings.take(proxy, line, &self.topology);
    }

    /// Takes in the metrics of a node proxy; `process` tells it from those before and after it on its node.
    pub(crate) fn take_metrics(&mut self, process: &str, text: &str) {
        let before = self.opened.entry(process.to_owned()).or_default();
        for sample in scrape::samples(text, OPENED) {
            let count = sample.value as u64;
            let known = before.insert(sample.series(), count).unwrap_or(0);
            // One that has become less is of a proxy that was started again.
            let new = if count < known { count } else { count - known };
            if new > 0 {
                self.sightings.take_opened(&sample, new, &self.topology);
            }
        }
    }

    /// Forgets what was before: counts begin anew. Call it after [`Observer::look`].
    pub fn reset(&mut self) {
        self.sightings.reset();
        self.told.values_mut().for_each(|counter| counter.before = counter.total.clone());
    }

    /// All counts now, to measure from later with [`Observer::edges_since`].
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::new();
        for (key, stats) in self.counted() {
            totals.entry(key).or_default().stats = stats;
        }
        for key in self.sightings.keys() {
            let Some(seen) = self.sightings.get(key) else { continue };
            let known = totals.contains_key(key);
            let total = totals.entry(key.clone()).or_default();
            total.protection = seen.protection;
            if !known {
                total.stats = seen.as_stats();
            }
        }
        totals
    }

    /// All edges, with counts since the reset.
    pub fn edges(&self) -> Vec<Edge> {
        self.edges_since(&Totals::new())
    }

    /// All edges, with counts since those of `before` were taken.
    pub fn edges_since(&self, before: &Totals) -> Vec<Edge> {
        let nothing = Total::default();
        let edges = self.totals().into_iter().map(|(key, now)| {
            let before = before.get(&key).unwrap_or(&nothing);
            let mut edge = Edge::new(&key, Some(&now.stats.since(&before.stats)), self.sightings.get(&key));
            // Without a new connection in between, those that were open go on as they were.
            let lately = now.protection.since(before.protection).all_mutual_tls();
            edge.encrypted = lately.unwrap_or(edge.encrypted) && self.is_captured(&key.source);
            edge
        });
        edges.collect()
    }

    /// Whether all pods of a workload are captured, as far as somebody has seen that: a label alone does not make it so.
    fn is_captured(&self, workload: &NamespacedName) -> bool {
        let of = |name: &NamespacedName| self.topology.workload(name).as_ref() == Some(workload);
        self.topology.pods.iter().filter(|(name, _)| of(name)).all(|(_, facts)| facts.guarded)
    }

    /// What the programs counted since the reset, all pods of a workload together.
    fn counted(&self) -> BTreeMap<EdgeKey, EdgeStats> {
        let mut edges: BTreeMap<EdgeKey, EdgeStats> = BTreeMap::new();
        for ((key, _), counter) in &self.told {
            let since = counter.total.since(&counter.before);
            edges.entry(key.clone()).and_modify(|edge| edge.add(&since)).or_insert(since);
        }
        edges
    }

    async fn ask_programs(&mut self, topology: &Topology) {
        let sockets = topology.pods.iter().filter_map(|(pod, facts)| Some((pod, facts.stats.as_ref()?)));
        let pods: Vec<_> = sockets.filter(|(_, path)| path.exists()).collect();
        let answers = futures::future::join_all(pods.iter().map(|(_, path)| stats::read(path))).await;
        for ((pod, _), answer) in pods.into_iter().zip(answers) {
            if let Ok(program) = answer {
                self.take_counts(pod, program);
            }
        }
    }

    fn read_logs(&mut self, topology: &Topology) {
        for proxy in &topology.proxies {
            let Some(path) = &proxy.access_log else { continue };
            let tail = self.tails.entry(proxy.name.clone()).or_insert_with(|| Tail::new(path.clone()));
            for line in tail.read() {
                self.take_line(&proxy.name, &line);
            }
        }
    }

    async fn read_metrics(&mut self, mesh: &LocalMesh, topology: &Topology) {
        for proxy in topology.proxies.iter().filter(|proxy| proxy.name.starts_with("ztunnel/")) {
            // A proxy that is dead or busy is asked again at the next look.
            if let Ok(text) = mesh.metrics(&proxy.name).await {
                self.take_metrics(&proxy.name, &text);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Puts the edges of the mesh together: asks the programs, reads the proxies' logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use istiod_lite::source::NamespacedName;

use super::access::{AccessLine, Tail};
use super::edges::{Edge, EdgeKey, Sightings};
use super::hosts;
use super::topology::Topology;
use crate::demo::stats::{self, EdgeStats};

/// Counts of one edge as one pod tells them.
type Told = BTreeMap<(EdgeKey, NamespacedName), EdgeStats>;

/// Watches all edges from the moment it is made or [`Observer::reset`].
#[derive(Default)]
pub struct Observer {
    tails: BTreeMap<String, Tail>,
    sightings: Sightings,
    baseline: Told,
    told: Told,
}

impl Observer {
    /// Reads everything new and gives all edges, with counts since the last reset.
    pub async fn look(&mut self, topology: &Arc<Topology>) -> Vec<Edge> {
        self.ask_programs(topology).await;
        self.read_logs(topology);
        self.edges()
    }

    /// Forgets what was before: counts begin anew. Call it after [`Observer::look`].
    pub fn reset(&mut self) {
        self.sightings = Sightings::default();
        self.baseline = self.told.clone();
    }

    /// All counts now, to measure a window with [`window`].
    pub fn totals(&self) -> BTreeMap<EdgeKey, EdgeStats> {
        let mut totals = self.counted();
        for key in self.sightings.keys() {
            if let (false, Some(seen)) = (totals.contains_key(key), self.sightings.get(key)) {
                totals.insert(key.clone(), seen.as_stats());
            }
        }
        totals
    }

    /// The edges, with the counts of `window` in place of all since the reset.
    pub fn edges_in(&self, window: &BTreeMap<EdgeKey, EdgeStats>) -> Vec<Edge> {
        let edge = |key: &EdgeKey| Edge::new(key, window.get(key), self.sightings.get(key));
        self.keys().iter().map(edge).collect()
    }

    fn edges(&self) -> Vec<Edge> {
        let counted = self.counted();
        self.keys().iter().map(|key| Edge::new(key, counted.get(key), self.sightings.get(key))).collect()
    }

    fn keys(&self) -> Vec<EdgeKey> {
        let mut keys: Vec<EdgeKey> = self.counted().into_keys().chain(self.sightings.keys().cloned()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// What the programs counted since the reset, all pods of a workload together.
    fn counted(&self) -> BTreeMap<EdgeKey, EdgeStats> {
        let nothing = EdgeStats::default();
        let mut edges: BTreeMap<EdgeKey, EdgeStats> = BTreeMap::new();
        for (at, now) in &self.told {
            let since = now.since(self.baseline.get(at).unwrap_or(&nothing));
            edges.entry(at.0.clone()).and_modify(|edge| edge.add(&since)).or_insert(since);
        }
        edges
    }

    async fn ask_programs(&mut self, topology: &Topology) {
        let pods: Vec<_> = topology.pods.iter().filter(|(_, facts)| facts.stats.exists()).collect();
        let answers = futures::future::join_all(pods.iter().map(|(_, facts)| stats::read(&facts.stats))).await;
        for ((pod, facts), answer) in pods.into_iter().zip(answers) {
            let Ok(program) = answer else { continue };
            let source = NamespacedName::new(pod.namespace.clone(), facts.workload.as_str());
            for edge in program.edges {
                let destination = hosts::service_of(&edge.host, &pod.namespace);
                let destination = destination.unwrap_or_else(|| NamespacedName::new("", edge.host.as_str()));
                self.told.insert((EdgeKey { source: source.clone(), destination }, pod.clone()), edge);
            }
        }
    }

    fn read_logs(&mut self, topology: &Topology) {
        for proxy in &topology.proxies {
            let tail = self.tails.entry(proxy.name.clone()).or_insert_with(|| Tail::new(proxy.access_log.clone()));
            let lines: Vec<AccessLine> = tail.read();
            for line in lines {
                self.sightings.take(&proxy.name, &line, topology);
            }
        }
    }
}

/// What happened between two totals.
pub fn window(before: &BTreeMap<EdgeKey, EdgeStats>, now: &BTreeMap<EdgeKey, EdgeStats>) -> BTreeMap<EdgeKey, EdgeStats> {
    let nothing = EdgeStats::default();
    now.iter().map(|(key, stats)| (key.clone(), stats.since(before.get(key).unwrap_or(&nothing)))).collect()
}

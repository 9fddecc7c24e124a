//! Which resources a changed key stands for, and where they go in the cache.

use std::collections::BTreeSet;

use ambit_api::type_url;
use ambit_xds::server::{Cache, Change};

use super::translated;
use crate::{
    index::{ChangedKey, Index},
    mesh::Mesh,
    source::{Event, NamespacedName},
};

/// The view of every node proxy.
pub const NODE_VIEW: &str = "ztunnel";

/// The view of the waypoint of a Gateway.
#[must_use]
pub fn waypoint_view(gateway: &NamespacedName) -> String {
    format!("waypoint/{}/{}", gateway.namespace, gateway.name)
}

/// Applies events to the index and puts what follows from them into the cache.
#[derive(Debug)]
pub struct Pusher {
    cache: Cache,
    started: bool,
}

impl Pusher {
    /// Writes into `cache`.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { cache, started: false }
    }

    /// Whether anything was applied yet.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Applies one batch. What it changes is translated from the state after the whole batch, each resource once.
    pub fn apply(&mut self, mesh: &Mesh, events: Vec<Event>) {
        self.started = true;
        let count = events.len();
        let mut changed: BTreeSet<ChangedKey> = BTreeSet::new();
        {
            let mut index = mesh.index_mut();
            for event in events {
                changed.extend(index.apply(event));
            }
        }
        let keys = changed.len();
        let index = mesh.index();
        let mut nodes = Nodes::default();
        let mut pushed = 0;
        for key in changed {
            match key {
                ChangedKey::Waypoint(gateway) => pushed += self.waypoint(&index, &gateway),
                key => nodes.add(&index, key),
            }
        }
        drop(index);
        pushed += nodes.write(&self.cache);
        metrics::counter!("pilot_k8s_cfg_events").increment(count as u64);
        metrics::counter!("pilot_xds_pushes").increment(pushed as u64);
        tracing::debug!(events = count, keys, resources = pushed, "applied");
    }

    fn waypoint(&self, index: &Index, gateway: &NamespacedName) -> usize {
        let view = waypoint_view(gateway);
        let types = translated::waypoint(index, gateway);
        self.cache.write(&view, |writer| {
            for (type_url, resources) in types {
                writer.replace(type_url, resources);
            }
        })
    }
}

/// Changes to the view of the node proxies.
#[derive(Default)]
struct Nodes {
    addresses: Vec<Change>,
    policies: Vec<Change>,
}

impl Nodes {
    fn add(&mut self, index: &Index, key: ChangedKey) {
        match key {
            ChangedKey::Workload(name) => self.addresses.push(translated::workload(index, &name)),
            ChangedKey::Service(name) => self.addresses.push(translated::service(index, &name)),
            ChangedKey::Policy(name) => self.policies.push(translated::policy(index, &name)),
            ChangedKey::Waypoint(_) => {}
        }
    }

    fn write(self, cache: &Cache) -> usize {
        cache.write(NODE_VIEW, |writer| {
            writer.update(type_url::AUTHORIZATION, self.policies);
            writer.update(type_url::ADDRESS, self.addresses);
        })
    }
}

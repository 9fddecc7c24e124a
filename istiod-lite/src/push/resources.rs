//! Which resources a changed key stands for, and where they go in the cache.

use std::collections::{BTreeMap, BTreeSet};

use ambit_api::type_url;
use ambit_xds::server::{Cache, Change, seen_by_all};

use super::{Clients, Waypoints, translated};
use crate::{
    index::{ChangedKey, Index, ServiceRef},
    jwks::News,
    mesh::Mesh,
    source::{Event, NamespacedName},
};

/// The view of every node proxy.
pub const NODE_VIEW: &str = "ztunnel";

/// What the views of waypoints begin with.
const WAYPOINT: &str = "waypoint/";

/// The view of the waypoint of a Gateway.
#[must_use]
pub fn waypoint_view(gateway: &NamespacedName) -> String {
    format!("{WAYPOINT}{}/{}", gateway.namespace, gateway.name)
}

/// The Gateway whose waypoint has the view, from wherever it is seen.
pub(super) fn gateway_of(view: &str) -> Option<NamespacedName> {
    let (namespace, name) = seen_by_all(view).strip_prefix(WAYPOINT)?.split_once('/')?;
    Some(NamespacedName::new(namespace, name))
}

/// Applies events to the index and puts what follows from them into the cache.
#[derive(Debug)]
pub struct Pusher {
    cache: Cache,
    clients: Clients,
    waypoints: Waypoints,
}

impl Pusher {
    /// Writes into `cache`.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { clients: Clients::new(cache.clone()), waypoints: Waypoints::new(cache.clone()), cache }
    }

    /// What writes the views of waypoints, for those who let them in.
    #[must_use]
    pub fn waypoints(&self) -> Waypoints {
        self.waypoints.clone()
    }

    /// What keeps the view of gRPC clients, for those who let them in.
    #[must_use]
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// Applies one batch. What it changes is translated from the state after the whole batch, each resource once.
    pub fn apply(&self, mesh: &Mesh, events: Vec<Event>) {
        self.apply_with(mesh, events, Vec::new());
    }

    /// The same with what was learned of keys besides.
    pub(super) fn apply_with(&self, mesh: &Mesh, events: Vec<Event>, news: Vec<News>) {
        let count = events.len();
        let mut changed: BTreeSet<ChangedKey> = BTreeSet::new();
        {
            let mut index = mesh.index_mut();
            for event in events {
                changed.extend(index.apply(event));
            }
            for news in news {
                changed.extend(index.learn(news));
            }
        }
        let keys = changed.len();
        let index = mesh.index();
        let mut nodes = Nodes::default();
        let mut pushed = 0;
        let mut endpoints: BTreeMap<NamespacedName, BTreeSet<ServiceRef>> = BTreeMap::new();
        let (mut whole, mut of_clients) = (BTreeSet::new(), BTreeSet::new());
        for key in changed {
            match key {
                ChangedKey::Waypoint(gateway) => _ = whole.insert(gateway),
                ChangedKey::Endpoints { waypoint, service } => _ = endpoints.entry(waypoint).or_default().insert(service),
                ChangedKey::Clients(service) => _ = of_clients.insert(service),
                key => nodes.add(&index, key),
            }
        }
        // Nearly all who wait are node proxies: they are told while the endpoints of waypoints are made, if none has to have more before they lead to it.
        if whole.is_empty() {
            pushed += std::mem::take(&mut nodes).write(&self.cache);
        }
        self.clients.note(of_clients);
        // For each by itself: who comes from a new place meanwhile waits for one of them, not for all.
        for gateway in &whole {
            pushed += self.waypoints.write(&index, gateway, &mut self.waypoints.known());
        }
        let mut made = BTreeMap::new();
        for (gateway, services) in endpoints.into_iter().filter(|(gateway, _)| !whole.contains(gateway)) {
            pushed += self.waypoints.endpoints(&index, &gateway, services, &mut self.waypoints.known(), &mut made);
        }
        drop(index);
        pushed += nodes.write(&self.cache);
        metrics::counter!("pilot_k8s_cfg_events").increment(count as u64);
        metrics::counter!("pilot_xds_pushes").increment(pushed as u64);
        tracing::debug!(events = count, keys, resources = pushed, "applied");
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
            ChangedKey::External(key) => self.addresses.push(translated::external(index, &key)),
            ChangedKey::Host(host) => self.addresses.extend(translated::host(index, &host)),
            ChangedKey::Policy(name) => self.policies.push(translated::policy(index, &name)),
            ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } | ChangedKey::Clients(_) => {}
        }
    }

    fn write(self, cache: &Cache) -> usize {
        cache.write(NODE_VIEW, |writer| {
            writer.update(type_url::AUTHORIZATION, self.policies);
            writer.update(type_url::ADDRESS, self.addresses);
        })
    }
}

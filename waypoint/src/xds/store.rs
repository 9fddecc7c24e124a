//! What was delivered, compiled, and its publication as one snapshot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::take,
    sync::{Arc, Mutex, PoisonError},
};

use ambit_api::{
    envoy::pb::envoy::config::{
        cluster::v3 as cluster_pb, endpoint::v3 as endpoint_pb, listener::v3 as listener_pb, route::v3 as route_pb,
    },
    envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls_pb,
    type_url,
};
use ambit_model::route::RouteTable;
use ambit_tls::Served;
use ambit_xds::{Any, Rejected, Resource, client::Subscriptions};
use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    CONNECT_TERMINATE, authority, cluster,
    listener::{self, CompiledListener},
    read::{Compiled, Problem, type_of, unpack},
    received::{self, Received},
    route, secret,
};
use crate::compiled::{Chain, Cluster, Discovery, Edge, Endpoints, Map, Proxy, Routes, Snapshot, TerminateTable};

/// Holds compiled resources by name and publishes them.
#[derive(Clone)]
pub struct Store {
    held: Arc<Mutex<Held>>,
    published: Arc<ArcSwap<Snapshot>>,
    wanted: Subscriptions,
    ports: Arc<watch::Sender<BTreeSet<u16>>>,
    changes: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Held {
    listeners: HashMap<String, CompiledListener>,
    routes: Map<Arc<str>, Arc<RouteTable>>,
    authorities: HashMap<Arc<str>, Arc<TerminateTable>>,
    clusters: Map<Arc<str>, Arc<Cluster>>,
    endpoints: Map<Arc<str>, Arc<Endpoints>>,
    secrets: HashMap<Arc<str>, Served>,
    received: Received,
}

impl Store {
    /// An empty store. `wanted` is told which routes and endpoints to ask for.
    pub fn new(wanted: Subscriptions) -> Self {
        let (ports, changes) = (Arc::new(watch::Sender::new(BTreeSet::new())), Arc::new(watch::Sender::new(())));
        Self { held: Arc::default(), published: Arc::default(), wanted, ports, changes }
    }

    /// What is in force now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// What was received, for whoever looks at it.
    pub fn received(&self) -> Received {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).received.clone()
    }

    /// The ports of the listeners at the edge of the mesh, now and later.
    pub fn ports(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.ports.subscribe()
    }

    /// Told of each change of what is in force.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What is in force now, to be read many times.
    pub fn published(&self) -> Arc<ArcSwap<Snapshot>> {
        self.published.clone()
    }

    /// The routes that are in force under a name, as they came and as they are.
    fn routes_before(&self, name: &str) -> Option<Before> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let known = held.received.of(type_url::ROUTE)?.resources.get(name)?;
        Some((known.held.as_ref()?.body.clone(), held.routes.get(name)?.clone()))
    }

    /// Applies a batch of one type: compiles off-lock, rejects by name what it cannot take (what was there before stays in force),
    /// and publishes the rest at once.
    pub fn apply(&self, type_url: &str, upserts: Vec<Resource>, removals: Vec<String>) -> Vec<Rejected> {
        let mut taken = Vec::new();
        let mut rejected = Vec::new();
        let mut received = Vec::with_capacity(upserts.len());
        for resource in upserts {
            let name = resource.name.clone();
            let before = if type_url == type_url::ROUTE { self.routes_before(&name) } else { None };
            let refused = match compile(type_url, &resource.body, before) {
                Ok(part) => {
                    taken.push((name, part));
                    None
                }
                Err(problem) => {
                    tracing::warn!(resource = name, %problem, "a resource is rejected, what was in force before stays");
                    rejected.push(Rejected { name, reason: problem.to_string() });
                    Some(problem.to_string())
                }
            };
            received.push((received::readable(type_url, resource), refused));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &removals {
            held.remove(type_url, name);
        }
        for (name, part) in taken {
            held.insert(name, part);
        }
        // What nothing refers to any more is unsubscribed, so that its removal would never be told: it is let go here.
        let (routes, endpoints, secrets) = (held.wanted_routes(), held.wanted_endpoints(), held.wanted_secrets());
        held.routes.retain(|name, _| routes.contains(&**name));
        held.authorities.retain(|name, _| routes.contains(&**name));
        held.endpoints.retain(|name, _| endpoints.contains(&**name));
        held.secrets.retain(|name, _| secrets.contains(&**name));
        held.received.take(type_url, received, &removals);
        for (named, wanted) in [(type_url::ROUTE, &routes), (type_url::ENDPOINT, &endpoints), (type_url::SECRET, &secrets)] {
            held.received.retain(named, wanted);
        }
        held.show(type_url == type_url::SECRET);
        let snapshot = held.snapshot();
        // First, so that no request meets a cluster without its endpoints. Which these are routes do not say.
        if type_url != type_url::ROUTE {
            for cluster in snapshot.clusters.values() {
                cluster.live.follow(cluster, snapshot.endpoints_of(cluster));
            }
        }
        let ports: BTreeSet<u16> = snapshot.edge.keys().copied().collect();
        self.published.store(Arc::new(snapshot));
        self.changes.send_replace(());
        self.ports.send_if_modified(|known| {
            let changed = *known != ports;
            *known = ports;
            changed
        });
        self.wanted.set(type_url::SECRET, secrets);
        self.wanted.set(type_url::ROUTE, routes);
        self.wanted.set(type_url::ENDPOINT, endpoints);
        rejected
    }
}

/// A message, and what it was compiled to.
type Before = (Bytes, Arc<RouteTable>);

enum Part {
    Listener(CompiledListener),
    Routes(Arc<RouteTable>),
    Authorities(Arc<TerminateTable>),
    Cluster(Box<Cluster>),
    Endpoints(Arc<Endpoints>),
    Secret(Served),
}

fn compile(type_url: &str, body: &Any, before: Option<Before>) -> Compiled<Part> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    match type_url {
        type_url::LISTENER => listener::listener(unpack::<listener_pb::Listener>(body, name)?).map(Part::Listener),
        type_url::CLUSTER => cluster::cluster(unpack::<cluster_pb::Cluster>(body, name)?).map(|c| Part::Cluster(Box::new(c))),
        type_url::ENDPOINT => {
            let (_, endpoints) = cluster::endpoints(unpack::<endpoint_pb::ClusterLoadAssignment>(body, name)?)?;
            Ok(Part::Endpoints(Arc::new(endpoints)))
        }
        type_url::ROUTE => {
            let before = before.as_ref().map(|(message, compiled)| (&message[..], &**compiled));
            if type_of(body) == name
                && let Some(table) = route::reuse::table(&body.value, before)
                && table.name != CONNECT_TERMINATE
            {
                return Ok(Part::Routes(Arc::new(table)));
            }
            let config: route_pb::RouteConfiguration = unpack(body, name)?;
            match config.name == CONNECT_TERMINATE || authority::is_for_tunnels(&config) {
                true => authority::table(config).map(|t| Part::Authorities(Arc::new(t))),
                false => route::table(config).map(|t| Part::Routes(Arc::new(t))),
            }
        }
        type_url::SECRET => secret::secret(unpack::<tls_pb::Secret>(body, name)?).map(Part::Secret),
        other => Err(Problem::new(format!("{other} was not asked for"))),
    }
}

impl Held {
    fn insert(&mut self, name: String, part: Part) {
        let key: Arc<str> = name.as_str().into();
        match part {
            Part::Listener(mut listener) => {
                if let (CompiledListener::Inbound(fresh), Some(CompiledListener::Inbound(before))) =
                    (&mut listener, self.listeners.get(&name))
                    && let Some(fresh) = Arc::get_mut(fresh)
                {
                    fresh.follow(before);
                }
                if let (CompiledListener::Edge(fresh), Some(CompiledListener::Edge(before))) =
                    (&listener, self.listeners.get(&name))
                {
                    fresh.follow(before);
                }
                self.listeners.insert(name, listener);
            }
            Part::Routes(mut table) => {
                if let (Some(before), Some(fresh)) = (self.routes.get(&key), Arc::get_mut(&mut table)) {
                    *fresh = take(fresh).after(before);
                }
                self.authorities.remove(&key);
                self.routes.insert(key, table);
            }
            Part::Authorities(table) => {
                self.routes.remove(&key);
                self.authorities.insert(key, table);
            }
            Part::Cluster(mut cluster) => {
                if let Some(before) = self.clusters.get(&key) {
                    cluster.live = before.live.clone();
                    cluster.retries = before.retries.clone();
                }
                self.clusters.insert(key, Arc::new(*cluster));
            }
            Part::Endpoints(endpoints) => drop(self.endpoints.insert(key, endpoints)),
            Part::Secret(served) => drop(self.secrets.insert(key, served)),
        }
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        match type_url {
            type_url::LISTENER => drop(self.listeners.remove(name)),
            type_url::ROUTE => {
                self.routes.remove(name);
                self.authorities.remove(name);
            }
            type_url::CLUSTER => drop(self.clusters.remove(name)),
            type_url::ENDPOINT => drop(self.endpoints.remove(name)),
            type_url::SECRET => drop(self.secrets.remove(name)),
            _ => {}
        }
    }

    /// Gives the chains at the edge the certificates that are there of those they name. Where none is, a chain that has changed shows what it
    /// showed, as in Envoy, until the server has `answered`.
    fn show(&self, answered: bool) {
        for secure in self.edges().flat_map(|edge| &edge.secure) {
            let held: Vec<Served> = secure.secrets.iter().filter_map(|name| self.secrets.get(name)).cloned().collect();
            if answered || !held.is_empty() {
                secure.certificates.show(held);
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let terminate = match self.listeners.get(CONNECT_TERMINATE) {
            Some(CompiledListener::Terminate(terminate)) => Some(terminate.clone()),
            _ => None,
        };
        let authorities = terminate.as_ref().and_then(|t| match &t.authorities {
            Ok(name) => self.authorities.get(name).cloned(),
            Err(table) => Some(table.clone()),
        });
        let inbound = match self.listeners.get(super::MAIN_INTERNAL) {
            Some(CompiledListener::Inbound(inbound)) => Some(inbound.clone()),
            _ => None,
        };
        let edge = self.edges().map(|edge| (edge.port, edge.clone()));
        Snapshot {
            terminate,
            authorities,
            inbound,
            edge: edge.collect::<BTreeMap<_, _>>(),
            routes: self.routes.clone(),
            clusters: self.clusters.clone(),
            endpoints: self.endpoints.clone(),
        }
    }

    fn wanted_routes(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for listener in self.listeners.values() {
            match listener {
                CompiledListener::Terminate(terminate) => {
                    names.extend(terminate.authorities.as_ref().ok().map(|n| n.to_string()))
                }
                CompiledListener::Inbound(inbound) => names.extend(inbound.chains.values().filter_map(named_routes)),
                CompiledListener::Edge(edge) => names.extend(edge.chains().filter_map(named_routes)),
                CompiledListener::Originate => {}
            }
        }
        names
    }

    /// The listeners at the edge of the mesh.
    fn edges(&self) -> impl Iterator<Item = &Arc<Edge>> {
        self.listeners.values().filter_map(|listener| match listener {
            CompiledListener::Edge(edge) => Some(edge),
            _ => None,
        })
    }

    fn wanted_secrets(&self) -> BTreeSet<String> {
        let chains = self.edges().flat_map(|edge| &edge.secure);
        chains.flat_map(|secure| &secure.secrets).map(ToString::to_string).collect()
    }

    fn wanted_endpoints(&self) -> BTreeSet<String> {
        let name = |cluster: &Arc<Cluster>| match &cluster.discovery {
            Discovery::Eds(name) => Some(name.to_string()),
            Discovery::Static(_) | Discovery::OriginalDestination => None,
        };
        self.clusters.values().filter_map(name).collect()
    }
}

/// The routes of a chain, if they are discovered.
fn named_routes(chain: &Arc<Chain>) -> Option<String> {
    match &chain.proxy {
        Proxy::Http(http) => match &http.routes {
            Routes::Named(name) => Some(name.to_string()),
            Routes::Inline(_) => None,
        },
        Proxy::Tcp(_) => None,
    }
}

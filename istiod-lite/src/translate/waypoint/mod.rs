//! Envoy v3 resources for a waypoint: one set that drives an unmodified Envoy and our own waypoint alike.
//!
//! The shapes are those of the wire contract, section 8: HBONE ends at the listener `connect_terminate`, the connection
//! inside it is matched by destination in the internal listener `main_internal`, and endpoints are reached by HBONE
//! through `connect_originate`, which expects the endpoint's exact identity. Everything is a function of the index, and
//! the same index gives the same bytes.

mod access_log;
mod admission;
mod assigned;
mod backend;
mod carried;
mod cluster;
mod connection;
mod edge;
pub(super) mod endpoint;
mod ext_authz;
mod ext_proc;
pub(super) mod hash;
mod health;
mod limiter;
mod listener;
mod locality;
mod metrics;
pub(super) mod names;
mod rbac;
mod reached;
pub(super) mod route;
pub(super) mod scope;
mod secure;
mod sizes;
mod slow_start;
#[cfg(test)]
mod tests;
mod tls;
mod traces;
mod traffic;
pub(super) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_api::workload::AppProtocol;
use prost::{Message, Name};

use crate::index::{Index, ServiceRef, Waypoint};
use crate::source::NamespacedName;
use crate::source::crd::PolicyAction;
pub use assigned::Assigned;
use listener::{Chains, KnownAuthority, ServicePortChains};
pub use locality::Place;
use names::{Layer, any_port, authority};
use rbac::Enforcement;
pub(crate) use rbac::{of_services_at_waypoints, unknown_at_waypoints};
use reached::Reached;
use route::Backend;
pub use route::RouteMemory;
pub(crate) use route::{RequestRoute, grpc_as_http, session};
use scope::{ServedPort, Spoken};
pub use wire::Any;

/// Resources of one waypoint with their names, in the order of those.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// `envoy.config.listener.v3.Listener`
    pub listeners: Vec<(String, Any)>,
    /// `envoy.config.route.v3.RouteConfiguration`
    pub routes: Vec<(String, Any)>,
    /// `envoy.config.cluster.v3.Cluster`
    pub clusters: Vec<(String, Any)>,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    pub endpoints: Vec<(String, Any)>,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    pub secrets: Vec<(String, Any)>,
    /// Of the endpoints those that are others at some places, by the name of the cluster and by what the place is called.
    pub placed: BTreeMap<String, Vec<(Arc<str>, Any)>>,
    /// Whether any endpoints are asked for by place.
    pub by_place: bool,
}

/// The resources of the waypoint that a Gateway asks for, or of the proxy that it is at the edge of the mesh; `None` when it is neither.
#[must_use]
pub fn translate(index: &Index, gateway: &NamespacedName) -> Option<Resources> {
    translate_for(index, gateway, &[])
}

/// The same for a waypoint that runs at these places.
#[must_use]
pub fn translate_for(index: &Index, gateway: &NamespacedName, places: &[Place]) -> Option<Resources> {
    translate_with(index, gateway, places, &mut RouteMemory::default())
}

/// The same, where the memory is that of the translation before this one, if there was one. It is only a matter of time.
#[must_use]
pub fn translate_with(index: &Index, gateway: &NamespacedName, places: &[Place], memory: &mut RouteMemory) -> Option<Resources> {
    memory.begin(index);
    let made = if let Some(waypoint) = index.waypoint(gateway) {
        Some(Translation { places, ..Translation::new(index, &waypoint, memory) }.run())
    } else {
        let ingress = index.ingress(gateway);
        ingress.map(|ingress| Translation { places, ..Translation::new(index, &ingress, memory) }.run_at_edge())
    };
    memory.end();
    made
}

/// The endpoints of a service as waypoints have them, by the name of the cluster. A waypoint has those of the clusters that its other
/// resources name.
#[must_use]
pub fn assignments(index: &Index, service: &ServiceRef) -> Vec<(String, Any)> {
    assignments_for(index, service, &[]).into_iter().map(|assigned| (assigned.cluster, assigned.everywhere)).collect()
}

/// The same, as they are at these places.
#[must_use]
pub fn assignments_for(index: &Index, service: &ServiceRef, places: &[Place]) -> Vec<Assigned> {
    endpoint::assignments(index, service, places).iter().map(Assigned::of).collect()
}

/// Resources of one type by their names.
type Named = BTreeMap<String, Any>;

/// The work on one waypoint.
struct Translation<'a> {
    index: &'a Index,
    waypoint: &'a Waypoint,
    /// What routes were translated to before.
    memory: &'a mut RouteMemory,
    trust_domain: String,
    chains: Chains,
    known: Vec<KnownAuthority>,
    backends: BTreeSet<Backend>,
    /// At the edge of the mesh, where what clients speak says nothing of services: those among them that GRPCRoutes lead to.
    of_grpc: Option<BTreeSet<Backend>>,
    listeners: Named,
    routes: Named,
    clusters: Named,
    endpoints: Named,
    secrets: Named,
    /// Where the waypoint runs.
    places: &'a [Place],
    placed: BTreeMap<String, Vec<(Arc<str>, Any)>>,
    by_place: bool,
}

impl<'a> Translation<'a> {
    fn new(index: &'a Index, waypoint: &'a Waypoint, memory: &'a mut RouteMemory) -> Self {
        Self {
            index,
            waypoint,
            memory,
            trust_domain: index.config().trust_domain.to_string(),
            chains: Chains::default(),
            known: Vec::new(),
            backends: BTreeSet::new(),
            of_grpc: None,
            listeners: Named::new(),
            routes: Named::new(),
            clusters: Named::new(),
            endpoints: Named::new(),
            secrets: Named::new(),
            places: &[],
            placed: BTreeMap::new(),
            by_place: false,
        }
    }

    fn run(mut self) -> Resources {
        let ports = scope::ports(self.index, self.waypoint);
        for of_service in ports.chunk_by(|one, other| one.service == other.service) {
            self.service(of_service);
        }
        for (identity, addresses) in scope::pods(self.index, self.waypoint) {
            let (mut for_requests, for_connections) = (self.policies(None, Layer::Http), self.policies(None, Layer::Tcp));
            for_requests.traces = traces::asked(self.index, self.waypoint, None);
            self.authorizers(&for_requests);
            self.collectors(&for_connections);
            self.known.push(KnownAuthority {
                name: format!("direct|{identity}"),
                domains: addresses.iter().copied().map(any_port).collect(),
                enforcement: Enforcement::default(),
            });
            self.chains.pods(&identity, addresses, &for_requests, &for_connections);
        }
        self.http_backends();
        let inner = listener::inner(std::mem::take(&mut self.chains), &self.index.administrators());
        let listeners = [listener::terminate(&self.trust_domain), inner, listener::originate()];
        for listener in listeners {
            insert(&mut self.listeners, listener.name.clone(), &listener);
        }
        let known = listener::terminate_routes(std::mem::take(&mut self.known));
        insert(&mut self.routes, known.name.clone(), &known);
        for cluster in cluster::fixed(&self.trust_domain) {
            insert(&mut self.clusters, cluster.name.clone(), &cluster);
        }
        self.resources()
    }

    fn resources(self) -> Resources {
        Resources {
            listeners: self.listeners.into_iter().collect(),
            routes: self.routes.into_iter().collect(),
            clusters: self.clusters.into_iter().collect(),
            endpoints: self.endpoints.into_iter().collect(),
            secrets: self.secrets.into_iter().collect(),
            placed: self.placed,
            by_place: self.by_place,
        }
    }

    /// All ports of one service.
    fn service(&mut self, ports: &[ServedPort<'_>]) {
        let mut chains = Vec::new();
        for port in ports {
            let (mut for_requests, for_connections) =
                (self.policies(Some(port), Layer::Http), self.policies(Some(port), Layer::Tcp));
            self.collectors(&for_connections);
            let layers = port.layers();
            if layers.contains(&Layer::Http) {
                let configured = route::configuration(self.index, port, &mut self.backends, self.memory);
                for_requests.processes = ext_proc::asked(self.index, &configured.named.processors);
                for_requests.limiters = limiter::servers(self.index, &configured.named.limiters);
                for_requests.bodies = configured.named.bodies;
                for_requests.traces = traces::asked(self.index, self.waypoint, Some(port));
                self.authorizers(&for_requests);
                self.routes.insert(configured.name, configured.resource);
            }
            if layers.contains(&Layer::Tcp) {
                match connection::backends(self.index, port) {
                    None => {
                        let own = Backend { service: port.service.clone(), port: port.port.port, subset: None };
                        self.cluster(&port.chain(Layer::Tcp), &own, Layer::Tcp, port.port.protocol);
                    }
                    Some(backends) => backends.iter().for_each(|backend| self.backend(backend, Layer::Tcp)),
                }
            }
            let before_tunnel = if port.spoken() == Spoken::Tcp { for_connections.clone() } else { Enforcement::default() };
            self.known.push(KnownAuthority {
                name: format!("{}|{}", port.port.port, port.name),
                domains: port.addresses.iter().map(|address| authority(*address, port.port.port)).collect(),
                enforcement: before_tunnel,
            });
            let (targets, named) = (connection::targets(self.index, port), connection::named(self.index, port));
            chains.push(ServicePortChains { port, for_requests, for_connections, targets, named });
        }
        self.chains.service(&chains);
    }

    /// The policies that hold for a service port, or for pods dialled by their address.
    fn policies(&self, port: Option<&ServedPort<'_>>, layer: Layer) -> Enforcement {
        let mut policies = self.index.policies_of_waypoint(&self.waypoint.name);
        if let Some(ServiceRef::Kubernetes(service)) = port.map(|port| &port.service) {
            policies.extend(self.index.policies_of_service(service));
        }
        let place = rbac::Place {
            layer,
            port: port.map(|port| port.port.port),
            addresses: port.map(|port| port.addresses.as_slice()),
            trust_domain: &self.trust_domain,
        };
        let (asking, policies): (Vec<_>, Vec<_>) = policies.into_iter().partition(|policy| {
            let custom = policy.spec.action == PolicyAction::Custom;
            // Of bytes nobody is asked.
            custom && layer == Layer::Http && self.index.asked_by(policy).is_ok()
        });
        let mut enforcement = rbac::compile(&policies, place);
        enforcement.asks = ext_authz::asks(self.index, &asking, place);
        let mut of_tokens = self.index.token_policies_of_waypoint(&self.waypoint.name);
        if let Some(ServiceRef::Kubernetes(service)) = port.map(|port| &port.service) {
            of_tokens.extend(self.index.token_policies_of_service(service));
        }
        match layer {
            Layer::Http => rbac::verify_tokens(&of_tokens, self.index.learned(), &mut enforcement),
            // Here the first bytes decide, and who sends them may make a request look like something else.
            Layer::Tcp if port.is_none_or(|port| port.spoken() == Spoken::Unknown) => {
                rbac::refuse_connections(&of_tokens, &mut enforcement);
            }
            // Said to be no requests: there is no token to look for.
            Layer::Tcp => {}
        }
        enforcement.logs = access_log::asked(self.index, &self.waypoint.name, port.map(|port| &port.service));
        enforcement.metrics = self.index.measured(&self.waypoint.name, port.map(|port| &port.service));
        if let (Layer::Http, Some(port)) = (layer, port) {
            enforcement.admission = admission::asked(self.index, &port.service, port.port.port);
        }
        enforcement
    }

    /// The clusters of those who are asked, of those who process, and of those who are told of spans.
    fn authorizers(&mut self, enforcement: &Enforcement) {
        for ask in &enforcement.asks {
            self.asked(&ask.reached);
        }
        for of in enforcement.limiters.iter().filter_map(|limiter| limiter.reached.as_ref()) {
            self.asked(of);
        }
        for process in &enforcement.processes {
            self.asked(&process.reached);
        }
        if let Some(of) = &enforcement.traces {
            self.asked(&of.reached);
        }
        self.collectors(enforcement);
    }

    /// The clusters of collectors of access logs.
    fn collectors(&mut self, enforcement: &Enforcement) {
        for of in enforcement.logs.iter().flatten().filter_map(|log| log.reached.as_ref()) {
            self.asked(of);
        }
    }

    fn asked(&mut self, of: &Reached) {
        self.assign(&endpoint::assignment(self.index, &of.endpoints, (&of.service, of.port), None, self.places));
        let cluster = cluster::authorizer(&of.cluster, &label(&of.service), &of.endpoints, of.http2);
        insert(&mut self.clusters, of.cluster.clone(), &cluster);
    }

    fn assign(&mut self, made: &endpoint::Made) {
        self.by_place |= made.by_place;
        let Assigned { cluster, everywhere, placed } = Assigned::of(made);
        if !placed.is_empty() {
            self.placed.insert(cluster.clone(), placed);
        }
        self.endpoints.insert(cluster, everywhere);
    }

    /// The clusters of all services that requests are routed to.
    fn http_backends(&mut self) {
        for backend in std::mem::take(&mut self.backends) {
            self.backend(&backend, Layer::Http);
        }
    }

    fn backend(&mut self, backend: &Backend, layer: Layer) {
        let port = self.index.service_ports(&backend.service).into_iter().find(|port| port.port == backend.port);
        if let Some(port) = port {
            self.cluster(&backend.cluster(self.index, layer), backend, layer, port.protocol);
        }
    }

    fn cluster(&mut self, name: &str, to: &Backend, layer: Layer, protocol: AppProtocol) {
        let (service, port, subset) = (&to.service, to.port, to.subset.as_deref());
        let label = label(service);
        let mut made = if let Some(names) = scope::looked_up(self.index, service, port) {
            cluster::looked_up(name, &label, layer, protocol, &names)
        } else {
            self.assign(&endpoint::assignment(self.index, name, (service, port), subset, self.places));
            cluster::service(name, &label, layer, protocol)
        };
        traffic::asked(self.index, service, port, subset).apply_to(&mut made, layer);
        let leads = |backend: &Backend| (&backend.service, backend.port) == (service, port);
        if layer == Layer::Http && self.of_grpc.as_ref().is_some_and(|of_grpc| !of_grpc.iter().any(leads)) {
            cluster::not_as_clients(&mut made, protocol);
        }
        insert(&mut self.clusters, name.into(), &made);
    }
}

/// What a service is called in logs.
fn label(service: &ServiceRef) -> String {
    match service {
        ServiceRef::Kubernetes(name) | ServiceRef::Host(name) => name.to_string(),
    }
}

fn insert<T: Message + Name>(resources: &mut Named, name: String, message: &T) {
    resources.insert(name, wire::any(message));
}

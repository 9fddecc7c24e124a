//! The proxy of a Gateway at the edge of the mesh: listeners for clients that come in no tunnel, routes by host, and endpoints reached as
//! a waypoint reaches them, by the proxy's own identity.
//!
//! A request is for the listener of its port that says its host most closely, and sees the routes of that one alone; among them for the
//! host that is said most closely. Where that has no rule for it, it is not found.

use std::collections::{BTreeMap, BTreeSet};

use ambit_api::envoy::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use gateway_api::gateways::GatewayListeners;

use super::names::{CONNECT_ORIGINATE, Layer, ingress};
use super::route::{self, Backend, RequestRoute, requests};
use super::scope::ServedPort;
use super::wire::{bool_value, entry, in_order};
use super::{Resources, Translation, cluster, ext_proc, insert, limiter, listener, sizes};
use crate::index::{HTTPS, RouteKey, ServiceRef, TCP, TLS, covers_host, listener_host, unserved};
use crate::source::Kind;

/// The routes for each host.
pub(super) type Hosts = BTreeMap<String, Vec<RequestRoute>>;

impl Translation<'_> {
    /// All resources, where the Gateway is at the edge of the mesh.
    pub(super) fn run_at_edge(mut self) -> Resources {
        let gateway = self.waypoint.gateway.clone();
        self.of_grpc = Some(BTreeSet::new());
        let mut ports: BTreeMap<u16, Vec<&GatewayListeners>> = BTreeMap::new();
        for listener in gateway.spec.listeners.iter().filter(|listener| unserved(&gateway, listener).is_none()) {
            if let Ok(port) = u16::try_from(listener.port) {
                ports.entry(port).or_default().push(listener);
            }
        }
        for (port, listeners) in ports {
            self.port_at_edge(port, &listeners);
        }
        for backend in std::mem::take(&mut self.backends) {
            self.backend_at_edge(&backend, Layer::Http);
        }
        let originate = listener::originate();
        insert(&mut self.listeners, originate.name.clone(), &originate);
        for cluster in cluster::fixed(&self.trust_domain).into_iter().filter(|cluster| cluster.name == CONNECT_ORIGINATE) {
            insert(&mut self.clusters, cluster.name.clone(), &cluster);
        }
        self.resources()
    }

    /// The cluster of a backend that may be reached from outside of the mesh. Without it requests are answered as those to an invalid backend, and
    /// connections are ended; the status of the route says why.
    pub(super) fn backend_at_edge(&mut self, backend: &Backend, layer: Layer) {
        let kept = match &backend.service {
            ServiceRef::Kubernetes(service) => self.index.kept_from_ingress(service).is_some(),
            ServiceRef::Host(_) => false,
        };
        if !kept {
            self.backend(backend, layer);
        }
    }

    /// One port with all of its listeners, which can be told apart by what clients say first.
    fn port_at_edge(&mut self, port: u16, listeners: &[&GatewayListeners]) {
        if listeners.iter().any(|listener| matches!(listener.protocol.as_str(), HTTPS | TLS)) {
            return self.secure_port_at_edge(port, listeners);
        }
        if let Some(only) = listeners.iter().find(|listener| listener.protocol == TCP) {
            return self.connections_at_edge(port, only);
        }
        let place = ServedPort::at_edge(&self.waypoint.name, port);
        let mut enforcement = self.policies(Some(&place), Layer::Http);
        let mut hosts = Hosts::new();
        for listener in listeners {
            hosts.append(&mut self.hosts_of(listener, listeners));
        }
        let mut virtual_hosts = self.virtual_hosts(&place, hosts);
        enforcement.processes = ext_proc::processes(self.index, &mut virtual_hosts);
        enforcement.limiters = limiter::named(self.index, &virtual_hosts);
        enforcement.bodies = sizes::named(&virtual_hosts);
        self.authorizers(&enforcement);
        let listener = listener::edge(port, &enforcement);
        insert(&mut self.listeners, listener.name.clone(), &listener);
        let routes = RouteConfiguration { name: ingress(port), virtual_hosts, ..table() };
        self.routes.insert(routes.name.clone(), in_order(routes));
    }

    /// A virtual host for each host.
    pub(super) fn virtual_hosts(&mut self, place: &ServedPort<'_>, hosts: Hosts) -> Vec<VirtualHost> {
        let mut virtual_hosts = Vec::new();
        for (host, routes) in hosts {
            let of_grpc: Vec<_> = routes.iter().filter(|route| route.kind == Kind::GrpcRoute).cloned().collect();
            if !of_grpc.is_empty() {
                route::ordered_routes(self.index, place, &of_grpc, self.of_grpc.get_or_insert_default());
            }
            let routes = route::ordered_routes(self.index, place, &routes, &mut self.backends);
            let named = routes.iter().flat_map(requests::limits).map(|(kind, policy)| (kind.to_owned(), policy.to_owned()));
            let limits = requests::of_host(self.index, &named.collect());
            let typed_per_filter_config = limits.map(|limits| entry(requests::LIMITS, limits)).unwrap_or_default();
            let domains = vec![host.clone()];
            virtual_hosts.push(VirtualHost { name: host, domains, routes, typed_per_filter_config, ..Default::default() });
        }
        virtual_hosts
    }

    /// The routes for each host that a listener of a port, or a route on it, names. The host of a listener without routes is among them: requests
    /// for it are not found, whatever another one of `listeners` has that is for more hosts. What is for a host that another says more closely is
    /// not: so no host is among those of two listeners.
    pub(super) fn hosts_of(&self, listener: &GatewayListeners, listeners: &[&GatewayListeners]) -> Hosts {
        let mut hosts = Hosts::new();
        let own = listener_host(listener);
        hosts.entry(own.clone()).or_default();
        for taken in self.index.routes_on(&self.waypoint.name, listener) {
            let Some(route) = self.request_route(&taken.route) else { continue };
            for host in taken.hosts.into_iter().filter(|host| says_most_closely(&own, listeners, host)) {
                hosts.entry(host).or_default().push(route.clone());
            }
        }
        hosts
    }

    fn request_route(&self, key: &RouteKey) -> Option<RequestRoute> {
        let objects = self.index.objects();
        match key.kind {
            Kind::HttpRoute => objects.http_routes.get(&key.name).map(RequestRoute::http),
            Kind::GrpcRoute => objects.grpc_routes.get(&key.name).and_then(|route| self.index.request_route(route)),
            _ => None,
        }
    }
}

/// Whether of the listeners of a port the one for the host `own` says a host most closely.
pub(super) fn says_most_closely(own: &str, listeners: &[&GatewayListeners], host: &str) -> bool {
    let others = listeners.iter().map(|other| listener_host(other)).filter(|other| covers_host(other, host));
    // `*.b.c` is as long as `a.b.c`, and not as close.
    others.max_by_key(|other| (!other.starts_with('*'), other.len())).is_some_and(|closest| closest == own)
}

/// What the route configurations at the edge have alike.
pub(super) fn table() -> RouteConfiguration {
    RouteConfiguration {
        validate_clusters: bool_value(false),
        most_specific_header_mutations_wins: true,
        // A client says the port that it has dialled, which may be another one in front of the pod.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

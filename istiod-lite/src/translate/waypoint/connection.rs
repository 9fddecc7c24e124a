//! TLSRoutes and TCPRoutes: connections to a service port spread over other services by weight, by the server name that a TLS client says
//! first or without looking at anything.
//!
//! Routes of the service's own namespace hold, in place of the service itself (GEP-1294): all TLSRoutes, each for its names, or else the
//! oldest TCPRoute. Routes of other namespaces for their own clients cannot be carried out: which client it is, is not known where a
//! filter chain is chosen.

use std::cmp::Reverse;

use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;

use super::names::{INVALID_BACKEND, Layer, inbound_name};
use super::route::{Backend, Reference, resolve};
use super::scope::ServedPort;
use crate::index::Index;
use crate::source::{Kind, NamespacedName};

/// A backend with its weight; `None` stands for one that is invalid, and keeps its share.
pub type Weighted = (Option<Backend>, u32);

/// The backends of a route with their weights, zero left out. Both kinds have the same fields in types of their own.
macro_rules! backends {
    ($name:ident, $route:ty, $kind:expr) => {
        pub fn $name(index: &Index, port: &ServedPort<'_>, route: &$route) -> Vec<Weighted> {
            let namespace = NamespacedName::of(&route.metadata).namespace;
            let references = route.spec.rules.first().map(|rule| rule.backend_refs.as_slice()).unwrap_or_default();
            let weighted = references.iter().map(|backend| (backend, u32::try_from(backend.weight.unwrap_or(1)).unwrap_or(1)));
            weighted
                .filter(|(_, weight)| *weight > 0)
                .map(|(backend, weight)| {
                    let reference = Reference {
                        group: backend.group.as_deref(),
                        kind: backend.kind.as_deref(),
                        namespace: backend.namespace.as_deref(),
                        name: &backend.name,
                        port: backend.port,
                    };
                    (resolve(index, &port.service, ($kind, &namespace), reference), weight)
                })
                .collect()
        }
    };
}
backends!(of_tcp_route, TcpRoute, Kind::TcpRoute);
backends!(of_tls_route, TlsRoute, Kind::TlsRoute);

/// All backends of the routes for connections to a port; `None` when it has no route, so that its own cluster is meant.
pub fn backends(index: &Index, port: &ServedPort<'_>) -> Option<Vec<Backend>> {
    let by_name = port.attached.names().iter().flat_map(|route| of_tls_route(index, port, route));
    let spread = port.attached.connections().into_iter().flat_map(|route| of_tcp_route(index, port, route));
    let any = !port.attached.names().is_empty() || port.attached.connections().is_some();
    any.then(|| by_name.chain(spread).filter_map(|(backend, _)| backend).collect())
}

/// The clusters that connections to a port without TLSRoutes are spread over, with their weights. Without any valid one connections are
/// refused.
pub fn targets(index: &Index, port: &ServedPort<'_>) -> Vec<(String, u32)> {
    match port.attached.connections() {
        Some(route) => clusters(index, of_tcp_route(index, port, route)),
        None => vec![(port.chain(Layer::Tcp), 1)],
    }
}

/// What connections do that say one of some server names.
#[derive(Debug)]
pub struct Named {
    /// The filter chain.
    pub chain: String,
    /// The clusters with their weights; never empty.
    pub targets: Vec<(String, u32)>,
}

/// The chains of a port's TLSRoutes.
pub fn named(index: &Index, port: &ServedPort<'_>) -> Vec<Named> {
    let chain =
        |route: &TlsRoute| Named { chain: chain_of(port, route), targets: clusters(index, of_tls_route(index, port, route)) };
    port.attached.names().iter().map(|route| chain(route)).collect()
}

/// Which chain a server name leads to, as the first of these that fits: whole names, then the longest wildcards; of equal ones the oldest
/// route's.
pub fn leads(port: &ServedPort<'_>) -> Vec<(String, String)> {
    let mut leads: Vec<(String, String)> = Vec::new();
    for route in port.attached.names() {
        for host in &route.spec.hostnames {
            if leads.iter().all(|(known, _)| known != host) {
                leads.push((host.clone(), chain_of(port, route)));
            }
        }
    }
    // Stable, so that those of one length stay in the order of their routes.
    leads.sort_by_key(|(host, _)| (host.starts_with("*."), Reverse(host.len())));
    leads
}

fn chain_of(port: &ServedPort<'_>, route: &TlsRoute) -> String {
    inbound_name(port.port.port, &NamespacedName::of(&route.metadata), &port.name)
}

/// Clusters, each once.
pub fn clusters(index: &Index, backends: Vec<Weighted>) -> Vec<(String, u32)> {
    let mut targets: Vec<(String, u32)> = Vec::new();
    for (backend, weight) in backends {
        let name = backend.map_or_else(|| INVALID_BACKEND.to_owned(), |backend| backend.cluster(index, Layer::Tcp));
        match targets.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total = total.saturating_add(weight),
            None => targets.push((name, weight)),
        }
    }
    if targets.is_empty() { vec![(INVALID_BACKEND.to_owned(), 1)] } else { targets }
}

//! TCPRoutes: connections to a service port spread over other services by weight.
//!
//! A route of the service's own namespace holds, in place of the service itself (GEP-1294). Of several the oldest does. Routes of
//! other namespaces for their own clients cannot be carried out: which client it is, is not known where a filter chain is chosen.

use gateway_api::experimental::tcproutes::TcpRoute;

use super::names::{INVALID_BACKEND, Layer};
use super::route::{Backend, Reference, resolve};
use super::scope::ServedPort;
use crate::index::Index;
use crate::source::{Kind, NamespacedName};

/// The backends of a route with their weights, zero left out; `None` stands for one that is invalid, and keeps its share.
pub fn backends(index: &Index, port: &ServedPort<'_>, route: &TcpRoute) -> Vec<(Option<Backend>, u32)> {
    let namespace = NamespacedName::of(&route.metadata).namespace;
    let references = route.spec.rules.first().map(|rule| rule.backend_refs.as_slice()).unwrap_or_default();
    let mut backends = Vec::new();
    for backend in references {
        let weight = u32::try_from(backend.weight.unwrap_or(1)).unwrap_or(1);
        if weight == 0 {
            continue;
        }
        let reference = Reference {
            group: backend.group.as_deref(),
            kind: backend.kind.as_deref(),
            namespace: backend.namespace.as_deref(),
            name: &backend.name,
            port: backend.port,
        };
        backends.push((resolve(index, &port.service, (Kind::TcpRoute, &namespace), reference), weight));
    }
    backends
}

/// The clusters that connections to a port are spread over, with their weights. Without any valid one connections are refused.
pub fn targets(index: &Index, port: &ServedPort<'_>) -> Vec<(String, u32)> {
    let Some(route) = port.attached.connections() else { return vec![(port.chain(Layer::Tcp), 1)] };
    let mut targets: Vec<(String, u32)> = Vec::new();
    for (backend, weight) in backends(index, port, route) {
        let name = backend.map_or_else(|| INVALID_BACKEND.to_owned(), |backend| backend.cluster(index, Layer::Tcp));
        match targets.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total = total.saturating_add(weight),
            None => targets.push((name, weight)),
        }
    }
    if targets.is_empty() { vec![(INVALID_BACKEND.to_owned(), 1)] } else { targets }
}

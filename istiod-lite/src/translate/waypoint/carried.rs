//! Listeners at the edge of the mesh that carry connections: by the server name that a TLS client says first, whether TLS ends here or is passed
//! on as it is, or without looking at anything.
//!
//! A server name is for the listener of its port that says it most closely, and there for the route that does; a name that this one has no
//! route for goes to no other listener.

use std::collections::BTreeSet;

use ambit_api::workload::AppProtocol;
use gateway_api::gateways::GatewayListeners;

use super::connection::{self, Weighted};
use super::edge::says_most_closely;
use super::listener::Carried;
use super::names::{BLOCKED, Layer, ingress, ingress_route};
use super::scope::ServedPort;
use super::{Translation, insert, listener, tls};
use crate::index::{ends_tls, listener_host};
use crate::source::NamespacedName;

/// The place of a port at the edge of the mesh that carries connections.
pub(super) fn place<'a>(gateway: &NamespacedName, port: u16) -> ServedPort<'a> {
    let mut place = ServedPort::at_edge(gateway, port);
    place.port.protocol = AppProtocol::Tcp;
    place
}

impl Translation<'_> {
    /// A port of which nothing is looked at: the oldest of its routes takes every connection. Without one it is closed.
    pub(super) fn connections_at_edge(&mut self, port: u16, own: &GatewayListeners) {
        let (index, place) = (self.index, place(&self.waypoint.name, port));
        let oldest = index.routes_on(&self.waypoint.name, own).into_iter().next();
        let Some(route) = oldest.and_then(|taken| index.objects().tcp_routes.get(&taken.route.name)) else { return };
        let targets = self.targets_at_edge(connection::of_tcp_route(index, &place, route));
        let carried = Carried { name: ingress(port), hosts: Vec::new(), socket: None, targets };
        let enforcement = self.policies(Some(&place), Layer::Tcp);
        self.collectors(&enforcement);
        let listener = listener::carrying(port, &carried, &enforcement);
        insert(&mut self.listeners, listener.name.clone(), &listener);
    }

    /// What a listener carries, by the server names of its routes. Where TLS ends at it and it has no certificate it carries nothing.
    pub(super) fn names_at_edge(
        &mut self,
        place: &ServedPort<'_>,
        own: &GatewayListeners,
        listeners: &[&GatewayListeners],
    ) -> Vec<Carried> {
        let (index, host) = (self.index, listener_host(own));
        let secrets = if ends_tls(own) { self.certificates_of(own) } else { Vec::new() };
        // What is spoken in it nobody here knows.
        let socket = if secrets.is_empty() { None } else { tls::at_edge(&secrets, &[]) };
        let mut routes = index.routes_on(&self.waypoint.name, own);
        if ends_tls(own) && secrets.is_empty() {
            routes.clear();
        }
        let (mut said, mut carried) = (BTreeSet::new(), Vec::new());
        for taken in routes {
            let Some(route) = index.objects().tls_routes.get(&taken.route.name) else { continue };
            let mut hosts = taken.hosts;
            // Of routes for one name the oldest holds.
            hosts.retain(|name| says_most_closely(&host, listeners, name) && said.insert(name.clone()));
            if !hosts.is_empty() {
                let targets = self.targets_at_edge(connection::of_tls_route(index, place, route));
                let name = ingress_route(place.port.port, &own.name, Some(&taken.route.name));
                carried.push(Carried { name, hosts, socket: socket.clone(), targets });
            }
        }
        if !said.contains(&host) {
            carried.extend(refused(place.port.port, own));
        }
        carried
    }

    /// The clusters of backends, which are sent along unless something keeps from them.
    fn targets_at_edge(&mut self, backends: Vec<Weighted>) -> Vec<(String, u32)> {
        for backend in backends.iter().filter_map(|(backend, _)| backend.as_ref()) {
            self.backend_at_edge(backend, Layer::Tcp);
        }
        connection::clusters(self.index, backends)
    }
}

/// What keeps connections for a listener that carries none of them from those that are for more names; `None` where it is for any name, as none
/// is.
pub(super) fn refused(port: u16, own: &GatewayListeners) -> Option<Carried> {
    let host = listener_host(own);
    (host != "*").then(|| Carried {
        name: ingress_route(port, &own.name, None),
        hosts: vec![host],
        socket: None,
        targets: vec![(BLOCKED.to_owned(), 1)],
    })
}

/// Whether anything is carried there.
pub(super) fn is_carried(carried: &Carried) -> bool {
    carried.targets.iter().any(|(cluster, _)| cluster != BLOCKED)
}

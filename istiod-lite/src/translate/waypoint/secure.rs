//! Ports at the edge of the mesh that speak TLS: each listener of the Gateway has a filter chain, found by the server name that a client asks for,
//! and routes of its own, so that a connection for one reaches no routes of another.
//!
//! Listeners that do not look at requests ([`super::carried`]) may be on the same port, as a server name is all that tells one from another.
//!
//! A request for a host of another listener of the port is misdirected (421; RFC 9110, section 15.5.20, GEP-3567): its client has taken a
//! connection that it had for the one. A request for a host of none is not found.

use ambit_api::envoy::pb::envoy::config::route::v3::route_match::PathSpecifier;
use ambit_api::envoy::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
};
use gateway_api::gateways::GatewayListeners;

use super::edge::table;
use super::listener::Secure;
use super::names::{Layer, certificate, ingress_listener};
use super::scope::ServedPort;
use super::wire::in_order;
use super::{Translation, carried, ext_proc, insert, limiter, listener, sizes, tls};
use crate::index::{TLS, listener_host};

/// The status of what is misdirected.
const MISDIRECTED: u32 = 421;

impl Translation<'_> {
    /// One port with all of its listeners. Those without a certificate are left out, and the port is closed where all are: what comes for their
    /// hosts by the connection of another listener is misdirected.
    pub(super) fn secure_port_at_edge(&mut self, port: u16, listeners: &[&GatewayListeners]) {
        let place = ServedPort { secure: true, ..ServedPort::at_edge(&self.waypoint.name, port) };
        let mut enforcement = self.policies(Some(&place), Layer::Http);
        let connections = carried::place(&self.waypoint.name, port);
        let passes_by_name = listeners.iter().any(|listener| listener.protocol == TLS);
        let (mut served, mut tables, mut carried) = (Vec::new(), Vec::new(), Vec::new());
        for own in listeners {
            if own.protocol == TLS {
                carried.extend(self.names_at_edge(&connections, own, listeners));
                continue;
            }
            let secrets = self.certificates_of(own);
            if secrets.is_empty() {
                // Where nobody looks at requests none could be told that it is misdirected.
                carried.extend(carried::refused(port, own).filter(|_| passes_by_name));
                continue;
            }
            let (name, host) = (ingress_listener(port, &own.name), listener_host(own));
            let mut virtual_hosts = self.virtual_hosts(&place, self.hosts_of(own, listeners));
            let others = listeners.iter().map(|other| listener_host(other)).filter(|other| *other != host);
            virtual_hosts.extend(others.map(misdirected));
            tables.push(RouteConfiguration { name: name.clone(), virtual_hosts, ..table() });
            served.push(Secure { name, host, socket: tls::at_edge(&secrets, &["h2", "http/1.1"]) });
        }
        // The chains have the same filters, so these are what the routes of any of them name.
        enforcement.processes = ext_proc::processes(self.index, tables.iter_mut().flat_map(|table| &mut table.virtual_hosts));
        enforcement.limiters = limiter::named(self.index, tables.iter().flat_map(|table| &table.virtual_hosts));
        enforcement.bodies = sizes::named(tables.iter().flat_map(|table| &table.virtual_hosts));
        self.routes.extend(tables.into_iter().map(|table| (table.name.clone(), in_order(table))));
        if !served.is_empty() {
            self.authorizers(&enforcement);
        }
        if !served.is_empty() || carried.iter().any(carried::is_carried) {
            let for_connections = self.policies(Some(&connections), Layer::Tcp);
            if !carried.is_empty() {
                self.collectors(&for_connections);
            }
            let listener = listener::secure(port, &served, &carried, (&enforcement, &for_connections));
            insert(&mut self.listeners, listener.name.clone(), &listener);
        }
    }

    /// The names of the secrets with the certificates of a listener, which are sent along.
    pub(super) fn certificates_of(&mut self, listener: &GatewayListeners) -> Vec<String> {
        let mut names = Vec::new();
        for (secret, held) in self.index.certificates(&self.waypoint.name, listener).into_iter().flatten() {
            let name = certificate(&secret);
            if let Ok(pair) = &held.pair
                && !names.contains(&name)
            {
                insert(&mut self.secrets, name.clone(), &tls::certificate(&name, pair));
                names.push(name);
            }
        }
        names
    }
}

/// What answers for a host of another listener.
fn misdirected(host: String) -> VirtualHost {
    let route = Route {
        name: "misdirected".into(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }),
        action: Some(Action::DirectResponse(DirectResponseAction { status: MISDIRECTED, ..Default::default() })),
        ..Default::default()
    };
    VirtualHost { name: host.clone(), domains: vec![host], routes: vec![route], ..Default::default() }
}

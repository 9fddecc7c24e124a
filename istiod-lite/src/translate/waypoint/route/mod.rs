//! HTTPRoutes and GRPCRoutes as Envoy route configurations, one per HTTP service port.
//!
//! Producer routes (of the service's namespace) hold for all clients. Consumer routes (of another namespace) hold for
//! the clients of that namespace, told by their certificates, and for them take the place of the producer's without
//! merging (GEP-1294). Routes attached to the waypoint's own Gateway hold for services without a route of their own.
//! A VirtualService holds where no producer route does, in the order in which it is written.
//! Within each of these sets the precedence of the specification orders all matches of all routes. `hostnames` are
//! ignored, as the specification asks of mesh routes.

mod action;
pub mod cors;
pub mod deadline;
mod filter;
mod grpc;
mod matching;
mod memory;
mod mirror;
mod redirect;
pub mod requests;
mod retry;
pub mod session;
mod table;
#[cfg(test)]
mod tests;
mod upgrades;
mod virtual_match;
mod virtual_retry;
mod virtual_service;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::route::v3::{Route, RouteMatch, route::Action, route_match::PathSpecifier};
use gateway_api::experimental::httproutes::HttpRouteParentRefs;
use gateway_api::experimental::tcproutes::{TcpRoute, TcpRouteParentRefs};
use gateway_api::experimental::tlsroutes::{TlsRoute, TlsRouteParentRefs};

use super::hash;
use super::names::{self, Layer, inbound_vip};
use super::scope::ServedPort;
use crate::index::{Index, ServiceRef, ToListener};
use crate::source::crd::virtual_service::VirtualService;
use crate::source::{Kind, NamespacedName};
pub use action::{parse_duration, respond, to_cluster};
pub use grpc::RequestRoute;
pub(crate) use grpc::grpc_as_http;
use matching::{Origin, Precedence};
pub use memory::RouteMemory;
pub use retry::UNSEEN;
pub use table::configuration;

/// A port of a service that a route sends to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The service.
    pub service: ServiceRef,
    /// Its port.
    pub port: u16,
    /// Only the endpoints of this subset.
    pub subset: Option<String>,
}

impl Backend {
    /// Name of its cluster for a layer.
    pub fn cluster(&self, index: &Index, layer: Layer) -> String {
        let service = names::of_service(index.config(), &self.service);
        match &self.subset {
            Some(subset) => names::inbound_subset(self.port, subset, &service),
            None => inbound_vip(self.port, layer, &service),
        }
    }
}

/// The routes that hold for one service port.
#[derive(Debug, Default)]
pub struct Attached<'a> {
    /// For every client without routes of its own namespace.
    producer: Vec<RequestRoute>,
    /// By the client's namespace.
    consumer: BTreeMap<String, Vec<RequestRoute>>,
    /// For connections, by the server name that a TLS client says: all of the service's namespace, the oldest first.
    names: Vec<&'a Arc<TlsRoute>>,
    /// For connections.
    connections: Option<&'a Arc<TcpRoute>>,
    /// For requests, where no route of the service's namespace is, and some rule is for the port.
    virtual_service: Option<&'a Arc<VirtualService>>,
}

impl<'a> Attached<'a> {
    /// The routes of a service port, on a waypoint.
    pub fn to(index: &'a Index, waypoint: &NamespacedName, port: &ServedPort<'_>) -> Self {
        let mut attached = Self::by_service(index, port);
        let none = attached.producer.is_empty() && attached.virtual_service.is_none();
        if none && attached.names.is_empty() && attached.connections.is_none() {
            // It holds for every client of every service of the waypoint, so the Gateway says whose routes it takes.
            let http = index.http_routes_of_gateway(waypoint).into_iter().map(RequestRoute::http);
            let grpc = index.grpc_routes_of_gateway(waypoint).into_iter().filter_map(|route| index.request_route(route));
            attached.producer.extend(http.chain(grpc).filter(|route| is_of_gateway(index, route, waypoint)));
            only_first_kind(&mut attached.producer);
        }
        attached
    }

    /// The routes that name the service.
    pub fn by_service(index: &'a Index, port: &ServedPort<'_>) -> Self {
        let mut attached = Self::default();
        if let ServiceRef::Kubernetes(service) = &port.service {
            for route in of_service(index, service) {
                let namespace = route.route.metadata.namespace.clone().unwrap_or_default();
                let mut parents = route.route.spec.parent_refs.iter().flatten();
                if !parents.any(|parent| is_parent(&parent.into(), &namespace, port, service)) {
                    continue;
                }
                if namespace == *service.namespace {
                    attached.producer.push(route);
                } else {
                    attached.consumer.entry(namespace).or_default().push(route);
                }
            }
            attached.names = names_of(index, port, service);
            attached.connections = connections_of(index, port, service);
            // Of a port that no rule is for it says nothing (so in Istio).
            attached.virtual_service = index.virtual_service_of(service).filter(|object| object.spec.is_for(port.port.port));
        }
        only_first_kind(&mut attached.producer);
        attached.consumer.values_mut().for_each(only_first_kind);
        attached
    }

    /// Whether the service's own side says by a route that HTTP is spoken. What other namespaces write for their own clients must
    /// not change how everyone's connections are read.
    pub fn speaks_http(&self) -> bool {
        !self.producer.is_empty()
    }

    /// The routes that connections take by server name, on a port that has none for requests.
    pub fn names(&self) -> &[&'a Arc<TlsRoute>] {
        if self.producer.is_empty() { &self.names } else { &[] }
    }

    /// The route that spreads connections, on a port that has none for requests or server names.
    pub fn connections(&self) -> Option<&'a TcpRoute> {
        self.connections.filter(|_| self.producer.is_empty() && self.names.is_empty()).map(|route| &**route)
    }
}

/// Of kinds on one port the one that says the most counts: GRPCRoutes before HTTPRoutes (GEP-1294), these before TLSRoutes, and these
/// before TCPRoutes.
fn only_first_kind(routes: &mut Vec<RequestRoute>) {
    if routes.iter().any(|route| route.kind == Kind::GrpcRoute) {
        routes.retain(|route| route.kind == Kind::GrpcRoute);
    }
}

/// The routes for requests that name a service.
fn of_service(index: &Index, service: &NamespacedName) -> Vec<RequestRoute> {
    let http = index.http_routes_of_service(service).into_iter().map(RequestRoute::http);
    let grpc = index.grpc_routes_of_service(service).into_iter().filter_map(|route| index.request_route(route));
    http.chain(grpc).collect()
}

/// The TCPRoute of a port: of those of the service's namespace the oldest, then the first by name.
fn connections_of<'a>(index: &'a Index, port: &ServedPort<'_>, service: &NamespacedName) -> Option<&'a Arc<TcpRoute>> {
    let routes = index.tcp_routes_of_service(service).into_iter();
    let of_port = routes.filter(|route| {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let mut parents = route.spec.parent_refs.iter().flatten();
        *namespace == *service.namespace && parents.any(|parent| is_parent(&parent.into(), namespace, port, service))
    });
    of_port.min_by_key(|route| {
        let created = route.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, NamespacedName::of(&route.metadata))
    })
}

/// The TLSRoutes of a port: those of the service's namespace, the oldest first, then by name.
fn names_of<'a>(index: &'a Index, port: &ServedPort<'_>, service: &NamespacedName) -> Vec<&'a Arc<TlsRoute>> {
    let mut routes = index.tls_routes_of_service(service);
    routes.retain(|route| {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let mut parents = route.spec.parent_refs.iter().flatten();
        *namespace == *service.namespace && parents.any(|parent| is_parent(&parent.into(), namespace, port, service))
    });
    routes.sort_by_cached_key(|route| {
        let created = route.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, NamespacedName::of(&route.metadata))
    });
    routes
}

/// A parent reference of a route of any kind.
struct Parent<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i32>,
    section_name: Option<&'a str>,
}

macro_rules! parent {
    ($($type:ty),+) => {$(
        impl<'a> From<&'a $type> for Parent<'a> {
            fn from(parent: &'a $type) -> Self {
                Self {
                    group: parent.group.as_deref(),
                    kind: parent.kind.as_deref(),
                    namespace: parent.namespace.as_deref(),
                    name: &parent.name,
                    port: parent.port,
                    section_name: parent.section_name.as_deref(),
                }
            }
        }
    )+};
}
parent!(HttpRouteParentRefs, TlsRouteParentRefs, TcpRouteParentRefs);

/// Whether a parent reference means this port of this service.
fn is_parent(parent: &Parent<'_>, own_namespace: &str, port: &ServedPort<'_>, service: &NamespacedName) -> bool {
    matches!(parent.group, Some("" | "core"))
        && parent.kind == Some("Service")
        && parent.name == &*service.name
        && parent.namespace.unwrap_or(own_namespace) == &*service.namespace
        && parent.port.is_none_or(|number| number == i32::from(port.port.port))
        && parent.section_name.is_none_or(|name| port.port.name.as_deref() == Some(name))
}

/// Whether a route names this Gateway, and a listener that takes it.
fn is_of_gateway(index: &Index, route: &RequestRoute, gateway: &NamespacedName) -> bool {
    let own = route.route.metadata.namespace.as_deref().unwrap_or_default();
    route.route.spec.parent_refs.iter().flatten().any(|parent| {
        let (port, section_name) = (parent.port, parent.section_name.as_deref());
        matches!(parent.group.as_deref(), None | Some("gateway.networking.k8s.io"))
            && matches!(parent.kind.as_deref(), None | Some("Gateway"))
            && parent.name == *gateway.name
            && parent.namespace.as_deref().unwrap_or(own) == &*gateway.namespace
            && index
                .takes_route(gateway, ToListener { kind: route.kind, namespace: own, port, section_name, hostnames: &[] })
                .is_ok()
    })
}

/// The routes for every client without routes of its own namespace.
pub fn for_everyone(index: &Index, port: &ServedPort<'_>, backends: &mut BTreeSet<Backend>) -> Vec<Route> {
    if port.attached.producer.is_empty() {
        return match port.attached.virtual_service {
            Some(object) => virtual_service::routes(index, port, object, backends),
            None => vec![default_route(index, port, backends)],
        };
    }
    ordered_routes(index, port, &port.attached.producer, backends)
}

/// All matches of all routes of one parent, the first that applies first.
pub fn ordered_routes(
    index: &Index,
    port: &ServedPort<'_>,
    routes: &[RequestRoute],
    backends: &mut BTreeSet<Backend>,
) -> Vec<Route> {
    let mut ordered: Vec<(Precedence, Vec<Route>)> = Vec::new();
    for route in routes {
        ordered.extend(matches_of(index, port, route, backends));
    }
    ordered.sort_by(|(one, _), (other, _)| one.cmp(other));
    ordered.into_iter().flat_map(|(_, routes)| routes).collect()
}

/// The matches of one route, each with what decides between it and others. It goes by no other route.
fn matches_of(
    index: &Index,
    port: &ServedPort<'_>,
    request_route: &RequestRoute,
    backends: &mut BTreeSet<Backend>,
) -> Vec<(Precedence, Vec<Route>)> {
    let route = &request_route.route;
    let (name, origin) = (NamespacedName::of(&route.metadata), Origin::of(route));
    let mut compiled_matches = Vec::new();
    for (rule_index, rule) in route.spec.rules.iter().flatten().enumerate() {
        let conditions = rule.matches.as_deref().filter(|conditions| !conditions.is_empty());
        let any = [Default::default()];
        for (match_index, condition) in conditions.unwrap_or(&any).iter().enumerate() {
            let rank = request_route.rank(rule_index, match_index);
            let precedence = Precedence::of(condition, &origin, (rule_index, match_index), rank);
            let mut compiled = action::route(index, port, (request_route.kind, &name), rule, condition, backends);
            compiled.name = format!("{name}/rule[{rule_index}]/match[{match_index}]");
            compiled.r#match = Some(matching::condition(condition));
            session::keep(&mut compiled, &name, rule_index, rule, condition);
            if let Some(service) = session::sole_backend(rule, &name.namespace) {
                session::keep_with(&mut compiled, index, &service);
            }
            let from = (request_route.kind, &name, rule.name.as_deref());
            requests::of_route(index, port, Some(from), &mut compiled);
            hash::on_route(index, &mut compiled, backends);
            let again = retry::wanted(rule).and_then(|_| writes::allowed_by(index, port, Some(from)));
            compiled_matches.push((precedence, retry::routes(rule, condition, compiled, again.as_ref())));
        }
    }
    compiled_matches
}

/// Everything to the service itself, when no route is attached.
fn default_route(index: &Index, port: &ServedPort<'_>, backends: &mut BTreeSet<Backend>) -> Route {
    let own = Backend { service: port.service.clone(), port: port.port.port, subset: None };
    let mut route = Route { name: "default".into(), r#match: Some(any_path()), ..Default::default() };
    let in_clear = index.asks_for_tls(&own.service, &port.port).is_none();
    let cluster = if in_clear { own.cluster(index, Layer::Http) } else { names::INVALID_BACKEND.into() };
    route.action = Some(Action::Route(to_cluster(cluster)));
    requests::of_route(index, port, None, &mut route);
    if !in_clear {
        return route;
    }
    session::keep_with(&mut route, index, &own.service);
    backends.insert(own);
    hash::on_route(index, &mut route, backends);
    route
}

fn not_found(name: &str) -> Route {
    let action = Some(Action::DirectResponse(respond(404)));
    Route { name: name.into(), r#match: Some(any_path()), action, ..Default::default() }
}

fn any_path() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }
}

/// The port a backend reference of a route in `namespace` means, if it is valid: a service that exists, with that
/// port, which the route may refer to, and to which nobody asked for TLS if it is requests that are sent. A consumer route may refer to its own parent without a grant; to another service
/// of that namespace it may not, since that one's policies are not enforced on the parent's port.
pub fn resolve(index: &Index, parent: &ServiceRef, from: (Kind, &str), reference: Reference<'_>) -> Option<Backend> {
    if !matches!(reference.group, None | Some("" | "core")) || reference.kind.is_some_and(|kind| kind != "Service") {
        return None;
    }
    let (kind, namespace) = from;
    let to = NamespacedName::new(reference.namespace.unwrap_or(namespace), reference.name);
    let port = u16::try_from(reference.port?).ok()?;
    let allowed = *parent == ServiceRef::Kubernetes(to.clone()) || index.may_refer(kind, namespace, &to);
    let service = ServiceRef::Kubernetes(to);
    let found = index.service_ports(&service).into_iter().find(|candidate| candidate.port == port)?;
    // What was asked to go on by TLS must not go on in clear. Of connections the client has done with as it wants.
    let requests = matches!(kind, Kind::HttpRoute | Kind::GrpcRoute);
    let in_clear = requests && index.asks_for_tls(&service, &found).is_some();
    (allowed && !in_clear).then_some(Backend { service, port, subset: None })
}

/// A backend reference of a route of any kind.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// API group; nothing and empty are core.
    pub group: Option<&'a str>,
    /// Kind; nothing is `Service`.
    pub kind: Option<&'a str>,
    /// Namespace; nothing is the route's own.
    pub namespace: Option<&'a str>,
    /// Name.
    pub name: &'a str,
    /// Port, required for a Service.
    pub port: Option<i32>,
}

//! Status of routes: for each parent, whether the route is attached, whether what it refers to exists,
//! and which of its rules are not carried out.

mod references;
mod rival;
mod rules;

use gateway_api::gateways::{Gateway, GatewayListeners};
use serde::Deserialize;
use serde_json::Value;

use super::Condition;
use crate::index::{Binding, INGRESS_CONTROLLER, Index, RouteKey, ServicePort, ToListener, Untaken, hostnames};
use crate::source::{Kind, NamespacedName, Object, ObjectKey};
pub(crate) use rules::Verdict;

/// A parent as a route of any kind names it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parent {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i32>,
    section_name: Option<String>,
}

impl Parent {
    /// The parents of a route with their references as written, each once.
    fn all_of(route: &Object) -> Vec<(Self, Value)> {
        let refs = match route {
            Object::HttpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
            Object::GrpcRoute(route) => serde_json::to_value(&route.spec.parent_refs),
            Object::TlsRoute(route) => serde_json::to_value(&route.spec.parent_refs),
            Object::TcpRoute(route) => serde_json::to_value(&route.spec.parent_refs),
            _ => return Vec::new(),
        };
        let mut parents: Vec<(Self, Value)> = Vec::new();
        let Ok(Value::Array(refs)) = refs else { return parents };
        for written in refs {
            if parents.iter().all(|(_, other)| *other != written)
                && let Ok(parent) = Self::deserialize(&written)
            {
                parents.push((parent, written));
            }
        }
        parents
    }

    /// Its group and kind, with the defaults of the API.
    fn kind(&self) -> (&str, &str) {
        (self.group.as_deref().unwrap_or("gateway.networking.k8s.io"), self.kind.as_deref().unwrap_or("Gateway"))
    }

    /// Whether it means this port of a Service.
    fn means(&self, port: &ServicePort) -> bool {
        self.port.is_none_or(|number| i32::from(port.port) == number)
            && self.section_name.as_ref().is_none_or(|name| port.name.as_ref() == Some(name))
    }

    /// What it says of a Gateway's listener, as a reference of this route in this namespace.
    fn to_listener<'a>(&'a self, route: &'a Object, namespace: &'a str) -> ToListener<'a> {
        let (kind, hostnames) = (route.kind(), hostnames(route));
        ToListener { kind, namespace, port: self.port, section_name: self.section_name.as_deref(), hostnames }
    }

    fn target(&self, own: &NamespacedName) -> NamespacedName {
        NamespacedName::new(self.namespace.as_deref().unwrap_or(&own.namespace), self.name.as_str())
    }
}

/// Whether and how a route is attached to one parent.
enum Attachment {
    /// It is; a phrase says what that brings about.
    Attached(String),
    /// It is not: reason and sentence.
    Refused(&'static str, String),
}

/// The conditions of a route, parent by parent, without those of other controllers.
pub(super) fn conditions(index: &Index, key: &ObjectKey) -> Vec<Condition> {
    let Some(route) = index.objects().get(key) else { return Vec::new() };
    let verdict = Verdict::of(&route);
    let mut conditions = Vec::new();
    for (parent, written) in Parent::all_of(&route) {
        let target = parent.target(&key.name);
        let Some(attachment) = attachment(index, &parent, &target, &route) else { continue };
        let service = (parent.kind().1 == "Service").then_some(&target);
        let label = format!("{} {target}", parent.kind().1);
        let at_edge = service.is_none() && index.ingress(&target).is_some();
        let mut all = accepted(attachment, &verdict);
        all.push(references::resolved(index, &route, &key.name, service, at_edge));
        for mut condition in all {
            if at_edge {
                condition.controller = INGRESS_CONTROLLER;
            }
            condition.parent = Some(label.clone());
            condition.parent_ref = Some(written.clone());
            conditions.push(condition);
        }
    }
    conditions
}

/// `Accepted`, and `PartiallyInvalid` where it holds.
fn accepted(attachment: Attachment, verdict: &Verdict) -> Vec<Condition> {
    match attachment {
        Attachment::Refused(reason, message) => vec![Condition::new("Accepted", false, reason, message)],
        Attachment::Attached(_) if verdict.nothing_left() => {
            vec![Condition::new("Accepted", false, "UnsupportedValue", verdict.dropped())]
        }
        Attachment::Attached(effect) => {
            let notes = verdict.notes.iter().map(|note| format!("; {} {}", note.path, note.reason)).collect::<String>();
            let mut all = vec![Condition::new("Accepted", true, "Accepted", format!("{effect}{notes}"))];
            if verdict.any_dropped() {
                let message = format!("Dropped Rule {}", verdict.dropped());
                all.push(Condition::new("PartiallyInvalid", true, "UnsupportedValue", message));
            }
            all
        }
    }
}

/// How a route stands to a parent; `None` for parents that are another controller's.
fn attachment(index: &Index, parent: &Parent, target: &NamespacedName, route: &Object) -> Option<Attachment> {
    let namespace = route.metadata().namespace.as_deref().unwrap_or_default();
    match parent.kind() {
        ("" | "core", "Service") => Some(to_service(index, parent, target, route)),
        ("gateway.networking.k8s.io", "Gateway") => {
            let gateway = index.objects().gateways.get(target)?;
            let at_edge = index.is_ingress(gateway);
            if !at_edge && !index.is_waypoint(gateway) {
                return None;
            }
            let kind = route.kind();
            Some(match index.takes_route(target, parent.to_listener(route, namespace)) {
                Ok(()) if at_edge && !holds_at_edge(index, target, gateway, route) => Attachment::Refused(
                    "Conflicted",
                    format!("An older route of another kind is for the same hosts on the listeners of Gateway {target}"),
                ),
                Ok(()) if at_edge => Attachment::Attached("Attached to the Gateway".into()),
                Ok(()) => Attachment::Attached("Attached to the waypoint".into()),
                Err(Untaken::Hostname) => Attachment::Refused(
                    "NoMatchingListenerHostname",
                    format!("Gateway {target} has no listener for any of the route's hostnames"),
                ),
                Err(Untaken::Other) if at_edge => Attachment::Refused(
                    "NoMatchingParent",
                    format!("Gateway {target} has no listener of that name and port that serves"),
                ),
                Err(Untaken::Other) => Attachment::Refused(
                    "NoMatchingParent",
                    format!("Gateway {target} has no listener of that name and port by which a waypoint is reached"),
                ),
                Err(Untaken::Kind) => {
                    let fix = match kind {
                        Kind::HttpRoute | Kind::GrpcRoute => "; its allowedRoutes.kinds can admit them",
                        Kind::TlsRoute if at_edge => "; a listener of protocol TLS does",
                        Kind::TcpRoute if at_edge => "; a listener of protocol TCP does",
                        _ => ", but HTTPRoutes and GRPCRoutes",
                    };
                    Attachment::Refused("NotAllowedByListeners", format!("Gateway {target} takes no {}s{fix}", kind.as_str()))
                }
                Err(Untaken::Namespace) => Attachment::Refused(
                    "NotAllowedByListeners",
                    format!(
                        "Gateway {target} takes no routes of namespace {namespace}; its allowedRoutes.namespaces can admit them"
                    ),
                ),
            })
        }
        _ => None,
    }
}

fn to_service(index: &Index, parent: &Parent, target: &NamespacedName, route: &Object) -> Attachment {
    let Some(service) = index.objects().services.get(target) else {
        return Attachment::Refused("NoMatchingParent", format!("Service {target} does not exist"));
    };
    let mut ports = ServicePort::all_of(service);
    ports.retain(|port| parent.means(port));
    if ports.is_empty() {
        return Attachment::Refused("NoMatchingParent", format!("Service {target} has no such port"));
    }
    let own = route.metadata().namespace.as_deref().unwrap_or_default();
    if matches!(route, Object::TlsRoute(_) | Object::TcpRoute(_)) && *own != *target.namespace {
        let kind = route.kind().as_str();
        let message = format!("A {kind} holds only for Services of its own namespace, which {target} is not");
        return Attachment::Refused("UnsupportedValue", message);
    }
    let rivals: Vec<(u16, String)> =
        ports.iter().filter_map(|port| Some((port.port, rival::rival(index, route, target, port)?))).collect();
    if let (Some((_, first)), true) = (rivals.first(), rivals.len() == ports.len()) {
        return Attachment::Refused("Conflicted", format!("{first} holds in its place on Service {target}"));
    }
    let rivals: String = rivals.iter().map(|(port, rival)| format!("; on port {port} {rival} holds in its place")).collect();
    let effect = match index.service_binding(service) {
        Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. } => {
            format!("Attached; waypoint {waypoint} applies it")
        }
        Binding::None | Binding::OtherTraffic(_) => {
            format!("Attached, and without effect: Service {target} has no waypoint")
        }
    };
    Attachment::Attached(format!("{effect}{rivals}"))
}

/// How many routes are attached to a listener of a Gateway.
pub(super) fn attached(index: &Index, gateway: &NamespacedName, listener: &GatewayListeners) -> usize {
    let http = index.http_routes_of_gateway(gateway).into_iter().cloned().map(Object::HttpRoute);
    let grpc = index.grpc_routes_of_gateway(gateway).into_iter().cloned().map(Object::GrpcRoute);
    let is_attached = |route: &Object| {
        let own = NamespacedName::of(route.metadata());
        !Verdict::of(route).nothing_left()
            && Parent::all_of(route).iter().any(|(parent, _)| {
                parent.kind() == ("gateway.networking.k8s.io", "Gateway")
                    && parent.target(&own) == *gateway
                    && index.listener_takes(gateway, listener, parent.to_listener(route, &own.namespace)).is_ok()
            })
    };
    http.chain(grpc).filter(is_attached).count()
}

/// How many routes are attached to a listener at the edge of the mesh.
pub(super) fn attached_at_edge(index: &Index, gateway: &NamespacedName, listener: &GatewayListeners) -> usize {
    let routes = index.routes_on(gateway, listener).into_iter();
    let objects = routes.filter_map(|taken| index.objects().get(&ObjectKey { kind: taken.route.kind, name: taken.route.name }));
    objects.filter(|route| !Verdict::of(route).nothing_left()).count()
}

/// Whether a route that listeners at the edge take holds on one of them, and not an older one in its place.
fn holds_at_edge(index: &Index, name: &NamespacedName, gateway: &Gateway, route: &Object) -> bool {
    let key = RouteKey { kind: route.kind(), name: NamespacedName::of(route.metadata()) };
    gateway.spec.listeners.iter().any(|listener| index.routes_on(name, listener).iter().any(|taken| taken.route == key))
}

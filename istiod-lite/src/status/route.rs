//! Status of HTTPRoutes: for each parent, whether it is attached and whether what it refers to exists.

use gateway_api::experimental::httproutes::{HttpRoute, HttpRouteParentRefs};

use super::Condition;
use crate::index::{Binding, Index, ServicePort};
use crate::source::{Kind, NamespacedName};

pub(super) fn http(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(route) = index.objects().http_routes.get(name) else { return Vec::new() };
    let references = references(index, route, name);
    let mut conditions = Vec::new();
    for parent in route.spec.parent_refs.iter().flatten() {
        let Some((label, mut accepted)) = accepted(index, parent, name) else { continue };
        accepted.parent = Some(label.clone());
        let mut resolved = references.clone();
        resolved.parent = Some(label);
        conditions.extend([accepted, resolved]);
    }
    conditions
}

/// Whether the route is attached to a parent; `None` for parents that are another controller's.
fn accepted(index: &Index, parent: &HttpRouteParentRefs, route: &NamespacedName) -> Option<(String, Condition)> {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.namespace);
    let target = NamespacedName::new(namespace, parent.name.as_str());
    let condition = |good, reason, message: String| Condition::new("Accepted", good, reason, message);
    let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
        ("" | "core", "Service") => {
            let label = format!("Service {target}");
            let Some(service) = index.objects().services.get(&target) else {
                return Some((label, condition(false, "NoMatchingParent", format!("Service {target} does not exist"))));
            };
            let ports = ServicePort::all_of(service);
            let matches = |port: &ServicePort| {
                parent.port.is_none_or(|number| i32::from(port.port) == number)
                    && parent.section_name.as_ref().is_none_or(|name| port.name.as_ref() == Some(name))
            };
            if !ports.iter().any(matches) {
                return Some((label, condition(false, "NoMatchingParent", format!("Service {target} has no such port"))));
            }
            let message = match index.service_binding(service) {
                Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. } => {
                    format!("Attached; waypoint {waypoint} applies it")
                }
                Binding::None | Binding::OtherTraffic(_) => {
                    format!("Attached, and without effect: Service {target} has no waypoint")
                }
            };
            Some((label, condition(true, "Accepted", message)))
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            index.waypoint(&target)?;
            let accepted = if index.waypoint_admits(&target, &route.namespace) {
                condition(true, "Accepted", "Attached to the waypoint".into())
            } else {
                let message = format!("Gateway {target} takes no routes of namespace {}", route.namespace);
                condition(false, "NotAllowedByListeners", message)
            };
            Some((format!("Gateway {target}"), accepted))
        }
        _ => None,
    }
}

/// Whether every backend exists and may be referred to; the first that does not gives the reason.
fn references(index: &Index, route: &HttpRoute, name: &NamespacedName) -> Condition {
    let condition = |good, reason, message: String| Condition::new("ResolvedRefs", good, reason, message);
    let backends = route.spec.rules.iter().flatten().flat_map(|rule| rule.backend_refs.iter().flatten());
    for backend in backends {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        if !matches!(group, "" | "core") || kind != "Service" {
            return condition(false, "InvalidKind", format!("Backends of kind {kind} in group {group:?} are not supported"));
        }
        let target = NamespacedName::new(backend.namespace.as_deref().unwrap_or(&name.namespace), backend.name.as_str());
        if !index.may_refer(Kind::HttpRoute, &name.namespace, &target) {
            return condition(false, "RefNotPermitted", format!("No ReferenceGrant permits the backend {target}"));
        }
        let port = index.objects().services.get(&target).and_then(|service| {
            let wanted = backend.port.and_then(|port| u16::try_from(port).ok());
            ServicePort::all_of(service).into_iter().find(|port| Some(port.port) == wanted)
        });
        if port.is_none() {
            let port = backend.port.map(|port| format!(":{port}")).unwrap_or_default();
            return condition(false, "BackendNotFound", format!("There is no Service {target}{port}"));
        }
    }
    condition(true, "ResolvedRefs", "All references are resolved".into())
}

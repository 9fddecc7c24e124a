//! Whether what a route refers to exists and may be referred to.

use crate::index::{Index, Kept, ServicePort, label};
use crate::source::{NamespacedName, Object};
use crate::status::{Condition, unsupported::keeps_from};

/// How many faults a message lists.
const LISTED: usize = 5;

/// A backend, or the target of a mirror, as a route of any kind names it.
struct Reference<'a> {
    /// Where in the route it stands.
    place: String,
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i32>,
}

/// The kinds of routes have the same fields in types of their own.
macro_rules! reference {
    ($reference:expr, $place:expr) => {
        Reference {
            place: $place,
            group: $reference.group.as_deref(),
            kind: $reference.kind.as_deref(),
            namespace: $reference.namespace.as_deref(),
            name: &$reference.name,
            port: $reference.port,
        }
    };
}

/// Collects backends and mirrors of all rules, and the places of references to extensions, of which there are none.
macro_rules! collect {
    ($route:expr, $references:ident, $extensions:ident) => {
        for (at, rule) in $route.spec.rules.iter().flatten().enumerate() {
            for (filter, place) in rule.filters.iter().flatten().zip(0..) {
                let place = format!("rules[{at}].filters[{place}]");
                if let Some(mirror) = &filter.request_mirror {
                    $references.push(reference!(mirror.backend_ref, format!("{place}.requestMirror.backendRef")));
                }
                if let Some(extension) = &filter.extension_ref {
                    $extensions.push((place, extension.kind.clone(), extension.name.clone()));
                }
            }
            for (backend, place) in rule.backend_refs.iter().flatten().zip(0..) {
                let place = format!("rules[{at}].backendRefs[{place}]");
                for filter in backend.filters.iter().flatten() {
                    if let Some(mirror) = &filter.request_mirror {
                        $references.push(reference!(mirror.backend_ref, format!("{place}.filters")));
                    }
                    if let Some(extension) = &filter.extension_ref {
                        $extensions.push((format!("{place}.filters"), extension.kind.clone(), extension.name.clone()));
                    }
                }
                $references.push(reference!(backend, place));
            }
        }
    };
}

/// The same for routes that have nothing but backends.
macro_rules! collect_backends {
    ($route:expr, $references:ident) => {
        for (rule, at) in $route.spec.rules.iter().zip(0..) {
            for (backend, place) in rule.backend_refs.iter().zip(0..) {
                $references.push(reference!(backend, format!("rules[{at}].backendRefs[{place}]")));
            }
        }
    };
}

/// The condition `ResolvedRefs` of a route for one parent: the first fault gives the reason, the message lists all.
///
/// A route may refer to its own parent without a grant, wherever that is.
pub(super) fn resolved(
    index: &Index,
    route: &Object,
    name: &NamespacedName,
    parent: Option<&NamespacedName>,
    at_edge: bool,
) -> Condition {
    let (mut references, mut extensions) = (Vec::new(), Vec::new());
    match route {
        Object::HttpRoute(route) => collect!(route, references, extensions),
        Object::GrpcRoute(route) => collect!(route, references, extensions),
        Object::TlsRoute(route) => collect_backends!(route, references),
        Object::TcpRoute(route) => collect_backends!(route, references),
        _ => {}
    }
    let mut faults: Vec<(&'static str, String)> = Vec::new();
    for (place, kind, name) in extensions {
        faults.push(("InvalidKind", format!("{place}: {kind} {name} is no extension that this mesh knows")));
    }
    for reference in &references {
        let found = fault(index, route, name, parent, reference);
        faults.extend(found.or_else(|| if at_edge { kept(index, name, reference) } else { None }));
    }
    let Some((reason, _)) = faults.first() else {
        return Condition::new("ResolvedRefs", true, "ResolvedRefs", "All references are resolved");
    };
    let mut message = faults.iter().take(LISTED).map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("; ");
    if let Some(more) = faults.len().checked_sub(LISTED).filter(|more| *more > 0) {
        message.push_str(&format!("; and {more} more"));
    }
    Condition::new("ResolvedRefs", false, reason, message)
}

/// Why a service is not reached from outside of the mesh, though the reference is good.
fn kept(index: &Index, name: &NamespacedName, reference: &Reference<'_>) -> Option<(&'static str, String)> {
    let target = NamespacedName::new(reference.namespace.unwrap_or(&name.namespace), reference.name);
    let Kept { waypoint, by_label } = index.kept_from_ingress(&target)?;
    let (place, label) = (&reference.place, label::INGRESS_USE_WAYPOINT);
    let why = match by_label {
        true => format!("the label {label} asks for, and from a Gateway no waypoint is gone through yet"),
        false => format!(
            "enforces policies, and a Gateway does not go through it; the label {label} with the value false goes past them"
        ),
    };
    Some(("RefNotPermitted", format!("{place}: Service {target} is behind waypoint {waypoint}, which {why}")))
}

fn fault(
    index: &Index,
    route: &Object,
    name: &NamespacedName,
    parent: Option<&NamespacedName>,
    reference: &Reference<'_>,
) -> Option<(&'static str, String)> {
    let place = &reference.place;
    let (group, kind) = (reference.group.unwrap_or_default(), reference.kind.unwrap_or("Service"));
    if !matches!(group, "" | "core") || kind != "Service" {
        let message = format!("{place}: {kind} of group {group:?} cannot be sent to; Service can");
        return Some(("InvalidKind", message));
    }
    let target = NamespacedName::new(reference.namespace.unwrap_or(&name.namespace), reference.name);
    if Some(&target) != parent && !index.may_refer(route.kind(), &name.namespace, &target) {
        let message = format!(
            "{place}: a ReferenceGrant in namespace {} has to permit {}s of namespace {} to refer to Service {target}",
            target.namespace,
            route.kind().as_str(),
            name.namespace
        );
        return Some(("RefNotPermitted", message));
    }
    let Some(service) = index.objects().services.get(&target) else {
        return Some(("BackendNotFound", format!("{place}: Service {target} does not exist")));
    };
    let Some(wanted) = reference.port else {
        return Some(("BackendNotFound", format!("{place}: Service {target} needs a port")));
    };
    if let Some(port) = ServicePort::all_of(service).into_iter().find(|port| i32::from(port.port) == wanted) {
        let requests = matches!(route, Object::HttpRoute(_) | Object::GrpcRoute(_));
        let kept = if requests { keeps_from(index, &target, &port) } else { None };
        return kept.map(|why| ("UnsupportedProtocol", format!("{place}: {why}")));
    }
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    Some(match ports.iter().find(|port| port.port == wanted) {
        Some(port) => {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            ("UnsupportedProtocol", format!("{place}: port {wanted} of Service {target} is {protocol}; requests go over TCP"))
        }
        None => ("BackendNotFound", format!("{place}: Service {target} has no port {wanted}")),
    })
}

//! Routes of all kinds: what they are attached to, and where they send.

use std::collections::BTreeSet;

use crate::source::{Kind, NamespacedName, Object};

/// A route of any kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// [`Kind::HttpRoute`], [`Kind::GrpcRoute`], [`Kind::TlsRoute`] or [`Kind::TcpRoute`].
    pub kind: Kind,
    /// Its name.
    pub name: NamespacedName,
}

/// The services and gateways a route is attached to.
#[derive(Debug, Default)]
pub(super) struct Parents {
    pub(super) services: BTreeSet<NamespacedName>,
    pub(super) gateways: BTreeSet<NamespacedName>,
}

/// A parent reference of a route of any kind.
#[derive(Debug, Clone, Copy)]
pub struct ParentRef<'a> {
    /// API group; `gateway.networking.k8s.io` when the route says none.
    pub group: &'a str,
    /// Kind; `Gateway` when the route says none.
    pub kind: &'a str,
    /// Namespace; the route's own when it says none.
    pub namespace: Option<&'a str>,
    /// Name.
    pub name: &'a str,
    /// The one port meant; all when the route says none.
    pub port: Option<i32>,
    /// The name of the one listener or port meant; all when the route says none.
    pub section_name: Option<&'a str>,
}

/// The parent references of a route, in the order written; none for other objects.
#[must_use]
pub fn parent_refs(route: &Object) -> Vec<ParentRef<'_>> {
    // The same fields of four generated types.
    macro_rules! read {
        ($parents:expr) => {
            $parents
                .iter()
                .flatten()
                .map(|parent| ParentRef {
                    group: parent.group.as_deref().unwrap_or("gateway.networking.k8s.io"),
                    kind: parent.kind.as_deref().unwrap_or("Gateway"),
                    namespace: parent.namespace.as_deref(),
                    name: &parent.name,
                    port: parent.port,
                    section_name: parent.section_name.as_deref(),
                })
                .collect()
        };
    }
    match route {
        Object::HttpRoute(route) => read!(route.spec.parent_refs),
        Object::GrpcRoute(route) => read!(route.spec.parent_refs),
        Object::TlsRoute(route) => read!(route.spec.parent_refs),
        Object::TcpRoute(route) => read!(route.spec.parent_refs),
        _ => Vec::new(),
    }
}

/// What a route is attached to.
pub(super) fn route_parents(route: &Object) -> Parents {
    let own = route.metadata().namespace.as_deref().unwrap_or_default();
    let mut parents = Parents::default();
    for parent in parent_refs(route) {
        let target = NamespacedName::new(parent.namespace.unwrap_or(own), parent.name);
        match (parent.group, parent.kind) {
            ("gateway.networking.k8s.io", "Gateway") => _ = parents.gateways.insert(target),
            ("" | "core", "Service") => _ = parents.services.insert(target),
            _ => {}
        }
    }
    parents
}

/// The services a route may send to, mirrors included.
pub(super) fn route_backends(route: &Object) -> BTreeSet<NamespacedName> {
    let own = route.metadata().namespace.as_deref().unwrap_or_default();
    let mut backends = BTreeSet::new();
    let mut add = |group: Option<&str>, kind: Option<&str>, namespace: Option<&str>, name: &str| {
        if matches!(group, None | Some("")) && matches!(kind, None | Some("Service")) {
            backends.insert(NamespacedName::new(namespace.unwrap_or(own), name));
        }
    };
    match route {
        Object::HttpRoute(route) => {
            for rule in route.spec.rules.iter().flatten() {
                for backend in rule.backend_refs.iter().flatten() {
                    add(backend.group.as_deref(), backend.kind.as_deref(), backend.namespace.as_deref(), &backend.name);
                    for mirror in backend.filters.iter().flatten().filter_map(|filter| filter.request_mirror.as_ref()) {
                        let to = &mirror.backend_ref;
                        add(to.group.as_deref(), to.kind.as_deref(), to.namespace.as_deref(), &to.name);
                    }
                }
                for mirror in rule.filters.iter().flatten().filter_map(|filter| filter.request_mirror.as_ref()) {
                    let to = &mirror.backend_ref;
                    add(to.group.as_deref(), to.kind.as_deref(), to.namespace.as_deref(), &to.name);
                }
            }
        }
        Object::GrpcRoute(route) => {
            for rule in route.spec.rules.iter().flatten() {
                for backend in rule.backend_refs.iter().flatten() {
                    add(backend.group.as_deref(), backend.kind.as_deref(), backend.namespace.as_deref(), &backend.name);
                }
                for mirror in rule.filters.iter().flatten().filter_map(|filter| filter.request_mirror.as_ref()) {
                    let to = &mirror.backend_ref;
                    add(to.group.as_deref(), to.kind.as_deref(), to.namespace.as_deref(), &to.name);
                }
            }
        }
        Object::TlsRoute(route) => {
            for backend in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
                add(backend.group.as_deref(), backend.kind.as_deref(), backend.namespace.as_deref(), &backend.name);
            }
        }
        Object::TcpRoute(route) => {
            for backend in route.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
                add(backend.group.as_deref(), backend.kind.as_deref(), backend.namespace.as_deref(), &backend.name);
            }
        }
        _ => {}
    }
    backends
}

//! What the labels of a namespace can change.

use super::super::objects::in_namespace;
use super::super::route::route_parents;
use super::super::service::{ServiceRef, entry_hosts};
use super::super::{ChangedKey, Index};
use super::{Changed, add_waypoint};
use crate::source::Object;

impl Index {
    /// A namespace's labels enrol its pods, name its waypoint, and are what Gateways of other namespaces admit it by.
    pub(super) fn namespace_affected(&self, namespace: &str, changed: &mut Changed) {
        self.all_in(namespace, changed);
        for (name, service) in in_namespace(&self.objects().services, namespace) {
            add_waypoint(self.service_binding(service), changed);
            self.waypoints_seeing(&ServiceRef::Kubernetes(name.clone()), changed);
        }
        for (_, entry) in in_namespace(&self.objects().service_entries, namespace) {
            add_waypoint(self.entry_binding(entry), changed);
            // Which of their endpoints are near may be said by the namespace.
            entry_hosts(entry).for_each(|host| self.waypoints_seeing(&ServiceRef::Host(host), changed));
        }
        for (_, pod) in in_namespace(&self.objects().pods, namespace) {
            add_waypoint(self.pod_binding(pod), changed);
        }
        for (_, route) in in_namespace(&self.objects().http_routes, namespace) {
            gateways_affected(&Object::HttpRoute(route.clone()), changed);
        }
        for (_, route) in in_namespace(&self.objects().grpc_routes, namespace) {
            gateways_affected(&Object::GrpcRoute(route.clone()), changed);
        }
        for (_, route) in in_namespace(&self.objects().tls_routes, namespace) {
            gateways_affected(&Object::TlsRoute(route.clone()), changed);
        }
        for (_, route) in in_namespace(&self.objects().tcp_routes, namespace) {
            gateways_affected(&Object::TcpRoute(route.clone()), changed);
        }
    }

    pub(super) fn all_in(&self, namespace: &str, changed: &mut Changed) {
        let services = in_namespace(&self.objects().services, namespace);
        changed.extend(services.flat_map(|(name, _)| [ChangedKey::Service(name.clone()), ChangedKey::Clients(name.clone())]));
        let pods = in_namespace(&self.objects().pods, namespace);
        changed.extend(pods.map(|(name, _)| ChangedKey::Workload(name.clone())));
        let entries = in_namespace(&self.objects().service_entries, namespace);
        changed.extend(entries.flat_map(|(_, entry)| entry_hosts(entry)).map(ChangedKey::Host));
    }
}

/// The Gateways that a route names.
fn gateways_affected(route: &Object, changed: &mut Changed) {
    changed.extend(route_parents(route).gateways.into_iter().map(ChangedKey::Waypoint));
}

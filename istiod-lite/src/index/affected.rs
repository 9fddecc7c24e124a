//! Which resources an object can change: the forward reading of the dependencies in the translations.
//!
//! Called once before and once after an object changes. Naming too much costs a translation whose result is found
//! unchanged; naming too little leaves a stale resource, so in doubt a resource is named.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::binding::Binding;
use super::objects::in_namespace;
use super::waypoint::{RouteKey, route_parents};
use super::{ChangedKey, Index, Requester, selects};
use crate::source::crd::{AuthorizationPolicy, WorkloadSelector};
use crate::source::{NamespacedName, Object, ObjectKey};
use crate::translate::peer_authentication::{converted_name, static_strict_name};

type Changed = BTreeSet<ChangedKey>;

impl Index {
    /// Adds what `object` can change in the present state; `other` is the same object on the other side of the event.
    pub(super) fn affected(&self, object: &Object, other: Option<&Object>, changed: &mut Changed) {
        let name = NamespacedName::of(object.metadata());
        match object {
            Object::Pod(pod) => {
                changed.insert(ChangedKey::Workload(name));
                self.waypoints_of_pod(pod, changed);
            }
            Object::Service(service) => self.service_affected(service, &name, changed),
            // Its labels enrol and bind, its annotations set what services do not say; the rest is nobody's concern.
            Object::Namespace(namespace) => {
                let says = |metadata: &ObjectMeta| (metadata.labels.clone(), metadata.annotations.clone());
                if other.map(|other| says(other.metadata())) != Some(says(&namespace.metadata)) {
                    self.namespace_affected(&name.name, changed);
                }
            }
            Object::Node(_) => {
                for pod in self.links.pods_by_node.get(&name.name.to_string()) {
                    changed.insert(ChangedKey::Workload(pod.clone()));
                    if let Some(pod) = self.objects().pods.get(pod) {
                        self.waypoints_of_pod(pod, changed);
                    }
                }
            }
            Object::Gateway(_) => self.gateway_affected(&name, changed),
            Object::GatewayClass(class) => {
                let class = class.metadata.name.as_deref();
                for (name, gateway) in &self.objects().gateways {
                    if Some(gateway.spec.gateway_class_name.as_str()) == class {
                        self.gateway_affected(name, changed);
                    }
                }
            }
            Object::HttpRoute(_) | Object::GrpcRoute(_) => self.route_affected(object, changed),
            Object::ReferenceGrant(_) => {
                for route in self.links.routes_into_namespace.get(&name.namespace.to_string()) {
                    self.route_key_affected(route, changed);
                }
            }
            Object::AuthorizationPolicy(policy) => self.policy_affected(policy, &name, changed),
            Object::PeerAuthentication(policy) => {
                // What a namespace or the mesh says is inherited by the policies of single workloads.
                for other in self.peer_authentications_under(&name) {
                    changed.insert(ChangedKey::Policy(converted_name(&other)));
                }
                changed.insert(ChangedKey::Policy(converted_name(&name)));
                changed.insert(ChangedKey::Policy(static_strict_name(self)));
                self.selected(&name, policy.spec.selector.as_ref(), changed);
            }
            Object::ServiceAccount(_) => {}
        }
    }

    fn service_affected(&self, service: &Service, name: &NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Service(name.clone()));
        for pod in self.pods_of_service(service) {
            changed.insert(ChangedKey::Workload(NamespacedName::of(&pod.metadata)));
        }
        // The caller may be naming a service that is not in the index any more, so its labels are read from it.
        add_waypoint(self.service_binding(service), changed);
        self.waypoints_seeing(name, changed);
    }

    /// The waypoints whose endpoints, or directly bound pods, a pod is among.
    fn waypoints_of_pod(&self, pod: &Pod, changed: &mut Changed) {
        add_waypoint(self.pod_binding(pod), changed);
        for service in self.services_of_pod(pod) {
            self.waypoints_seeing(&NamespacedName::of(&service.metadata), changed);
        }
    }

    /// The waypoints that a service is bound to, or that have a route to it from a service bound to them.
    fn waypoints_seeing(&self, service: &NamespacedName, changed: &mut Changed) {
        self.waypoint_of_service(service, changed);
        for route in self.links.routes_by_backend.get(service) {
            self.route_key_affected(route, changed);
        }
    }

    fn waypoint_of_service(&self, service: &NamespacedName, changed: &mut Changed) {
        if let Some(service) = self.objects().services.get(service) {
            add_waypoint(self.service_binding(service), changed);
        }
    }

    fn route_key_affected(&self, route: &RouteKey, changed: &mut Changed) {
        let key = ObjectKey { kind: route.kind, name: route.name.clone() };
        if let Some(route) = self.objects().get(&key) {
            self.route_affected(&route, changed);
        }
    }

    fn route_affected(&self, route: &Object, changed: &mut Changed) {
        let parents = route_parents(route);
        for service in &parents.services {
            self.waypoint_of_service(service, changed);
        }
        changed.extend(parents.gateways.into_iter().map(ChangedKey::Waypoint));
    }

    fn gateway_affected(&self, name: &NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Waypoint(name.clone()));
        for requester in self.links.requesters.get(name) {
            match requester {
                Requester::Service(service) => _ = changed.insert(ChangedKey::Service(service.clone())),
                Requester::Pod(pod) => _ = changed.insert(ChangedKey::Workload(pod.clone())),
                Requester::Namespace(namespace) => self.all_in(namespace, changed),
            }
        }
    }

    /// A namespace's labels enrol its pods, name its waypoint, and are what Gateways of other namespaces admit it by.
    fn namespace_affected(&self, namespace: &str, changed: &mut Changed) {
        self.all_in(namespace, changed);
        for (name, service) in in_namespace(&self.objects().services, namespace) {
            add_waypoint(self.service_binding(service), changed);
            self.waypoints_seeing(name, changed);
        }
        for (_, pod) in in_namespace(&self.objects().pods, namespace) {
            add_waypoint(self.pod_binding(pod), changed);
        }
    }

    fn all_in(&self, namespace: &str, changed: &mut Changed) {
        let services = in_namespace(&self.objects().services, namespace);
        changed.extend(services.map(|(name, _)| ChangedKey::Service(name.clone())));
        let pods = in_namespace(&self.objects().pods, namespace);
        changed.extend(pods.map(|(name, _)| ChangedKey::Workload(name.clone())));
    }

    fn policy_affected(&self, policy: &AuthorizationPolicy, name: &NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Policy(name.clone()));
        let mut targets = policy.spec.targets().peekable();
        if targets.peek().is_none() {
            if policy.spec.selector.is_some() {
                self.selected(name, policy.spec.selector.as_ref(), changed);
            }
            return;
        }
        for target in targets {
            let object = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            match target.kind.as_str() {
                "Service" => self.waypoint_of_service(&object, changed),
                "Gateway" => _ = changed.insert(ChangedKey::Waypoint(object)),
                "GatewayClass" => changed.extend(self.waypoints().cloned().map(ChangedKey::Waypoint)),
                _ => {}
            }
        }
    }

    /// The pods that a policy with this selector holds for; one of the root namespace reaches every namespace.
    fn selected(&self, policy: &NamespacedName, selector: Option<&WorkloadSelector>, changed: &mut Changed) {
        let labels = selector.map(|selector| &selector.match_labels);
        let pods = &self.objects().pods;
        if *policy.namespace == *self.config().root_namespace {
            let pods = pods.iter().filter(|(_, pod)| labels.is_none_or(|labels| selects(labels, pod.metadata.labels.as_ref())));
            changed.extend(pods.map(|(name, _)| ChangedKey::Workload(name.clone())));
        } else {
            let pods = self.pods_selected(&policy.namespace, labels.unwrap_or(&std::collections::BTreeMap::new()));
            changed.extend(pods.into_iter().map(|pod| ChangedKey::Workload(NamespacedName::of(&pod.metadata))));
        }
    }

    /// The PeerAuthentications that may inherit from one: those of its namespace, or all when it is the mesh's.
    fn peer_authentications_under(&self, name: &NamespacedName) -> Vec<NamespacedName> {
        let all = self.objects().peer_authentications.keys();
        let mesh = *name.namespace == *self.config().root_namespace;
        all.filter(|other| mesh || other.namespace == name.namespace).cloned().collect()
    }
}

fn add_waypoint(binding: Binding, changed: &mut Changed) {
    match binding {
        Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. } | Binding::OtherTraffic(waypoint) => {
            changed.insert(ChangedKey::Waypoint(waypoint));
        }
        Binding::None => {}
    }
}

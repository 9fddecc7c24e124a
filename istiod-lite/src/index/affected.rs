//! Which resources an object can change: the forward reading of the dependencies in the translations.
//!
//! Called once before and once after an object changes. Naming too much costs a translation whose result is found
//! unchanged; naming too little leaves a stale resource, so in doubt a resource is named.

mod namespace;
mod policy;

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::binding::Binding;
use super::endpoint::pod_addresses;
use super::external::ExternalKey;
use super::member::{Members, entry_claims, slice_claims};
use super::route::{RouteKey, route_parents};
use super::service::{ServiceRef, entry_hosts};
use super::{ChangedKey, Index, Requester};
use crate::source::{NamespacedName, Object, ObjectKey, Pod};
use crate::translate::peer_authentication::{converted_name, static_strict_name};
use crate::translate::workload::virtual_addresses;

type Changed = BTreeSet<ChangedKey>;

impl Index {
    /// Adds what `object` can change in the present state; `other` is the same object on the other side of the event.
    pub(super) fn affected(&self, object: &Object, other: Option<&Object>, changed: &mut Changed) {
        let name = NamespacedName::of(object.metadata());
        match object {
            Object::Pod(pod) => self.pod_affected(pod, other, changed),
            Object::Service(service) => self.service_affected(service, name, changed),
            Object::EndpointSlice(slice) => slice_claims(slice).for_each(|key| self.claim_affected(key, changed)),
            Object::ServiceEntry(entry) => entry_hosts(entry).for_each(|host| self.host_affected(host, changed)),
            Object::WorkloadEntry(_) => {
                let key = ExternalKey::Entry(name);
                self.services_with_external(&key).keys().for_each(|service| self.endpoints_affected(service, changed));
                changed.insert(ChangedKey::External(key));
            }
            // Its labels enrol and bind, its annotations set what services do not say; the rest is nobody's concern.
            Object::Namespace(namespace) => {
                let says = |metadata: &ObjectMeta| (metadata.labels.clone(), metadata.annotations.clone());
                if other.map(|other| says(other.metadata())) != Some(says(&namespace.metadata)) {
                    self.namespace_affected(&name.name, changed);
                }
            }
            Object::Node(_) => {
                let node = name.name.to_string();
                changed.extend(self.links.pods_by_node.get(&node).cloned().map(ChangedKey::Workload));
                changed.extend(self.links.externals_by_node.get(&node).cloned().map(ChangedKey::External));
                self.places_affected(&node, changed);
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
            Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TlsRoute(_) | Object::TcpRoute(_) => {
                // Each change of one on a cluster has its status written, by this control plane too.
                if other.is_none_or(|other| !say_the_same(object, other)) {
                    self.route_affected(object, changed);
                }
            }
            Object::ReferenceGrant(_) => {
                for route in self.links.routes_into_namespace.get(&name.namespace.to_string()) {
                    self.route_key_affected(route, changed);
                }
                self.showing_affected(self.links.gateways_into_namespace.get(&name.namespace.to_string()), changed);
            }
            Object::TlsSecret(_) => self.showing_affected(self.links.gateways_by_secret.get(&name), changed),
            Object::AuthorizationPolicy(policy) => self.policy_affected(policy, &name, changed),
            Object::RequestAuthentication(policy) => self.token_policy_affected(policy, &name, changed),
            Object::RequestPolicy(policy) => self.request_policy_affected(policy, &name, changed),
            Object::BackendTlsPolicy(policy) => self.tls_policy_affected(policy, &name, changed),
            Object::TrafficPolicy(policy) => self.traffic_policy_affected(policy, &name, changed),
            Object::BackendTrafficPolicy(policy) => self.backend_policy_affected(policy, &name, changed),
            Object::DestinationRule(rule) => self.rule_affected(rule, changed),
            Object::VirtualService(object) => self.virtual_service_affected(object, changed),
            Object::PeerAuthentication(policy) => {
                // What a namespace or the mesh says is inherited by the policies of single workloads.
                for other in self.peer_authentications_under(&name) {
                    changed.insert(ChangedKey::Policy(converted_name(&other)));
                }
                changed.insert(ChangedKey::Policy(converted_name(&name)));
                changed.insert(ChangedKey::Policy(static_strict_name(self)));
                self.selected(&name, policy.spec.selector.as_ref(), changed);
            }
            Object::MeshSettings(_) => {
                changed.extend(self.waypoints().chain(self.ingresses()).cloned().map(ChangedKey::Waypoint))
            }
            Object::Telemetry(telemetry) => {
                self.telemetry_affected(telemetry, &name, changed);
                self.logging_affected(telemetry, changed);
            }
            Object::ServiceAccount(_) => {}
        }
    }

    /// Gateways at the edge that show, or may show, certificates.
    fn showing_affected<'a>(&self, gateways: impl Iterator<Item = &'a NamespacedName>, changed: &mut Changed) {
        let at_edge = gateways.filter(|name| self.ingress(name).is_some());
        changed.extend(at_edge.cloned().map(ChangedKey::Waypoint));
    }

    fn pod_affected(&self, pod: &Pod, other: Option<&Object>, changed: &mut Changed) {
        changed.insert(ChangedKey::Workload(NamespacedName::of(&pod.metadata)));
        // What a waypoint that the pod itself is bound to is told of it: where it is and who, not how it fares.
        let told = |pod: &Pod| {
            let told = self.endpoint(pod, &[]).map(|endpoint| (endpoint.addresses, endpoint.identity, endpoint.hbone));
            (told, pod.metadata.labels.clone())
        };
        let same = matches!(other, Some(Object::Pod(other)) if told(other) == told(pod));
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if !matches!(other, Some(Object::Pod(other)) if node(other) == node(pod)) {
            self.own_waypoint_affected(pod, changed);
        }
        if !same && let Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. } = self.pod_binding(pod) {
            changed.insert(ChangedKey::Waypoint(waypoint));
        }
        self.services_with_pod(pod).keys().for_each(|service| self.endpoints_affected(service, changed));
        self.claims_near_pod(pod).into_iter().for_each(|key| self.claim_affected(key, changed));
        // Without this pod, what is claimed of its address is another's that has the same.
        for address in pod_addresses(pod).into_iter().filter(|address| self.links.claims_by_address.count(address) > 0) {
            changed.extend(self.links.pods_by_address.get(&address).cloned().map(ChangedKey::Workload));
        }
        pod_addresses(pod).into_iter().for_each(|address| self.address_affected(address, changed));
    }

    /// An address of a Service or pod, which is no host's virtual address even if an entry says so.
    fn address_affected(&self, address: IpAddr, changed: &mut Changed) {
        for entry in self.links.entries_by_address.get(&address).filter_map(|name| self.objects().service_entries.get(name)) {
            add_waypoint(self.entry_binding(entry), changed);
            changed.extend(entry_hosts(entry).map(ChangedKey::Host));
        }
    }

    /// An endpoint of a slice or ServiceEntry: a workload of its own, or a pod that serves something by it.
    fn claim_affected(&self, key: ExternalKey, changed: &mut Changed) {
        if let Some(pod) = self.pod_of_claim(&key) {
            changed.insert(ChangedKey::Workload(NamespacedName::of(&pod.metadata)));
        }
        self.services_with_external(&key).keys().for_each(|service| self.endpoints_affected(service, changed));
        changed.insert(ChangedKey::External(key));
    }

    fn members_affected(members: Members<'_>, changed: &mut Changed) {
        changed.extend(members.pods.into_iter().map(|pod| ChangedKey::Workload(NamespacedName::of(&pod.metadata))));
        changed.extend(members.externals.into_iter().map(ChangedKey::External));
    }

    fn service_affected(&self, service: &Service, name: NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Service(name.clone()));
        virtual_addresses(service).into_iter().for_each(|address| self.address_affected(address, changed));
        add_waypoint(self.service_binding(service), changed);
        // Slices are for a Service only while it selects nothing itself.
        for slice in self.links.slices_by_service.get(&name).filter_map(|slice| self.objects().endpoint_slices.get(slice)) {
            slice_claims(slice).for_each(|key| self.claim_affected(key, changed));
        }
        let hostname = self.config().hostname(&name);
        let host = NamespacedName::new(name.namespace.clone(), hostname);
        if self.links.entries_by_host.count(&host) > 0 {
            self.host_affected(host, changed);
        }
        let service = ServiceRef::Kubernetes(name);
        Self::members_affected(self.members(&service), changed);
        self.waypoints_seeing(&service, changed);
    }

    /// A host of ServiceEntries: all that any of them says, as another may be the one that counts.
    fn host_affected(&self, host: NamespacedName, changed: &mut Changed) {
        for entry in self.links.entries_by_host.get(&host).filter_map(|name| self.objects().service_entries.get(name)) {
            add_waypoint(self.entry_binding(entry), changed);
            Self::members_affected(self.members_of_entry(entry, &host), changed);
            changed.extend(entry_claims(entry).map(ChangedKey::External));
        }
        self.waypoints_asking(&ServiceRef::Host(host.clone()), changed);
        self.waypoints_processed_by(&ServiceRef::Host(host.clone()), changed);
        self.waypoints_traced_to(&ServiceRef::Host(host.clone()), changed);
        self.waypoints_logging_to(&ServiceRef::Host(host.clone()), changed);
        changed.insert(ChangedKey::Host(host));
    }

    /// The endpoints of a service, as the waypoints that send to it have them.
    pub(super) fn endpoints_affected(&self, service: &ServiceRef, changed: &mut Changed) {
        let mut waypoints = Changed::new();
        self.waypoints_seeing(service, &mut waypoints);
        // Names of hosts are looked up by the proxy, so they are in the cluster itself.
        let by_name = match service {
            ServiceRef::Kubernetes(_) => false,
            ServiceRef::Host(host) => self.entry_of_host(host).is_some_and(|entry| entry.spec.resolution.by_name()),
        };
        changed.extend(waypoints.into_iter().map(|key| match key {
            ChangedKey::Waypoint(waypoint) if !by_name => ChangedKey::Endpoints { waypoint, service: service.clone() },
            key => key,
        }));
    }

    /// The waypoints that a service is bound to, or that have a route to it from a service bound to them; and the services that gRPC
    /// clients reach it by.
    pub(super) fn waypoints_seeing(&self, service: &ServiceRef, changed: &mut Changed) {
        self.waypoints_asking(service, changed);
        self.waypoints_processed_by(service, changed);
        self.waypoints_traced_to(service, changed);
        self.waypoints_logging_to(service, changed);
        match service {
            ServiceRef::Kubernetes(name) => {
                changed.insert(ChangedKey::Clients(name.clone()));
                self.waypoint_of_service(name, changed);
                self.virtual_services_to(name, changed);
                for route in self.links.routes_by_backend.get(name) {
                    self.route_key_affected(route, changed);
                }
            }
            ServiceRef::Host(host) => {
                if let Some(entry) = self.entry_of_host(host) {
                    add_waypoint(self.entry_binding(entry), changed);
                }
            }
        }
    }

    pub(super) fn waypoint_of_service(&self, service: &NamespacedName, changed: &mut Changed) {
        if let Some(service) = self.objects().services.get(service) {
            add_waypoint(self.service_binding(service), changed);
        }
    }

    pub(super) fn route_key_affected(&self, route: &RouteKey, changed: &mut Changed) {
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
        changed.extend(parents.services.into_iter().map(ChangedKey::Clients));
        changed.extend(parents.gateways.into_iter().map(ChangedKey::Waypoint));
    }

    fn gateway_affected(&self, name: &NamespacedName, changed: &mut Changed) {
        changed.insert(ChangedKey::Waypoint(name.clone()));
        // Whether services are bound to it decides whether they are reached past it.
        if self.links.requesters.count(name) > 0 {
            changed.extend(self.ingresses().cloned().map(ChangedKey::Waypoint));
        }
        for requester in self.links.requesters.get(name) {
            match requester {
                Requester::Service(service) => {
                    changed.insert(ChangedKey::Service(service.clone()));
                    changed.insert(ChangedKey::Clients(service.clone()));
                }
                Requester::Pod(pod) => _ = changed.insert(ChangedKey::Workload(pod.clone())),
                Requester::Entry(entry) => {
                    if let Some(entry) = self.objects().service_entries.get(entry) {
                        changed.extend(entry_hosts(entry).map(ChangedKey::Host));
                    }
                }
                Requester::Namespace(namespace) => self.all_in(namespace, changed),
            }
        }
    }
}

/// Whether two states of a route differ in its status alone, which only those read who write it.
fn say_the_same(one: &Object, other: &Object) -> bool {
    match (one, other) {
        (Object::HttpRoute(one), Object::HttpRoute(other)) => one.metadata == other.metadata && one.spec == other.spec,
        (Object::GrpcRoute(one), Object::GrpcRoute(other)) => one.metadata == other.metadata && one.spec == other.spec,
        (Object::TlsRoute(one), Object::TlsRoute(other)) => one.metadata == other.metadata && one.spec == other.spec,
        (Object::TcpRoute(one), Object::TcpRoute(other)) => one.metadata == other.metadata && one.spec == other.spec,
        _ => false,
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

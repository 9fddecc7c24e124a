//! Reverse indexes: from a label, a selector, a waypoint, a parent or a backend to the objects that name it.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Flatten;
use std::net::IpAddr;
use std::option::IntoIter;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::binding::{Requester, waypoint_label};
use super::certificates::named_secrets;
use super::endpoint::{host_network, pod_addresses};
use super::external::{ExternalKey, entry_address, named_by_slice, names_pod, slice_endpoints};
use super::member::{entry_claims, slice_claims};
use super::route::{RouteKey, route_backends, route_parents};
use super::service::{all_said_addresses, entry_hosts};
use crate::jwks::KeySource;
use crate::source::crd::networking::ServiceEntry;
use crate::source::{NamespacedName, Object, key_sources};
use crate::translate::workload::virtual_addresses;

/// A map to sets that forgets empty sets.
#[derive(Debug)]
pub(super) struct Reverse<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Reverse<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Reverse<K, V> {
    fn set(&mut self, key: K, value: V, present: bool) {
        if present {
            self.0.entry(key).or_default().insert(value);
        } else if let Some(set) = self.0.get_mut(&key) {
            set.remove(&value);
            if set.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// The values under a key, in order.
    pub(super) fn get(&self, key: &K) -> Flatten<IntoIter<&BTreeSet<V>>> {
        let set: Option<&BTreeSet<V>> = self.0.get(key);
        set.into_iter().flatten()
    }

    /// The values of all keys; one that is under several is there for each.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flatten()
    }

    /// How many values a key has.
    pub(super) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}

/// One label of a namespace's objects; both parts empty stand for "every pod".
pub(super) type LabelKey = (std::sync::Arc<str>, String, String);

/// All reverse indexes.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Pods by each of their labels.
    pub(super) pods_by_label: Reverse<LabelKey, NamespacedName>,
    /// Services by the first pair of their selector.
    pub(super) services_by_selector: Reverse<LabelKey, NamespacedName>,
    /// Selector policies by the first pair of their selector.
    pub(super) policies_by_selector: Reverse<LabelKey, NamespacedName>,
    /// Pods by the node they run on.
    pub(super) pods_by_node: Reverse<String, NamespacedName>,
    /// Pods by each of their own addresses.
    pub(super) pods_by_address: Reverse<IpAddr, NamespacedName>,
    /// Services by each of their virtual addresses.
    pub(super) services_by_address: Reverse<IpAddr, NamespacedName>,
    /// ServiceEntries by each virtual address that they say a host has.
    pub(super) entries_by_address: Reverse<IpAddr, NamespacedName>,
    /// EndpointSlices by the Service they are for.
    pub(super) slices_by_service: Reverse<NamespacedName, NamespacedName>,
    /// Endpoints of slices by the node they say they are on.
    pub(super) externals_by_node: Reverse<String, ExternalKey>,
    /// Endpoints of slices by the pod they say they are.
    pub(super) claims_by_pod: Reverse<NamespacedName, ExternalKey>,
    /// Endpoints of slices and ServiceEntries that name no pod, and WorkloadEntries, by their address.
    pub(super) claims_by_address: Reverse<IpAddr, ExternalKey>,
    /// ServiceEntries by their hosts.
    pub(super) entries_by_host: Reverse<NamespacedName, NamespacedName>,
    /// ServiceEntries by the first pair of their selector.
    pub(super) entries_by_selector: Reverse<LabelKey, NamespacedName>,
    /// Who names a waypoint.
    pub(super) requesters: Reverse<NamespacedName, Requester>,
    /// Routes by the service they are attached to.
    pub(super) routes_by_service: Reverse<NamespacedName, RouteKey>,
    /// Routes by the gateway they are attached to.
    pub(super) routes_by_gateway: Reverse<NamespacedName, RouteKey>,
    /// Gateways by the Secrets that their listeners name.
    pub(super) gateways_by_secret: Reverse<NamespacedName, NamespacedName>,
    /// Gateways by the other namespaces that they name Secrets of.
    pub(super) gateways_into_namespace: Reverse<String, NamespacedName>,
    /// Routes by the services they send to.
    pub(super) routes_by_backend: Reverse<NamespacedName, RouteKey>,
    /// Routes by the namespaces they send to from another.
    pub(super) routes_into_namespace: Reverse<String, RouteKey>,
    /// Policies by the resource they target: kind and name.
    pub(super) policies_by_target: Reverse<(String, NamespacedName), NamespacedName>,
    /// RequestAuthentications by where keys of theirs are fetched from.
    pub(super) token_policies_by_source: Reverse<KeySource, NamespacedName>,
}

impl Links {
    pub(super) fn insert(&mut self, object: &Object) {
        self.set(object, true);
    }

    pub(super) fn remove(&mut self, object: &Object) {
        self.set(object, false);
    }

    fn set(&mut self, object: &Object, present: bool) {
        let name = NamespacedName::of(object.metadata());
        if let Some((waypoint, requester)) = waypoint_label(object) {
            self.requesters.set(waypoint, requester, present);
        }
        match object {
            Object::Pod(pod) => {
                for (key, value) in pod.metadata.labels.iter().flatten() {
                    self.pods_by_label.set((name.namespace.clone(), key.clone(), value.clone()), name.clone(), present);
                }
                if !host_network(pod) {
                    for address in pod_addresses(pod) {
                        self.pods_by_address.set(address, name.clone(), present);
                    }
                }
                if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                    self.pods_by_node.set(node, name, present);
                }
            }
            Object::Service(service) => {
                for address in virtual_addresses(service) {
                    self.services_by_address.set(address, name.clone(), present);
                }
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                if let Some(first) = selector.and_then(|selector| selector.first_key_value()) {
                    self.services_by_selector.set(label_key(&name, Some(first)), name, present);
                }
            }
            Object::AuthorizationPolicy(policy) => {
                for target in policy.spec.targets() {
                    let target = (target.kind.clone(), NamespacedName::new(name.namespace.clone(), target.name.as_str()));
                    self.policies_by_target.set(target, name.clone(), present);
                }
                if let (Some(selector), None) = (&policy.spec.selector, policy.spec.targets().next()) {
                    let first = selector.match_labels.first_key_value();
                    self.policies_by_selector.set(label_key(&name, first), name, present);
                }
            }
            Object::RequestAuthentication(policy) => {
                for (source, _) in key_sources(policy) {
                    self.token_policies_by_source.set(source, name.clone(), present);
                }
            }
            Object::Gateway(gateway) => {
                for secret in named_secrets(gateway) {
                    if secret.namespace != name.namespace {
                        self.gateways_into_namespace.set(secret.namespace.to_string(), name.clone(), present);
                    }
                    self.gateways_by_secret.set(secret, name.clone(), present);
                }
            }
            Object::EndpointSlice(slice) => self.set_slice(slice, name, present),
            Object::ServiceEntry(entry) => self.set_entry(entry, &name, present),
            Object::WorkloadEntry(entry) => {
                if let Some(address) = entry_address(entry) {
                    self.claims_by_address.set(address, ExternalKey::Entry(name), present);
                }
            }
            Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TlsRoute(_) | Object::TcpRoute(_) => {
                self.set_route(object, &name, present)
            }
            _ => {}
        }
    }

    fn set_slice(&mut self, slice: &EndpointSlice, name: NamespacedName, present: bool) {
        for (key, (address, endpoint)) in slice_claims(slice).zip(slice_endpoints(slice)) {
            if let Some(node) = &endpoint.node_name {
                self.externals_by_node.set(node.clone(), key.clone(), present);
            }
            match names_pod(slice, endpoint) {
                Some(pod) => self.claims_by_pod.set(pod, key, present),
                None => self.claims_by_address.set(address, key, present),
            }
        }
        if let Some(service) = named_by_slice(slice) {
            self.slices_by_service.set(service, name, present);
        }
    }

    fn set_entry(&mut self, entry: &ServiceEntry, name: &NamespacedName, present: bool) {
        for host in entry_hosts(entry) {
            self.entries_by_host.set(host, name.clone(), present);
        }
        if let Some(selector) = &entry.spec.workload_selector {
            self.entries_by_selector.set(label_key(name, selector.labels.first_key_value()), name.clone(), present);
        }
        for address in all_said_addresses(entry) {
            self.entries_by_address.set(address, name.clone(), present);
        }
        for key in entry_claims(entry) {
            if let ExternalKey::Inline { endpoint, .. } = &key
                && let Ok(address) = endpoint.parse::<IpAddr>()
            {
                self.claims_by_address.set(address, key, present);
            }
        }
    }

    fn set_route(&mut self, object: &Object, name: &NamespacedName, present: bool) {
        let route = RouteKey { kind: object.kind(), name: name.clone() };
        let parents = route_parents(object);
        for service in parents.services {
            self.routes_by_service.set(service, route.clone(), present);
        }
        for gateway in parents.gateways {
            self.routes_by_gateway.set(gateway, route.clone(), present);
        }
        for backend in route_backends(object) {
            if backend.namespace != name.namespace {
                self.routes_into_namespace.set(backend.namespace.to_string(), route.clone(), present);
            }
            self.routes_by_backend.set(backend, route.clone(), present);
        }
    }
}

/// The key under which a selector with this first pair is kept.
pub(super) fn label_key(name: &NamespacedName, pair: Option<(&String, &String)>) -> LabelKey {
    let (key, value) = pair.map_or_else(Default::default, |(key, value)| (key.clone(), value.clone()));
    (name.namespace.clone(), key, value)
}

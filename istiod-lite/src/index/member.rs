//! Who is an endpoint of what: pods and workloads that are no pods, by selectors, EndpointSlices and ServiceEntries.
//!
//! Pods say themselves that they belong to a Service with a selector; EndpointSlices are read for Services without one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::Index;
use super::endpoint::{Endpoint, has_ended, host_network, pod_addresses, selects};
use super::external::{ExternalKey, entry_labels, inline_endpoint, inline_endpoints, named_by_slice, names_pod, slice_endpoints};
use super::links::label_key;
use super::objects::in_namespace;
use super::port::{ServicePort, TargetPort};
use super::service::{ServiceRef, entry_ports};
use crate::source::crd::networking::{Resolution, ServiceEntry, WorkloadEntrySpec};
use crate::source::{NamespacedName, Pod};

/// Ports of a service with their numbers at one endpoint.
pub type Ports = Vec<(ServicePort, u16)>;

/// The endpoints of one service.
#[derive(Debug, Default)]
pub struct Members<'a> {
    /// Pods.
    pub pods: Vec<&'a Arc<Pod>>,
    /// Workloads that are no pods.
    pub externals: BTreeSet<ExternalKey>,
}

impl Index {
    /// The services that a pod is an endpoint of, with their ports in it.
    #[must_use]
    pub fn services_with_pod(&self, pod: &Pod) -> BTreeMap<ServiceRef, Ports> {
        let mut services = BTreeMap::new();
        for service in self.services_of_pod(pod) {
            let ports = ServicePort::all_of(service).into_iter();
            let ports = ports.filter_map(|port| port.target_in(pod).map(|target| (port, target))).collect();
            services.insert(ServiceRef::Kubernetes(NamespacedName::of(&service.metadata)), ports);
        }
        for key in self.claims_on_pod(pod) {
            self.add_claim(&key, &mut services);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for entry in self.entries_selecting(namespace, pod.metadata.labels.as_ref()) {
            let ports = entry_ports(entry).into_iter();
            let ports: Ports = ports.filter_map(|port| port.target_in(pod).map(|target| (port, target))).collect();
            for host in self.hosts_of_entry(entry) {
                services.entry(ServiceRef::Host(host)).or_insert_with(|| ports.clone());
            }
        }
        services
    }

    /// The services that a workload which is no pod is an endpoint of, with their ports at it.
    #[must_use]
    pub fn services_with_external(&self, key: &ExternalKey) -> BTreeMap<ServiceRef, Ports> {
        let mut services = BTreeMap::new();
        let ExternalKey::Entry(name) = key else {
            self.add_claim(key, &mut services);
            return services;
        };
        let Some(object) = self.objects().workload_entries.get(name) else { return services };
        let labels = entry_labels(object);
        for service in self.services_selecting(&name.namespace, Some(&labels)) {
            let ports = ports_at(ServicePort::all_of(service), &object.spec);
            services.insert(ServiceRef::Kubernetes(NamespacedName::of(&service.metadata)), ports);
        }
        for entry in self.entries_selecting(&name.namespace, Some(&labels)) {
            for host in self.hosts_of_entry(entry) {
                services.insert(ServiceRef::Host(host), ports_at(entry_ports(entry), &object.spec));
            }
        }
        services
    }

    /// The ports of one service at a workload that is no pod; `None` when it does not serve it.
    #[must_use]
    pub fn ports_at_external(&self, key: &ExternalKey, service: &ServiceRef) -> Option<Ports> {
        let (ExternalKey::Inline { entry, endpoint }, ServiceRef::Host(host)) = (key, service) else {
            return self.services_with_external(key).remove(service);
        };
        // Without a look at all the other hosts, of which each endpoint of a long entry is one as well.
        let entry = self.objects().service_entries.get(entry).filter(|entry| self.owns_host(entry, host))?;
        ports_of_inline(entry, (&**endpoint, inline_endpoint(entry, endpoint)?), host)
    }

    /// What an endpoint of a slice or of a ServiceEntry says it serves.
    fn add_claim(&self, key: &ExternalKey, services: &mut BTreeMap<ServiceRef, Ports>) {
        match key {
            ExternalKey::Slice { slice, .. } => {
                let Some(slice) = self.objects().endpoint_slices.get(slice) else { return };
                let Some(service) = self.service_of_slice(slice) else { return };
                let name = NamespacedName::of(&service.metadata);
                let ports: &mut Ports = services.entry(ServiceRef::Kubernetes(name)).or_default();
                for (port, target) in slice_ports(service, slice) {
                    // Slices of both IP families say the same ports.
                    if ports.iter().all(|(known, _)| known.port != port.port) {
                        ports.push((port, target));
                    }
                }
            }
            ExternalKey::Inline { entry, endpoint } => {
                let Some(entry) = self.objects().service_entries.get(entry) else { return };
                let Some(spec) = inline_endpoint(entry, endpoint) else { return };
                for host in self.hosts_of_entry(entry) {
                    if let Some(ports) = ports_of_inline(entry, (&**endpoint, spec), &host) {
                        services.insert(ServiceRef::Host(host), ports);
                    }
                }
            }
            ExternalKey::Entry(_) => {}
        }
    }

    /// The endpoints of slices and of ServiceEntries that are this pod: they name it, or have its address.
    fn claims_on_pod(&self, pod: &Pod) -> BTreeSet<ExternalKey> {
        let name = NamespacedName::of(&pod.metadata);
        let mut claims: BTreeSet<ExternalKey> = self.links.claims_by_pod.get(&name).cloned().collect();
        if !host_network(pod) && !has_ended(pod) {
            for address in pod_addresses(pod) {
                if self.pod_with_address(address).is_some_and(|owner| NamespacedName::of(&owner.metadata) == name) {
                    claims.extend(self.links.claims_by_address.get(&address).cloned());
                }
            }
        }
        claims
    }

    /// All claims that are, or would be without another pod, this pod's.
    pub(super) fn claims_near_pod(&self, pod: &Pod) -> BTreeSet<ExternalKey> {
        let mut claims: BTreeSet<ExternalKey> =
            self.links.claims_by_pod.get(&NamespacedName::of(&pod.metadata)).cloned().collect();
        for address in pod_addresses(pod) {
            claims.extend(self.links.claims_by_address.get(&address).cloned());
        }
        claims
    }

    /// The pod that an endpoint of a slice or ServiceEntry is, if it is one.
    pub(super) fn pod_of_claim(&self, key: &ExternalKey) -> Option<&Arc<Pod>> {
        match key {
            ExternalKey::Slice { slice, address } => {
                let slice = self.objects().endpoint_slices.get(slice)?;
                let (_, endpoint) = slice_endpoints(slice).find(|(ip, _)| ip == address)?;
                match names_pod(slice, endpoint) {
                    Some(pod) => self.objects().pods.get(&pod),
                    None => self.pod_with_address(*address),
                }
            }
            ExternalKey::Inline { endpoint, .. } => self.pod_with_address(endpoint.parse::<IpAddr>().ok()?),
            ExternalKey::Entry(_) => None,
        }
    }

    /// The Service whose endpoints a slice says: it exists, and selects no pods itself.
    #[must_use]
    pub fn service_of_slice(&self, slice: &EndpointSlice) -> Option<&Arc<Service>> {
        let service = self.objects().services.get(&named_by_slice(slice)?)?;
        (!has_selector(service)).then_some(service)
    }

    /// The endpoints of a service, with or without an address.
    #[must_use]
    pub fn members(&self, service: &ServiceRef) -> Members<'_> {
        let mut members = Members::default();
        match service {
            ServiceRef::Kubernetes(name) => {
                let Some(object) = self.objects().services.get(name) else { return members };
                match object.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty()) {
                    Some(selector) => self.selected_members(&name.namespace, selector, &mut members),
                    None => {
                        let slices = self.links.slices_by_service.get(name);
                        let slices = slices.filter_map(|slice| self.objects().endpoint_slices.get(slice));
                        self.claimed_members(slices.flat_map(|slice| slice_claims(slice)), &mut members);
                    }
                }
            }
            ServiceRef::Host(host) => {
                if let Some(entry) = self.entry_of_host(host) {
                    members = self.members_of_entry(entry, host);
                }
            }
        }
        members
    }

    /// The endpoints that an entry gives one of its hosts, were it the one that says what the host is.
    pub(super) fn members_of_entry<'a>(&'a self, entry: &ServiceEntry, host: &NamespacedName) -> Members<'a> {
        let mut members = Members::default();
        match (&entry.spec.workload_selector, entry.spec.resolution) {
            (Some(selector), Resolution::Static) => self.selected_members(&host.namespace, &selector.labels, &mut members),
            // What has an address is not looked up.
            (Some(_), _) => {}
            (None, _) => {
                let by_host = entry.spec.endpoints.is_empty();
                let claims = entry_claims(entry).filter(|key| !by_host || claims_host(key, host));
                self.claimed_members(claims, &mut members);
            }
        }
        members
    }

    fn selected_members<'a>(&'a self, namespace: &str, selector: &BTreeMap<String, String>, members: &mut Members<'a>) {
        if selector.is_empty() {
            return;
        }
        members.pods = self.pods_selected(namespace, selector);
        let entries = in_namespace(&self.objects().workload_entries, namespace);
        let entries = entries.filter(|(_, entry)| selects(selector, Some(&entry_labels(entry))));
        members.externals = entries.map(|(name, _)| ExternalKey::Entry(name.clone())).collect();
    }

    fn claimed_members<'a>(&'a self, claims: impl Iterator<Item = ExternalKey>, members: &mut Members<'a>) {
        let mut pods = BTreeMap::new();
        for key in claims {
            match self.pod_of_claim(&key) {
                Some(pod) => _ = pods.insert(NamespacedName::of(&pod.metadata), pod),
                None => _ = members.externals.insert(key),
            }
        }
        members.pods = pods.into_values().collect();
    }

    /// The endpoints of a service that have an address: pods in the order of their names, then the others.
    #[must_use]
    pub fn endpoints(&self, service: &ServiceRef) -> Vec<Endpoint> {
        let members = self.members(service);
        let by_selector = match service {
            ServiceRef::Kubernetes(name) => self.objects().services.get(name).is_some_and(|service| has_selector(service)),
            ServiceRef::Host(_) => false,
        };
        let all_ports = self.service_ports(service);
        let pods = members.pods.into_iter().filter_map(|pod| {
            if by_selector {
                return self.endpoint(pod, &all_ports);
            }
            let mut endpoint = self.endpoint(pod, &[])?;
            endpoint.ports = numbers(self.services_with_pod(pod).remove(service)?);
            Some(endpoint)
        });
        let externals = members.externals.iter().filter_map(|key| {
            // A waypoint has no way into another network, where the same address may be anybody's here.
            let external = self.external(key).filter(|external| external.network.is_empty())?;
            Some(Endpoint {
                workload: key.object().clone(),
                uid: key.uid(self.config()),
                health: external.health,
                ports: numbers(self.ports_at_external(key, service)?),
                weight: external.weight,
                identity: self.external_identity(&external)?,
                hbone: external.hbone,
                node: external.node,
                locality: external.locality,
                addresses: Some(external.addresses).filter(|addresses| !addresses.is_empty())?,
            })
        });
        pods.chain(externals).collect()
    }

    /// The ServiceEntries of a namespace whose selector selects these labels.
    pub(super) fn entries_selecting(
        &self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Vec<&Arc<ServiceEntry>> {
        let scope = NamespacedName::new(namespace, "");
        let pairs = labels.into_iter().flatten();
        let names: BTreeSet<_> =
            pairs.flat_map(|pair| self.links.entries_by_selector.get(&label_key(&scope, Some(pair)))).collect();
        let entries = names.into_iter().filter_map(|name| self.objects().service_entries.get(name));
        let entries = entries.filter(|entry| entry.spec.resolution == Resolution::Static);
        entries
            .filter(|entry| entry.spec.workload_selector.as_ref().is_some_and(|selector| selects(&selector.labels, labels)))
            .collect()
    }
}

/// Whether a Service selects its endpoints itself.
pub(super) fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

/// The endpoints of a slice as workloads they may be.
pub(super) fn slice_claims(slice: &EndpointSlice) -> impl Iterator<Item = ExternalKey> {
    let name = NamespacedName::of(&slice.metadata);
    slice_endpoints(slice).map(move |(address, _)| ExternalKey::Slice { slice: name.clone(), address })
}

/// The endpoints of a ServiceEntry as workloads they may be.
pub(super) fn entry_claims(entry: &ServiceEntry) -> impl Iterator<Item = ExternalKey> {
    let name = NamespacedName::of(&entry.metadata);
    inline_endpoints(entry).map(move |(endpoint, _)| ExternalKey::Inline { entry: name.clone(), endpoint })
}

/// The ports of a host of an entry at one of the entry's own endpoints; one that is looked up by a host's name is that host's alone.
fn ports_of_inline(
    entry: &ServiceEntry,
    (endpoint, spec): (&str, Option<&WorkloadEntrySpec>),
    host: &NamespacedName,
) -> Option<Ports> {
    match spec {
        Some(spec) => Some(ports_at(entry_ports(entry), spec)),
        None => (*host.name == *endpoint).then(|| ports_at(entry_ports(entry), &WorkloadEntrySpec::default())),
    }
}

fn claims_host(key: &ExternalKey, host: &NamespacedName) -> bool {
    matches!(key, ExternalKey::Inline { endpoint, .. } if *endpoint == host.name)
}

/// The ports that a slice gives numbers: they go by the names of the Service's.
fn slice_ports(service: &Service, slice: &EndpointSlice) -> Ports {
    let of_slice =
        || slice.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let number = |name: Option<&str>| {
        let port = of_slice().find(|port| port.name.as_deref().unwrap_or_default() == name.unwrap_or_default())?;
        u16::try_from(port.port?).ok()
    };
    let ports = ServicePort::all_of(service).into_iter();
    ports.filter_map(|port| number(port.name.as_deref()).map(|target| (port, target))).collect()
}

/// The ports at a workload that may number them otherwise.
fn ports_at(ports: Vec<ServicePort>, spec: &WorkloadEntrySpec) -> Ports {
    let number = |port: &ServicePort| {
        let own = port.name.as_ref().and_then(|name| spec.ports.get(name)).and_then(|number| u16::try_from(*number).ok());
        own.or(match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => spec.ports.get(name).and_then(|number| u16::try_from(*number).ok()),
        })
    };
    ports.into_iter().filter_map(|port| number(&port).map(|target| (port, target))).collect()
}

fn numbers(ports: Ports) -> BTreeMap<u16, u16> {
    ports.into_iter().map(|(port, target)| (port.port, target)).collect()
}

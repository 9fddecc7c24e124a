//! Workloads that are no pods: addresses of EndpointSlices, endpoints of ServiceEntries, and WorkloadEntries.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_identity::{Namespace, ServiceAccount, SpiffeId};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use super::endpoint::{EndpointHealth, Locality, has_ended};
use super::service::entry_hosts;
use super::{Index, MeshConfig, label};
use crate::source::crd::networking::{Resolution, ServiceEntry, WorkloadEntry, WorkloadEntrySpec};
use crate::source::{NamespacedName, Pod};

/// Which workload that is no pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExternalKey {
    /// An address of an EndpointSlice.
    Slice {
        /// The slice.
        slice: NamespacedName,
        /// The address.
        address: IpAddr,
    },
    /// An endpoint written in a ServiceEntry.
    Inline {
        /// The entry.
        entry: NamespacedName,
        /// Its address or host name, in lower case.
        endpoint: Arc<str>,
    },
    /// A WorkloadEntry.
    Entry(NamespacedName),
}

impl ExternalKey {
    /// Its uid in the address table, in the form that the ecosystem's control plane gives it:
    /// `<cluster>/<group>/<kind>/<namespace>/<name>[/<address>]`.
    #[must_use]
    pub fn uid(&self, config: &MeshConfig) -> String {
        let cluster = &config.cluster_id;
        match self {
            Self::Slice { slice: NamespacedName { namespace, name }, address } => {
                format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}")
            }
            Self::Inline { entry: NamespacedName { namespace, name }, endpoint } => {
                format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{endpoint}")
            }
            Self::Entry(NamespacedName { namespace, name }) => {
                format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}")
            }
        }
    }

    /// The object it is written in.
    #[must_use]
    pub fn object(&self) -> &NamespacedName {
        match self {
            Self::Slice { slice: name, .. } | Self::Inline { entry: name, .. } | Self::Entry(name) => name,
        }
    }
}

impl fmt::Debug for ExternalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slice { slice, address } => write!(f, "endpoint {address} of slice {slice}"),
            Self::Inline { entry, endpoint } => write!(f, "endpoint {endpoint} of entry {entry}"),
            Self::Entry(name) => write!(f, "workload entry {name}"),
        }
    }
}

/// A workload that is no pod, as its object describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// Which.
    pub key: ExternalKey,
    /// Its addresses; empty when it is known by a host name.
    pub addresses: Vec<IpAddr>,
    /// The host name that its address is looked up by; empty when it has addresses.
    pub hostname: String,
    /// Its network.
    pub network: String,
    /// The node it runs on, if it runs on one.
    pub node: String,
    /// Where it is.
    pub locality: Locality,
    /// Its service account; empty for the default one.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it speaks HBONE itself.
    pub hbone: bool,
    /// Whether it takes new connections.
    pub health: EndpointHealth,
    /// Its share of connections, when it says one.
    pub weight: Option<u32>,
}

impl Index {
    /// The workload of a key; `None` when nothing says that it exists, and when its address is that of a pod, which says more of itself.
    #[must_use]
    pub fn external(&self, key: &ExternalKey) -> Option<External> {
        match key {
            ExternalKey::Slice { slice, address } => {
                let object = self.objects().endpoint_slices.get(slice)?;
                self.service_of_slice(object)?;
                let (_, endpoint) = slice_endpoints(object).find(|(ip, _)| ip == address)?;
                if names_pod(object, endpoint).is_some() || self.pod_with_address(*address).is_some() {
                    return None;
                }
                Some(self.slice_external(key.clone(), *address, endpoint))
            }
            ExternalKey::Inline { entry, endpoint } => {
                let object = self.objects().service_entries.get(entry)?;
                if !entry_hosts(object).any(|host| self.owns_host(object, &host)) {
                    return None;
                }
                let spec = inline_endpoint(object, endpoint)?;
                if let Ok(address) = endpoint.parse::<IpAddr>()
                    && self.pod_with_address(address).is_some()
                {
                    return None;
                }
                let spec =
                    spec.cloned().unwrap_or_else(|| WorkloadEntrySpec { address: endpoint.to_string(), ..Default::default() });
                described(key.clone(), &spec, spec.labels.clone(), EndpointHealth::Healthy)
            }
            ExternalKey::Entry(name) => {
                let object = self.objects().workload_entries.get(name)?;
                if let Some(address) = entry_address(object)
                    && self.pod_with_address(address).is_some()
                {
                    return None;
                }
                described(key.clone(), &object.spec, entry_labels(object), entry_health(object))
            }
        }
    }

    fn slice_external(&self, key: ExternalKey, address: IpAddr, endpoint: &SliceEndpoint) -> External {
        let node = endpoint.node_name.clone().unwrap_or_default();
        let mut locality = self.locality(&node);
        if let Some(zone) = &endpoint.zone {
            locality.zone.clone_from(zone);
        }
        External {
            key,
            addresses: vec![address],
            hostname: String::new(),
            network: String::new(),
            node,
            locality,
            service_account: String::new(),
            labels: BTreeMap::new(),
            hbone: false,
            health: slice_health(endpoint),
            weight: None,
        }
    }

    /// The identity of a workload that is no pod; `None` when its names cannot be part of one.
    #[must_use]
    pub fn external_identity(&self, external: &External) -> Option<SpiffeId> {
        let namespace = Namespace::new(&external.key.object().namespace).ok()?;
        let account = if external.service_account.is_empty() { "default" } else { &external.service_account };
        Some(SpiffeId::new(self.config().trust_domain.clone(), namespace, ServiceAccount::new(account).ok()?))
    }

    /// The pod that an address belongs to. Pods on their node's network have none of their own.
    #[must_use]
    pub fn pod_with_address(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        let mut pods = self.links.pods_by_address.get(&address).filter_map(|name| self.objects().pods.get(name));
        pods.find(|pod| !has_ended(pod))
    }
}

/// A workload by what is written of it; `None` without an address.
fn described(
    key: ExternalKey,
    spec: &WorkloadEntrySpec,
    labels: BTreeMap<String, String>,
    health: EndpointHealth,
) -> Option<External> {
    let address = spec.address.parse::<IpAddr>().ok();
    if spec.address.is_empty() || spec.address.contains('/') {
        return None;
    }
    let mut places = spec.locality.splitn(3, '/').map(str::to_owned);
    let mut place = || places.next().unwrap_or_default();
    Some(External {
        key,
        addresses: Vec::from_iter(address),
        hostname: if address.is_some() { String::new() } else { spec.address.to_ascii_lowercase() },
        network: spec.network.clone(),
        node: String::new(),
        locality: Locality { region: place(), zone: place(), subzone: place() },
        service_account: spec.service_account.clone(),
        hbone: address.is_some() && labels.get(label::TUNNEL).is_some_and(|value| value == "http"),
        labels,
        health,
        weight: spec.weight.filter(|weight| *weight > 0),
    })
}

/// The service an EndpointSlice is for, existing or not (label `kubernetes.io/service-name`).
pub(super) fn named_by_slice(slice: &EndpointSlice) -> Option<NamespacedName> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(NamespacedName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service.as_str()))
}

/// The endpoints of a slice with their address. Of an endpoint with several only the first has a meaning (Kubernetes' API reference),
/// and slices of names have none.
pub(super) fn slice_endpoints(slice: &EndpointSlice) -> impl Iterator<Item = (IpAddr, &SliceEndpoint)> {
    let endpoints = if slice.address_type == "FQDN" { &[] } else { slice.endpoints.as_slice() };
    endpoints.iter().filter_map(|endpoint| Some((endpoint.addresses.first()?.parse().ok()?, endpoint)))
}

/// The pod that an endpoint of a slice says it is.
pub(super) fn names_pod(slice: &EndpointSlice, endpoint: &SliceEndpoint) -> Option<NamespacedName> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let namespace = target.namespace.as_deref().or(slice.metadata.namespace.as_deref()).unwrap_or_default();
    Some(NamespacedName::new(namespace, target.name.as_deref()?))
}

/// Ready unless it says no, and not terminating: one that only still serves takes no new connections.
fn slice_health(endpoint: &SliceEndpoint) -> EndpointHealth {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or_default();
    if ready && !terminating { EndpointHealth::Healthy } else { EndpointHealth::Unhealthy }
}

/// The endpoints that a ServiceEntry gives itself, by address or name. One that is looked up and names none is looked up by its hosts.
pub(super) fn inline_endpoints(entry: &ServiceEntry) -> impl Iterator<Item = (Arc<str>, Option<&WorkloadEntrySpec>)> {
    let given = given_endpoints(entry).map(|endpoint| (canonical(&endpoint.address), Some(endpoint)));
    given.chain(looked_up_hosts(entry).map(|host| (host.name, None)))
}

/// The endpoint of an entry with this address or name, as [`inline_endpoints`] has it; the inner `None` is one of its hosts.
pub(super) fn inline_endpoint<'a>(entry: &'a ServiceEntry, endpoint: &str) -> Option<Option<&'a WorkloadEntrySpec>> {
    let address = endpoint.parse::<IpAddr>().ok();
    let mut given = given_endpoints(entry);
    let given = given.find(|spec| match address {
        Some(address) => spec.address.parse() == Ok(address),
        None => spec.address.eq_ignore_ascii_case(endpoint),
    });
    match given {
        Some(spec) => Some(Some(spec)),
        None => looked_up_hosts(entry).any(|host| *host.name == *endpoint).then_some(None),
    }
}

/// The endpoints written in an entry, where they count.
fn given_endpoints(entry: &ServiceEntry) -> impl Iterator<Item = &WorkloadEntrySpec> {
    let spec = &entry.spec;
    let by_name = spec.resolution.by_name();
    let given = (spec.resolution != Resolution::None && spec.workload_selector.is_none()).then_some(&spec.endpoints);
    given
        .into_iter()
        .flatten()
        .filter(move |endpoint| !endpoint.address.is_empty() && (by_name || endpoint.address.parse::<IpAddr>().is_ok()))
}

/// The hosts of an entry that are their own endpoints.
fn looked_up_hosts(entry: &ServiceEntry) -> impl Iterator<Item = NamespacedName> + '_ {
    let spec = &entry.spec;
    let by_host = spec.resolution.by_name() && spec.endpoints.is_empty() && spec.workload_selector.is_none();
    by_host.then(|| entry_hosts(entry).filter(|host| !host.name.starts_with('*'))).into_iter().flatten()
}

/// An address in its one form, a name in lower case.
fn canonical(address: &str) -> Arc<str> {
    address.parse::<IpAddr>().map_or_else(|_| address.to_ascii_lowercase(), |address| address.to_string()).into()
}

/// The address of a WorkloadEntry, if it is not known by a name.
pub(super) fn entry_address(entry: &WorkloadEntry) -> Option<IpAddr> {
    entry.spec.address.parse().ok()
}

/// The labels that services select a WorkloadEntry by: its own, and those of the spec over them.
pub(super) fn entry_labels(entry: &WorkloadEntry) -> BTreeMap<String, String> {
    let mut labels = entry.metadata.labels.clone().unwrap_or_default();
    labels.extend(entry.spec.labels.clone());
    labels
}

/// Healthy unless whoever checks it says otherwise.
fn entry_health(entry: &WorkloadEntry) -> EndpointHealth {
    let mut conditions = entry.status.iter().flat_map(|status| &status.conditions);
    let unhealthy = conditions.any(|condition| condition.r#type == "Healthy" && condition.status == "False");
    if unhealthy { EndpointHealth::Unhealthy } else { EndpointHealth::Healthy }
}

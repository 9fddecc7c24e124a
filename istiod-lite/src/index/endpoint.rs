//! Pods as endpoints: which Service selects which pods, in what state, on which ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_identity::{Namespace, ServiceAccount, SpiffeId};
use k8s_openapi::api::core::v1::Service;

use super::links::label_key;
use super::objects::{cluster_scoped, in_namespace};
use super::port::ServicePort;
use super::{Index, label};
use crate::source::{NamespacedName, Pod};

/// Where a pod runs, from its node's labels; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub subzone: String,
}

/// Whether an endpoint takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Ready, and not being deleted.
    Healthy,
    /// Not ready, or terminating.
    Unhealthy,
}

/// A workload that serves a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod, or the object that a workload which is no pod is written in.
    pub workload: NamespacedName,
    /// Its uid in the address table.
    pub uid: String,
    /// Its addresses, in the order of its status; never empty.
    pub addresses: Vec<IpAddr>,
    /// State of the workload itself; see [`Index::publishes_not_ready`] for services that want the others too.
    pub health: EndpointHealth,
    /// Service port to port of the workload. A named target port the pod does not have is left out.
    pub ports: BTreeMap<u16, u16>,
    /// Its share of connections, in proportion to others; nothing counts as 1.
    pub weight: Option<u32>,
    /// The identity it proves.
    pub identity: SpiffeId,
    /// Whether it is reached by HBONE on 15008; else in clear on the target port.
    pub hbone: bool,
    /// Node it runs on.
    pub node: String,
    /// Where that node is.
    pub locality: Locality,
}

impl Index {
    /// A pod as an endpoint of these ports; `None` while it has no address, and once it has run to its end.
    #[must_use]
    pub fn endpoint(&self, pod: &Pod, ports: &[ServicePort]) -> Option<Endpoint> {
        let name = NamespacedName::of(&pod.metadata);
        let addresses = pod_addresses(pod);
        if addresses.is_empty() || has_ended(pod) {
            return None;
        }
        let ports = ports.iter().filter_map(|port| Some((port.port, port.target_in(pod)?))).collect();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        Some(Endpoint {
            uid: self.config().pod_uid(&name),
            addresses,
            health: pod_health(pod),
            ports,
            weight: None,
            identity: self.pod_identity(pod)?,
            hbone: self.speaks_hbone(pod),
            locality: self.locality(&node),
            node,
            workload: name,
        })
    }

    /// The SPIFFE identity of a pod; `None` when its names cannot be part of one.
    #[must_use]
    pub fn pod_identity(&self, pod: &Pod) -> Option<SpiffeId> {
        let namespace = Namespace::new(pod.metadata.namespace.as_deref()?).ok()?;
        let account = ServiceAccount::new(service_account(pod)).ok()?;
        Some(SpiffeId::new(self.config().trust_domain.clone(), namespace, account))
    }

    /// Whether a pod is reached by HBONE: its traffic is captured, or it speaks HBONE itself.
    #[must_use]
    pub fn speaks_hbone(&self, pod: &Pod) -> bool {
        !host_network(pod) && (native_tunnel(pod) || captured(pod))
    }

    /// Where a node is, from its labels.
    #[must_use]
    pub fn locality(&self, node: &str) -> Locality {
        let labels = cluster_scoped(&self.objects().nodes, node).and_then(|node| node.metadata.labels.as_ref());
        let value = |key: &str| labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
        Locality {
            region: value("topology.kubernetes.io/region"),
            zone: value("topology.kubernetes.io/zone"),
            subzone: value("topology.istio.io/subzone"),
        }
    }

    /// Whether a service wants endpoints that are not ready as well.
    #[must_use]
    pub fn publishes_not_ready(service: &Service) -> bool {
        service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
    }

    /// The pods a service selects, with or without an address.
    #[must_use]
    pub fn pods_of_service(&self, service: &Service) -> Vec<&Arc<Pod>> {
        let name = NamespacedName::of(&service.metadata);
        match service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
            Some(selector) if !selector.is_empty() => self.pods_selected(&name.namespace, selector),
            // Without a selector the endpoints are for EndpointSlices to say; see `Index::members`.
            _ => Vec::new(),
        }
    }

    /// The pods of a namespace with all of these labels; no labels select every pod.
    #[must_use]
    pub fn pods_selected(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&Arc<Pod>> {
        let pods = &self.objects().pods;
        let scope = NamespacedName::new(namespace, "");
        let rarest =
            selector.iter().map(|pair| label_key(&scope, Some(pair))).min_by_key(|key| self.links.pods_by_label.count(key));
        match rarest {
            Some(key) => {
                let candidates = self.links.pods_by_label.get(&key).filter_map(|name| pods.get(name));
                candidates.filter(|pod| selects(selector, pod.metadata.labels.as_ref())).collect()
            }
            None => in_namespace(pods, namespace).map(|(_, pod)| pod).collect(),
        }
    }

    /// The services whose selector selects a pod, in the order of their names.
    #[must_use]
    pub fn services_of_pod(&self, pod: &Pod) -> Vec<&Arc<Service>> {
        self.services_selecting(pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.labels.as_ref())
    }

    /// The services of a namespace whose selector selects these labels, in the order of their names.
    pub(super) fn services_selecting(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Vec<&Arc<Service>> {
        let scope = NamespacedName::new(namespace, "");
        let mut names: Vec<&NamespacedName> = labels
            .into_iter()
            .flatten()
            .flat_map(|pair| self.links.services_by_selector.get(&label_key(&scope, Some(pair))))
            .collect();
        names.sort();
        names
            .into_iter()
            .filter_map(|name| self.objects().services.get(name))
            .filter(|service| {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                selector.is_some_and(|selector| selects(selector, labels))
            })
            .collect()
    }
}

/// Whether labels have every pair of a selector.
#[must_use]
pub fn selects(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The service account a pod runs as.
#[must_use]
pub fn service_account(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref().or(spec.service_account.as_deref()));
    account.filter(|account| !account.is_empty()).unwrap_or("default")
}

/// Whether a pod shares its node's network namespace, where nothing can be captured.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default()
}

/// Whether a pod speaks HBONE itself.
#[must_use]
pub fn native_tunnel(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(label::TUNNEL)).is_some_and(|value| value == "http")
}

/// Whether the node has captured a pod's traffic.
fn captured(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(label::REDIRECTION)).is_some_and(|value| value == "enabled")
}

/// A pod's addresses, each once, in the order of its status.
#[must_use]
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let mut addresses = Vec::new();
    for address in listed.chain(status.pod_ip.as_deref()) {
        if let Ok(address) = address.parse::<IpAddr>()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether a pod has run to its end, so that its address may be another's by now.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Healthy means: condition `Ready` is `True`, and not being deleted.
#[must_use]
pub fn pod_health(pod: &Pod) -> EndpointHealth {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if ready && pod.metadata.deletion_timestamp.is_none() { EndpointHealth::Healthy } else { EndpointHealth::Unhealthy }
}

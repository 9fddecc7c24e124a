//! What runs where in a cluster, out of what its API server says: a function of its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use istiod_lite::source::NamespacedName;
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod, Service};

use crate::install::{chart::NAMESPACE, wait};
use crate::local::topology::{PodFacts, ProxyFacts, Topology};

/// Label of namespaces and pods that says whether the mesh carries their traffic (wire contract, section 7).
const MODE: &str = "istio.io/dataplane-mode";

/// Annotation of pods whose traffic a node proxy carries.
const CAPTURED: &str = "ambient.istio.io/redirection";

/// Labels of a waypoint's pods: the class and the name of its Gateway.
const CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

/// Label of the mesh's own pods that says which part they are.
const PART: &str = "app.kubernetes.io/name";

/// The objects of a cluster that matter here.
#[derive(Debug, Clone, Default)]
pub(super) struct Everything {
    pub nodes: Vec<Arc<Node>>,
    pub namespaces: Vec<Arc<Namespace>>,
    pub pods: Vec<Arc<Pod>>,
    pub services: Vec<Arc<Service>>,
}

/// A container whose output is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Speaker {
    /// Which pod.
    pub pod: NamespacedName,
    /// Which of those that had this name.
    pub uid: String,
    /// Which container.
    pub container: String,
    /// The proxy that it is, by its name in the mesh; else a program that tells what it counts.
    pub proxy: Option<String>,
}

/// A cluster, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scenery {
    /// What runs where, of the namespaces that are looked at.
    pub topology: Arc<Topology>,
    /// Whose output is read: the proxies' and the demonstration's programs'.
    pub speakers: Vec<Speaker>,
    /// Why pods are not ready, in words.
    pub stuck: BTreeMap<NamespacedName, String>,
    /// How often containers of each pod were started again, by its uid, with what it is called.
    pub restarts: BTreeMap<String, (String, i32)>,
}

impl Everything {
    /// The view of these namespaces.
    pub(super) fn seen(&self, namespaces: &BTreeSet<String>) -> Scenery {
        let (mut topology, mut speakers) = (Topology::default(), Vec::new());
        let (mut stuck, mut restarts) = (BTreeMap::new(), BTreeMap::new());
        topology.nodes = self.nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
        topology.nodes.sort();
        for service in self.services.iter().filter(|service| is_in(service.metadata.namespace.as_ref(), namespaces)) {
            topology.services.insert(NamespacedName::of(&service.metadata), addresses_of(service));
        }
        let enrolled: BTreeSet<&str> = self
            .namespaces
            .iter()
            .filter(|namespace| is_ambient(namespace.metadata.labels.as_ref()))
            .filter_map(|namespace| namespace.metadata.name.as_deref())
            .collect();
        for pod in self.pods.iter().filter(|pod| runs(pod)) {
            let name = NamespacedName::of(&pod.metadata);
            let proxy = proxy_of(pod, &name);
            if proxy.is_none() && !is_in(pod.metadata.namespace.as_ref(), namespaces) {
                continue;
            }
            if let Some(container) = first_container(pod).filter(|container| proxy.is_some() || tells(container)) {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                speakers.push(Speaker { pod: name.clone(), uid, container: container.name.clone(), proxy: proxy.clone() });
            }
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let called = proxy.clone().unwrap_or_else(|| name.to_string());
            restarts.insert(
                pod.metadata.uid.clone().unwrap_or_default(),
                (called, statuses.map(|status| status.restart_count).sum()),
            );
            if let Some(proxy) = proxy {
                topology.proxies.push(ProxyFacts { name: proxy, access_log: None });
            }
            if !is_in(pod.metadata.namespace.as_ref(), namespaces) {
                continue;
            }
            if let Some(owner) = owner_of(pod) {
                topology.owners.insert(NamespacedName::new(name.namespace.clone(), owner), name.clone());
            }
            let facts = self.facts_of(pod, enrolled.contains(&*name.namespace));
            if facts.waypoint {
                let gateway = NamespacedName::new(name.namespace.clone(), facts.workload.as_str());
                if !topology.waypoints.contains(&gateway) {
                    topology.waypoints.push(gateway);
                }
            }
            if let (false, Some(reason)) = (facts.ready, wait::stuck(pod)) {
                stuck.insert(name.clone(), reason);
            }
            topology.pods.insert(name, facts);
        }
        Scenery { topology: Arc::new(topology), speakers, stuck, restarts }
    }

    fn facts_of(&self, pod: &Pod, in_enrolled: bool) -> PodFacts {
        let labels = pod.metadata.labels.as_ref();
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).cloned();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let waypoint = is_waypoint(pod);
        let workload = if waypoint { label(GATEWAY) } else { label("app").or_else(|| owner_of(pod)) };
        let enrolled = label(MODE).map_or(in_enrolled, |mode| mode == "ambient") && !waypoint;
        let annotations = pod.metadata.annotations.as_ref();
        let selects = |service: &&Arc<Service>| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            service.metadata.namespace == pod.metadata.namespace
                && selector.is_some_and(|selector| {
                    !selector.is_empty() && selector.iter().all(|(key, value)| label(key).as_ref() == Some(value))
                })
        };
        // What its node's agent says of it, and not the label by which that is wanted.
        let captured = annotations.and_then(|annotations| annotations.get(CAPTURED)).is_some_and(|state| state == "enabled");
        let addresses = pod_addresses(pod);
        PodFacts {
            workload: workload.unwrap_or(name),
            service_account: pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
            node: node_of(pod).unwrap_or_default(),
            guarded: captured || addresses.is_empty(),
            addresses,
            stats: None,
            ready: is_ready(pod),
            enrolled,
            captured,
            waypoint,
            services: services_in_order(self.services.iter().filter(selects)),
        }
    }
}

/// By name, so that the first is always the same.
fn services_in_order<'a>(services: impl Iterator<Item = &'a Arc<Service>>) -> Vec<NamespacedName> {
    services.map(|service| NamespacedName::of(&service.metadata)).collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_in(namespace: Option<&String>, namespaces: &BTreeSet<String>) -> bool {
    namespace.is_some_and(|namespace| namespaces.contains(namespace))
}

fn is_ambient(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(MODE)).is_some_and(|mode| mode == "ambient")
}

fn is_waypoint(pod: &Pod) -> bool {
    let class = pod.metadata.labels.as_ref().and_then(|labels| labels.get(CLASS));
    class.is_some_and(|class| class.starts_with("istio-waypoint"))
}

/// Whether it has an address of its own and has not ended.
fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let own = pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
    own && pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn first_container(pod: &Pod) -> Option<&Container> {
    let started = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    pod.spec.as_ref().filter(|_| started)?.containers.first()
}

/// Whether it is a program of the demonstration, which tells what it sees of those that it calls.
fn tells(container: &Container) -> bool {
    let mut words = container.command.iter().chain(&container.args).flatten().map(String::as_str);
    let program = words.next().and_then(|program| program.rsplit('/').next());
    (program, words.next()) == (Some("ambit"), Some("demo"))
}

/// Its name in the mesh, if it is a proxy.
fn proxy_of(pod: &Pod, name: &NamespacedName) -> Option<String> {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    if is_waypoint(pod) {
        return Some(format!("waypoint/{}/{}", name.namespace, label(GATEWAY)?));
    }
    let is_ztunnel = *name.namespace == *NAMESPACE && label(PART).is_some_and(|part| part == "ztunnel");
    is_ztunnel.then(|| node_of(pod).map(|node| format!("ztunnel/{node}"))).flatten()
}

/// What proxies call a pod that something else has made, as the control plane tells them.
fn owner_of(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(deployment.filter(|_| owner.kind == "ReplicaSet").unwrap_or(&owner.name).to_owned())
}

fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok()).collect()
}

fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let addresses = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    addresses.filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests;

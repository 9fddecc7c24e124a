//! What the kubelet tells: the API server's objects to the control plane, names and service addresses to pods, the topology to
//! whoever looks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_testbed::ServiceRule;
use istiod_lite::index::ServicePort;
use istiod_lite::source::NamespacedName;
use k8s_openapi::api::core::v1::Service;

use super::{Kubelet, Running, Wanted};
use crate::error::{Error, Result};
use crate::local::hosts;
use crate::local::objects::{self, Capture, PodReport, SYSTEM};
use crate::local::programs;
use crate::local::topology::{PodFacts, ProxyFacts, Topology};

impl Kubelet {
    pub(super) fn write_objects(&mut self) -> Result<()> {
        let mut files = BTreeMap::new();
        files.insert(format!("namespace.{SYSTEM}"), objects::namespace(SYSTEM));
        files.insert(format!("serviceaccount.{SYSTEM}.ztunnel"), objects::service_account(SYSTEM, "ztunnel"));
        for (name, node) in &self.nodes {
            files.insert(format!("node.{name}"), objects::node(name, &node.place.ips()));
            let pod = programs::ztunnel_name(name);
            files.insert(format!("pod.{SYSTEM}.{}", pod.name), node.ztunnel_object(name));
        }
        for (name, addresses) in &self.services {
            let waypoint = self.pods.get(name).filter(|pod| pod.wanted.waypoint && !self.cluster.services().contains_key(name));
            let object = match waypoint {
                Some(_) => objects::waypoint_service(name, addresses),
                None => objects::service(name, addresses),
            };
            if let Some(object) = object {
                files.insert(format!("service.{}.{}", name.namespace, name.name), object);
            }
        }
        for (name, Running { wanted, runtime }) in &self.pods {
            files.extend(self.pod_files(name, wanted, &runtime.report()));
        }
        self.overlay.retain(|file| files.contains_key(file))?;
        files.iter().try_for_each(|(file, object)| self.overlay.put(file, object))
    }

    /// The objects of one pod; for a waypoint also those around it.
    pub(super) fn pod_files(
        &self,
        name: &NamespacedName,
        wanted: &Wanted,
        report: &PodReport,
    ) -> Vec<(String, serde_json::Value)> {
        let file = |kind: &str| format!("{kind}.{}.{}", name.namespace, name.name);
        if !wanted.waypoint {
            return vec![(file("pod"), objects::pod(name, report))];
        }
        // At the edge of the mesh there is no Service before it: it is reached where it runs.
        let (labels, addresses) = match self.cluster.is_edge(name) {
            true => (objects::edge_labels(&name.name), report.pod_ips.as_slice()),
            false => {
                let addresses = self.services.get(name).map(Vec::as_slice).unwrap_or_default();
                (objects::waypoint_labels(&name.name), addresses)
            }
        };
        vec![
            (file("pod"), objects::system_pod(name, &labels, &name.name, "istio-proxy", report)),
            (file("serviceaccount"), objects::account_of_gateway(name)),
            (file("gateway"), objects::gateway(name, addresses)),
        ]
    }

    pub(super) fn write_names(&mut self) {
        for (name, Running { wanted, runtime }) in &self.pods {
            if let Err(error) = hosts::write(&runtime.place, &name.namespace, wanted.enrolled, &self.services) {
                self.notices.insert(format!("pod {name}: {error}"));
            }
        }
    }

    /// Service addresses for pods that no proxy captures.
    pub(super) async fn write_service_rules(&mut self) -> Result<()> {
        let mut rules = Vec::new();
        for (name, service) in self.cluster.services() {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
            let selected: Vec<_> = self
                .cluster
                .pods()
                .iter()
                .filter(|(pod, object)| {
                    let labels = object.metadata.labels.as_ref();
                    let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
                    pod.namespace == name.namespace && !selector.is_empty() && selector.iter().all(has)
                })
                .collect();
            for port in ServicePort::all_of(service) {
                let endpoints: Vec<SocketAddr> = selected
                    .iter()
                    .filter_map(|(pod, object)| {
                        let running = self.pods.get(*pod).filter(|running| running.runtime.is_ready())?;
                        let target = port.target_in(object)?;
                        Some(running.runtime.place.ips().into_iter().map(move |ip| SocketAddr::new(ip, target)))
                    })
                    .flatten()
                    .collect();
                let addresses = self.services.get(name).into_iter().flatten();
                rules.extend(addresses.map(|address| (*address, port.port, endpoints.clone())));
            }
        }
        if rules == self.rules {
            return Ok(());
        }
        let all: Vec<ServiceRule> =
            rules.iter().map(|(vip, port, endpoints)| ServiceRule::tcp(*vip, *port, endpoints.clone())).collect();
        for node in self.nodes.values() {
            node.place.set_services(&all).await.map_err(|error| Error::part("writing the rules of service addresses", error))?;
        }
        self.rules = rules;
        Ok(())
    }

    pub(super) fn publish(&self) {
        let mut topology =
            Topology { nodes: self.nodes.keys().cloned().collect(), services: self.services.clone(), ..Topology::default() };
        for node in self.nodes.keys() {
            topology.proxies.push(self.proxy(format!("ztunnel/{node}")));
        }
        for (name, Running { wanted, runtime }) in &self.pods {
            if wanted.waypoint {
                topology.waypoints.push(name.clone());
                topology.proxies.push(self.proxy(programs::waypoint_process(name)));
            }
            let facts = PodFacts {
                workload: wanted.workload.clone(),
                service_account: wanted.plan.service_account.clone(),
                node: runtime.node.clone(),
                addresses: runtime.place.ips(),
                stats: Some(runtime.stats.clone()),
                ready: runtime.is_ready(),
                enrolled: wanted.enrolled,
                captured: runtime.capture.state() == Capture::Enabled,
                // The rules are written before its programs start.
                guarded: wanted.enrolled,
                waypoint: wanted.waypoint,
                services: self.services_of(name),
            };
            topology.pods.insert(name.clone(), facts);
        }
        let topology = Arc::new(topology);
        self.views.topology.send_if_modified(|old| {
            let differs = **old != *topology;
            *old = topology.clone();
            differs
        });
    }

    fn proxy(&self, name: String) -> ProxyFacts {
        ProxyFacts { access_log: Some(self.programs.paths.access_log(&name)), name }
    }

    fn services_of(&self, pod: &NamespacedName) -> Vec<NamespacedName> {
        let labels = self.cluster.pods().get(pod).and_then(|pod| pod.metadata.labels.clone()).unwrap_or_default();
        let selects = |name: &NamespacedName, service: &Service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            name.namespace == pod.namespace
                && selector.is_some_and(|selector| {
                    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
                })
        };
        self.cluster.services().iter().filter(|(name, service)| selects(name, service)).map(|(name, _)| name.clone()).collect()
    }
}

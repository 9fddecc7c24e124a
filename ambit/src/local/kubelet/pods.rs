//! Pods come: placed on a node, captured if enrolled, their programs started.

use std::path::Path;
use std::sync::Arc;

use ambit_testbed::{Pod, PodSpec};
use istiod_lite::source::NamespacedName;

use super::{Kubelet, Placed, Running, Wanted};
use crate::error::{Error, Result};
use crate::local::cluster::PodPlan;
use crate::local::hosts;
use crate::local::node::Capturing;
use crate::local::objects::{Capture, PodReport};
use crate::local::pod::{PodParts, PodRuntime, Probe};
use crate::local::process::{Process, locked};
use crate::local::programs;
use crate::local::tokens::Bearer;

impl Kubelet {
    /// Chooses a node and makes the pod's place there, and writes what the API server would know of it by then.
    pub(super) async fn place_pod(&mut self, name: &NamespacedName, wanted: Wanted) -> Result<Placed> {
        let node_name = wanted.plan.node.clone().filter(|node| self.nodes.contains_key(node));
        let node_name = node_name.unwrap_or_else(|| self.emptiest_node());
        let uid = self.next_uid();
        let node = self.nodes.get(&node_name).ok_or_else(|| Error::Invalid(format!("there is no node {node_name}")))?;
        let failed = |error| Error::part("making its place", error);
        let place = node.place.add_pod(PodSpec::new(&*name.namespace, &*name.name)).await.map_err(failed)?;
        hosts::write(&place, &name.namespace, wanted.enrolled, &self.services).map_err(failed)?;
        let report = PodReport {
            uid: uid.clone(),
            node: node_name.clone(),
            host_ips: node.place.ips(),
            pod_ips: place.ips(),
            ready: false,
            capture: if wanted.enrolled { Capture::Pending } else { Capture::Off },
        };
        for (file, object) in self.pod_files(name, &wanted, &report) {
            self.overlay.put(&file, &object)?;
        }
        Ok(Placed { wanted, place, uid, node: node_name })
    }

    pub(super) async fn start_pod(&mut self, name: &NamespacedName, placed: Placed) -> Result<()> {
        let Placed { wanted, place, uid, node: node_name } = placed;
        let node = self.nodes.get(&node_name).ok_or_else(|| Error::Invalid(format!("there is no node {node_name}")))?;
        let capture = if wanted.enrolled {
            node.capture(&place, &uid, &wanted.plan.service_account, self.changed.0.clone()).await?
        } else {
            Capturing::off()
        };
        let host_ips = node.place.ips();
        let stats = self.programs.paths.run.join(format!("{}.{}.stats", name.namespace, name.name));
        let processes = if wanted.waypoint {
            vec![self.start_waypoint(name, &place, &uid, &node_name)?]
        } else {
            self.start_containers(name, &wanted.plan, &place, &stats)
        };
        let probe = if wanted.waypoint {
            Probe::Answers(programs::READY, "/healthz/ready")
        } else {
            Probe::Accepts(wanted.plan.probes.clone())
        };
        for process in &processes {
            locked(&self.views.processes).insert(process.name().to_owned(), process.clone());
        }
        locked(&self.views.places).insert(name.clone(), place.clone());
        let parts = PodParts { place, uid, node: node_name, host_ips, processes, stats, capture };
        let runtime = PodRuntime::new(parts, probe, self.changed.0.clone());
        self.pods.insert(name.clone(), Running { wanted, runtime });
        Ok(())
    }

    fn start_containers(&self, name: &NamespacedName, plan: &PodPlan, place: &Pod, stats: &Path) -> Vec<Arc<Process>> {
        let several = plan.containers.len() > 1;
        let containers = plan.containers.iter().map(|container| {
            let process = if several { format!("{name}/{}", container.name) } else { name.to_string() };
            let (programs, place, container) = (self.programs.clone(), place.clone(), container.clone());
            let (inner, stats) = (process.clone(), stats.to_owned());
            let starter = move || place.spawn(programs.container(&inner, &container, &stats));
            Arc::new(Process::supervise_after(process, self.first.clone(), Box::new(starter)))
        });
        containers.collect()
    }

    fn start_waypoint(&mut self, name: &NamespacedName, place: &Pod, uid: &str, node: &str) -> Result<Arc<Process>> {
        let token = self.tokens.issue(Bearer {
            namespace: name.namespace.to_string(),
            service_account: name.name.to_string(),
            pod: name.name.to_string(),
            uid: uid.to_owned(),
            node: node.to_owned(),
        })?;
        let (programs, place, gateway) = (self.programs.clone(), place.clone(), name.clone());
        let starter = move || place.spawn(programs.waypoint(&gateway, &token));
        Ok(Arc::new(Process::supervise(programs::waypoint_process(name), Box::new(starter))))
    }

    pub(super) async fn enrol(&mut self, name: &NamespacedName, enrolled: bool) -> Result<()> {
        let Some(running) = self.pods.get_mut(name) else { return Ok(()) };
        let Some(node) = self.nodes.get(&running.runtime.node) else { return Ok(()) };
        let runtime = &mut running.runtime;
        if enrolled {
            let account = running.wanted.plan.service_account.clone();
            runtime.capture = node.capture(&runtime.place, &runtime.uid, &account, self.changed.0.clone()).await?;
        } else {
            node.release(&runtime.uid).await;
            runtime.capture = Capturing::off();
        }
        running.wanted.enrolled = enrolled;
        Ok(())
    }

    fn emptiest_node(&self) -> String {
        self.nodes.iter().min_by_key(|(_, node)| node.place.pods().len()).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    pub(super) fn next_uid(&mut self) -> String {
        self.incarnations += 1;
        format!("{:08x}-{:04x}-4000-8000-{:012x}", fastrand::u32(..), fastrand::u16(..), self.incarnations)
    }
}

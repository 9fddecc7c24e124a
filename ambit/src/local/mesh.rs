//! A running local mesh, to look at and to disturb.

mod conditions;
mod ready;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ambit_node_agent::status::State;
use ambit_testbed::process::Finished;
use ambit_testbed::wire::{Capture, Report};
use ambit_testbed::{Bed, BedConfig, Command, Pod};
use istiod_lite::source::{Directory, NamespacedName, Problem};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::access::{AccessLine, Tail};
use super::kubelet::{Kubelet, Order, Views};
use super::options::{LocalOptions, Paths};
use super::process::{Process, Shared, locked};
use super::programs::{METRICS, MONITORING, Programs};
use super::topology::Topology;
use super::{overlay, probe};
use crate::error::{Error, Result};

/// A mesh on this machine. [`LocalMesh::stop`] ends it in order; dropping it ends its programs with the bed.
pub struct LocalMesh {
    bed: Arc<Bed>,
    programs: Programs,
    views: Views,
    orders: mpsc::Sender<Order>,
    kubelet: Option<JoinHandle<()>>,
    capture: Capture,
    began: Instant,
}

/// Traffic between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wire {
    /// Packets between nodes that run pods.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether a marker that every payload of the demonstration has was seen in clear.
    pub plaintext_marker_seen: bool,
    /// Packets that could not be looked at; the answer above holds only if there is none.
    pub unseen: u64,
}

/// What a process has used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessUse {
    /// Its name in the mesh.
    pub name: String,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Processor time so far, seconds.
    pub cpu_seconds: f64,
    /// How often it was started again.
    pub restarts: u32,
}

impl LocalMesh {
    /// Starts a mesh; [`LocalMesh::wait_ready`] waits for it. The program must have entered a bed ([`ambit_testbed::bed::enter`]).
    ///
    /// # Errors
    /// If the kernel refuses something (the message says what is missing), or the watched directory cannot be read.
    pub async fn start(mut options: LocalOptions) -> Result<Self> {
        let began = Instant::now();
        let manifests = &options.manifests;
        options.manifests =
            std::fs::canonicalize(manifests).map_err(|cause| Error::path("reading the directory", manifests, cause))?;
        let made = |error| Error::part("making the test bed", error);
        let config = BedConfig { families: options.families, ..BedConfig::default() };
        let bed = Arc::new(Bed::new(config).await.map_err(made)?);
        let control_plane = bed.control_plane().await.map_err(made)?.ip();
        let paths = Paths::create(bed.dir(), &options)?;
        let capture = bed.capture(&options.markers).map_err(|error| Error::part("watching the wire", error))?;
        let source = Directory::new(vec![options.manifests.clone()]).map_err(|error| Error::part("watching manifests", error))?;
        let views = Views {
            topology: watch::Sender::new(Arc::default()),
            processes: Shared::default(),
            places: Shared::default(),
            problems: watch::Sender::new(Arc::default()),
            notices: watch::Sender::new(BTreeSet::new()),
            captures: Shared::default(),
        };
        let programs = Programs { options, paths, control_plane };
        let mut kubelet = Kubelet::new(programs.clone(), bed.clone(), views.clone())?;
        kubelet.start_control_plane().await?;
        let (orders, inbox) = mpsc::channel(4);
        let kubelet = Some(tokio::spawn(kubelet.run(source, inbox)));
        Ok(Self { bed, programs, views, orders, kubelet, capture, began })
    }

    /// When the mesh was started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The bed that everything runs in.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The watched directory.
    pub fn manifests(&self) -> &Path {
        &self.programs.options.manifests
    }

    /// The directory of logs and access logs.
    pub fn logs(&self) -> &Path {
        &self.programs.paths.logs
    }

    /// The file with the mesh's root certificates.
    pub fn root_cert(&self) -> PathBuf {
        self.programs.paths.root_cert()
    }

    /// What runs where, and changes of that.
    pub fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.views.topology.subscribe()
    }

    /// What is wrong with the watched directory at present.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.views.problems.borrow().clone()
    }

    /// What could not be done so far, what was left out, and whose capture is not as it was, in words.
    pub fn notices(&self) -> BTreeSet<String> {
        let mut notices = self.views.notices.borrow().clone();
        let topology = self.views.topology.borrow().clone();
        for captures in &*locked(&self.views.captures) {
            for status in captures.borrow().values().filter(|status| !status.is_captured()) {
                let name = NamespacedName::new(status.namespace.as_str(), status.name.as_str());
                // Before that it is just starting.
                if topology.pods.get(&name).is_some_and(|facts| facts.captured) || status.state != State::Pending {
                    notices.insert(format!("the capture of {name} is {}: {}", status.state.name(), status.reason));
                }
            }
        }
        notices
    }

    /// The last lines of a process's log.
    pub fn log_end(&self, process: &str, lines: usize) -> Vec<String> {
        let text = std::fs::read(self.programs.paths.log(process)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all.iter().skip(all.len().saturating_sub(lines)).map(ToString::to_string).collect()
    }

    /// Processes by their name in the mesh: `istiod`, `ztunnel/node-1`, `waypoint/billing/waypoint`, `shop/web-1`.
    pub fn processes(&self) -> BTreeMap<String, Arc<Process>> {
        locked(&self.views.processes).clone()
    }

    /// A process by its name in the mesh.
    ///
    /// # Errors
    /// If there is none of that name; the message has all names.
    pub fn process(&self, name: &str) -> Result<Arc<Process>> {
        let processes = locked(&self.views.processes);
        let names = || processes.keys().cloned().collect::<Vec<_>>().join(", ");
        processes.get(name).cloned().ok_or_else(|| Error::Invalid(format!("there is no process {name}; there are {}", names())))
    }

    /// What each process has used so far.
    pub fn usage(&self) -> Vec<ProcessUse> {
        let mut used = Vec::new();
        let mut places: Vec<_> = self.bed.nodes().iter().flat_map(|node| node.processes()).collect();
        places.extend(locked(&self.views.places).values().flat_map(|pod| pod.processes()));
        for (name, process) in self.processes() {
            let state = process.state();
            let Some(running) = places.iter().find(|running| Some(running.pid()) == state.pid) else { continue };
            if let Ok(usage) = running.usage_with_children() {
                let restarts = state.restarts;
                used.push(ProcessUse { name, rss_bytes: usage.rss_bytes, cpu_seconds: usage.cpu_seconds, restarts });
            }
        }
        used
    }

    /// The place of a pod, to connect from it or to run programs in it.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let pod = NamespacedName::new(namespace, name);
        let found = locked(&self.views.places).get(&pod).cloned();
        found.ok_or_else(|| Error::Invalid(format!("there is no pod {pod}")))
    }

    /// Runs a program in a pod to its end.
    ///
    /// # Errors
    /// If there is no such pod, or the program cannot be started.
    pub async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Finished> {
        let (program, arguments) = command.split_first().ok_or_else(|| Error::Invalid("no command".into()))?;
        let place = self.pod(namespace, pod)?;
        let finished = place.run(Command::new(program).args(arguments)).await;
        finished.map_err(|error| Error::part(format!("running {program} in {namespace}/{pod}"), error))
    }

    /// Writes a file of the watched directory in one step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_manifest(&self, file: &str, text: &str) -> Result<()> {
        overlay::replace(&self.manifests().join(file), text)
    }

    /// Removes a file of the watched directory.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove_manifest(&self, file: &str) -> Result<()> {
        let path = self.manifests().join(file);
        std::fs::remove_file(&path).map_err(|cause| Error::path("removing", &path, cause))
    }

    /// Everything in a proxy's access log so far.
    pub fn access_log(&self, process: &str) -> Vec<AccessLine> {
        Tail::new(self.programs.paths.access_log(process)).read()
    }

    /// The metrics of a proxy or of the control plane, as Prometheus would scrape them.
    ///
    /// # Errors
    /// If there is no such process, or it does not answer.
    pub async fn metrics(&self, process: &str) -> Result<String> {
        let unknown = || Error::Invalid(format!("{process} has no metrics"));
        let part = |error| Error::part("finding the control plane", error);
        let (netns, port) = match process.split_once('/') {
            None if process == "istiod" => (self.bed.control_plane().await.map_err(part)?.netns().clone(), MONITORING),
            Some(("ztunnel", node)) => {
                let node = self.bed.nodes().into_iter().find(|found| found.name() == node).ok_or_else(unknown)?;
                (node.netns().clone(), METRICS)
            }
            Some(("waypoint", pod)) => {
                let (namespace, name) = pod.split_once('/').ok_or_else(unknown)?;
                (self.pod(namespace, name)?.netns().clone(), METRICS)
            }
            _ => return Err(unknown()),
        };
        Ok(probe::get(&netns, port, "/metrics").await?.1)
    }

    /// What the control plane finds wrong with its input: its `/debug/errors` page.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn source_errors(&self) -> Result<serde_json::Value> {
        let place = self.bed.control_plane().await.map_err(|error| Error::part("finding the control plane", error))?;
        let (_, body) = probe::get(place.netns(), MONITORING, "/debug/errors").await?;
        serde_json::from_str(&body).map_err(|error| Error::part("reading the control plane's errors", error))
    }

    /// Everything seen on the wire between the nodes so far.
    pub fn wire_report(&self) -> Report {
        self.capture.report()
    }

    /// A summary of [`LocalMesh::wire_report`].
    pub fn wire(&self) -> Wire {
        let report = self.capture.report();
        let Report { total, dropped: unseen, .. } = &report;
        Wire { packets: total.packets, bytes: total.bytes, plaintext_marker_seen: report.marker_seen(), unseen: *unseen }
    }

    /// Ends all programs and takes the nodes down.
    pub async fn stop(mut self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            let _stopped = stopped.await;
        }
        if let Some(kubelet) = self.kubelet.take() {
            let _ended = kubelet.await;
        }
    }
}

impl Drop for LocalMesh {
    fn drop(&mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.abort();
        }
    }
}

//! One pod that runs: its place in the bed, its processes, whether it serves and whether it is captured.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ambit_testbed::Pod;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::node::Capturing;
use super::objects::PodReport;
use super::probe;
use super::process::Process;

/// Pause between two looks whether a pod serves, while it does not.
const PROBE_SOON: Duration = Duration::from_millis(50);

/// Pause between two looks whether a pod still serves.
const PROBE_LATER: Duration = Duration::from_secs(1);

/// Looks in a row that must fail before a pod that served does not any more (Kubernetes' default is 3).
const PROBE_FAILURES: u32 = 3;

/// What must hold for a pod to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// These ports accept connections; with none, it is ready as soon as it runs.
    Accepts(Vec<u16>),
    /// This path on this port answers 200.
    Answers(u16, &'static str),
}

/// A running pod.
pub struct PodRuntime {
    /// Its place in the bed.
    pub place: Pod,
    /// Unique id of this incarnation.
    pub uid: String,
    /// Node.
    pub node: String,
    /// Addresses of its node.
    pub host_ips: Vec<IpAddr>,
    /// Its programs.
    pub processes: Vec<Arc<Process>>,
    /// Where a demonstration program tells what it sees.
    pub stats: PathBuf,
    /// Whether it is captured.
    pub capture: Capturing,
    ready: watch::Receiver<bool>,
    _prober: AbortOnDropHandle<()>,
}

/// What makes a [`PodRuntime`] besides its probe.
pub struct PodParts {
    /// See [`PodRuntime::place`].
    pub place: Pod,
    /// See [`PodRuntime::uid`].
    pub uid: String,
    /// See [`PodRuntime::node`].
    pub node: String,
    /// See [`PodRuntime::host_ips`].
    pub host_ips: Vec<IpAddr>,
    /// See [`PodRuntime::processes`].
    pub processes: Vec<Arc<Process>>,
    /// See [`PodRuntime::stats`].
    pub stats: PathBuf,
    /// See [`PodRuntime::capture`].
    pub capture: Capturing,
}

impl PodRuntime {
    /// A pod whose programs have been started; `changed` is told whenever it becomes ready or stops being so.
    pub fn new(parts: PodParts, probe: Probe, changed: mpsc::Sender<()>) -> Self {
        let (report, ready) = watch::channel(false);
        let prober = tokio::spawn(watch_readiness(parts.place.clone(), probe, report, changed));
        let PodParts { place, uid, node, host_ips, processes, stats, capture } = parts;
        let prober = AbortOnDropHandle::new(prober);
        Self { place, uid, node, host_ips, processes, stats, capture, ready, _prober: prober }
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && self.processes.iter().all(|process| process.state().pid.is_some())
    }

    /// What a kubelet reports of it.
    pub fn report(&self) -> PodReport {
        PodReport {
            uid: self.uid.clone(),
            node: self.node.clone(),
            host_ips: self.host_ips.clone(),
            pod_ips: self.place.ips(),
            ready: self.is_ready(),
            capture: self.capture.state(),
        }
    }

    /// Ends its programs and takes it out of the bed.
    pub async fn remove(self, patience: Duration) {
        futures::future::join_all(self.processes.iter().map(|process| process.stop(patience))).await;
        if let Err(error) = self.place.remove().await {
            tracing::warn!(pod = self.place.name(), %error, "a pod was not removed cleanly");
        }
    }
}

async fn watch_readiness(place: Pod, probe: Probe, report: watch::Sender<bool>, changed: mpsc::Sender<()>) {
    let mut failures = 0;
    loop {
        let serves = look(&place, &probe).await;
        failures = if serves { 0 } else { failures + 1 };
        let was = *report.borrow();
        let is = serves || (was && failures < PROBE_FAILURES);
        if is != was {
            report.send_replace(is);
            if changed.send(()).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(if is { PROBE_LATER } else { PROBE_SOON }).await;
    }
}

async fn look(place: &Pod, probe: &Probe) -> bool {
    match probe {
        Probe::Answers(port, path) => probe::answers_ok(place.netns(), *port, path).await,
        Probe::Accepts(ports) => {
            for port in ports {
                if !probe::accepts(place.netns(), *port).await {
                    return false;
                }
            }
            true
        }
    }
}

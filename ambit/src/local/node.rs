//! One node of the local mesh: its place in the bed, its proxy, and the agent that hands pods to it.

use std::path::PathBuf;
use std::sync::Arc;

use ambit_node_agent::{
    Agent, PodInfo,
    rules::Rules,
    status::{PodStatus, Statuses},
};
use ambit_testbed::{Node, Pod};
use istiod_lite::index::label::DATAPLANE_MODE;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::objects::{self, Capture, PodReport};
use super::process::Process;
use super::programs::{self, Programs};
use crate::error::{Error, Result};

/// A running node.
pub struct NodeRuntime {
    /// Its place in the bed.
    pub place: Node,
    /// Unique id of its proxy's pod.
    pub uid: String,
    /// Its proxy.
    pub ztunnel: Arc<Process>,
    agent: Arc<Agent>,
}

/// A pod's state of being captured, and who brings it there.
pub struct Capturing {
    state: watch::Receiver<Capture>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Capturing {
    /// Of a pod that is not enrolled.
    pub fn off() -> Self {
        Self { state: watch::channel(Capture::Off).1, _task: None }
    }

    /// The state now.
    pub fn state(&self) -> Capture {
        *self.state.borrow()
    }
}

impl NodeRuntime {
    /// Starts the agent and the proxy of a node, which authenticates with the token in a file.
    ///
    /// # Errors
    /// If the agent's socket cannot be made.
    pub(super) fn start(place: Node, name: &str, uid: String, programs: &Programs, token: PathBuf) -> Result<Self> {
        let socket = programs.zds_socket(name);
        let agent = Agent::listen(&socket, Rules::default())
            .map_err(|error| Error::part(format!("starting the agent of {name}"), error))?;
        let (there, programs, node) = (place.clone(), programs.clone(), name.to_owned());
        let address = place.ip().to_string();
        let starter = move || there.spawn(programs.ztunnel(&node, &address, &token));
        let ztunnel = Arc::new(Process::supervise(format!("ztunnel/{name}"), Box::new(starter)));
        Ok(Self { place, uid, ztunnel, agent: Arc::new(agent) })
    }

    /// Captures a pod: writes the rules before it returns, so that nothing leaves the pod in clear from then on, and hands it to the
    /// proxy as soon as that takes it. `changed` is told when the proxy has it. It is said to have it from then on, also while a proxy is
    /// replaced: others would speak to the pod in clear if it were not.
    ///
    /// # Errors
    /// If the kernel refuses the rules.
    pub async fn capture(&self, pod: &Pod, uid: &str, account: &str, changed: mpsc::Sender<()>) -> Result<Capturing> {
        let doing = || format!("capturing the traffic of {}/{}", pod.namespace(), pod.name());
        self.agent.rules().install(pod.netns()).await.map_err(|error| Error::part(doing(), error))?;
        let info = PodInfo {
            uid: uid.to_owned(),
            name: pod.name().to_owned(),
            namespace: pod.namespace().parse().map_err(|error| Error::part(doing(), error))?,
            service_account: account.parse().map_err(|error| Error::part(doing(), error))?,
        };
        let (report, state) = watch::channel(Capture::Pending);
        let (agent, netns) = (self.agent.clone(), pod.netns().clone());
        let task = tokio::spawn(async move {
            let (uid, mut statuses) = (info.uid.clone(), agent.statuses());
            // What fails now the agent tries again by itself.
            if let Err(error) = agent.add(info, netns).await {
                tracing::debug!(uid, %error, "the node proxy has not taken a pod");
            }
            if statuses.wait_for(|pods| pods.get(&uid).is_some_and(PodStatus::is_captured)).await.is_err() {
                return;
            }
            report.send_replace(Capture::Enabled);
            let _stopping = changed.send(()).await;
        });
        Ok(Capturing { state, _task: Some(AbortOnDropHandle::new(task)) })
    }

    /// The capture of its pods, as the agent tells it.
    pub fn captures(&self) -> watch::Receiver<Statuses> {
        self.agent.statuses()
    }

    /// Stops capturing a pod, removing its rules. That a dead proxy does not answer changes nothing.
    pub async fn release(&self, uid: &str) {
        if let Err(error) = self.agent.remove(uid).await {
            tracing::debug!(uid, %error, "a proxy was not told that a pod is gone");
        }
    }

    /// The pod of this node's proxy, as the API server holds it.
    pub fn ztunnel_object(&self, node: &str) -> Value {
        let addresses = self.place.ips();
        let report = PodReport {
            uid: self.uid.clone(),
            node: node.to_owned(),
            host_ips: addresses.clone(),
            pod_ips: addresses,
            ready: self.ztunnel.state().pid.is_some(),
            capture: Capture::Off,
        };
        let labels = serde_json::json!({ "app": "ztunnel", DATAPLANE_MODE: "none" });
        let mut pod = objects::system_pod(&programs::ztunnel_name(node), &labels, "ztunnel", "istio-proxy", &report);
        pod["spec"]["hostNetwork"] = Value::Bool(true);
        pod
    }
}

//! What is known of the capture of each pod, as others read it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Whether a pod's traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum State {
    /// Rules whole, a proxy has the pod and listens.
    #[serde(rename = "captured")]
    Captured,
    /// The rules are in force and no proxy serves the pod: its connections are refused.
    #[serde(rename = "pending")]
    Pending,
    /// As captured; something had to be repaired a short while ago.
    #[serde(rename = "repaired")]
    Repaired,
    /// The rules could not be repaired: nothing leaves the pod.
    #[serde(rename = "cut off")]
    CutOff,
    /// The rules could not be repaired, and the pod could not be cut off either. Somebody must look at it at once.
    #[serde(rename = "exposed")]
    Exposed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Captured, Self::Pending, Self::Repaired, Self::CutOff, Self::Exposed];

    /// Its name: that of the document and of the metric's label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Pending => "pending",
            Self::Repaired => "repaired",
            Self::CutOff => "cut off",
            Self::Exposed => "exposed",
        }
    }
}

/// The capture of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// The UID of the Kubernetes object.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whose identity its connections have.
    pub service_account: String,
    /// The inode of its network namespace.
    pub netns: u64,
    /// Whether it is captured.
    pub state: State,
    /// Why it is not simply captured; empty when it is.
    pub reason: String,
    /// How often something was repaired since the agent has the pod.
    pub repairs: u64,
}

impl PodStatus {
    /// Whether the mesh carries the pod's traffic now: its rules are whole, and a proxy has it and listens in it.
    #[must_use]
    pub const fn is_captured(&self) -> bool {
        matches!(self.state, State::Captured | State::Repaired)
    }
}

/// The capture of all pods of the node, by UID.
pub type Statuses = BTreeMap<String, PodStatus>;

/// Sets the gauge of pods by state.
pub(crate) fn count(statuses: &Statuses) {
    for state in State::ALL {
        let count = statuses.values().filter(|status| status.state == state).count();
        metrics::gauge!("ambit_capture_pods", "state" => state.name()).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

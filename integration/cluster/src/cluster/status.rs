//! What a cluster is like, out of what the API server says.

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use serde::{Deserialize, Serialize};

/// What a cluster is like now.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Seconds since it was started.
    pub seconds: u64,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Whether cluster DNS answers.
    pub dns: bool,
}

/// What a node is like now.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether the API server has it as ready.
    pub ready: bool,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// How many pods are on it.
    pub pods: usize,
    /// How many of them are ready.
    pub ready_pods: usize,
}

impl NodeStatus {
    /// That of a node, out of all pods.
    pub(super) fn of(node: &KubeNode, pods: &[Pod]) -> Self {
        let name = node.metadata.name.clone().unwrap_or_default();
        let is_on_it = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref() == Some(&name));
        let on_it: Vec<_> = pods.iter().filter(is_on_it).collect();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses =
            addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.clone()).collect();
        let ready_pods = on_it.iter().filter(|pod| pod_is_ready(pod)).count();
        Self { ready: is_ready(node), addresses, pods: on_it.len(), ready_pods, name }
    }
}

/// Whether a node takes pods.
pub(super) fn is_ready(node: &KubeNode) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_counts_its_own_pods_and_those_that_are_ready() {
        let conditions = |ready: &str| json!([{ "type": "Other", "status": "True" }, { "type": "Ready", "status": ready }]);
        let node: KubeNode = serde_json::from_value(json!({
            "metadata": { "name": "node-1" },
            "status": {
                "conditions": conditions("True"),
                "addresses": [{ "type": "Hostname", "address": "node-1" }, { "type": "InternalIP", "address": "10.0.0.1" }],
            },
        }))
        .unwrap();
        let pod = |on: &str, ready: &str| -> Pod {
            serde_json::from_value(
                json!({ "spec": { "nodeName": on, "containers": [] }, "status": { "conditions": conditions(ready) } }),
            )
            .unwrap()
        };
        let status = NodeStatus::of(&node, &[pod("node-1", "True"), pod("node-1", "False"), pod("node-2", "True")]);
        assert!(status.ready && status.name == "node-1" && status.addresses == ["10.0.0.1"], "{status:?}");
        assert_eq!((status.pods, status.ready_pods), (2, 1));
    }
}

//! The objects that the local mesh adds to the user's, as an API server would hold them.

use std::net::IpAddr;

use istiod_lite::deploy::{MANAGED_BY, MANAGER};
use istiod_lite::index::label::{DATAPLANE_MODE, GATEWAY_NAME, REDIRECTION, TUNNEL};
use istiod_lite::source::NamespacedName;
use serde_json::{Value, json};

/// Namespace of the mesh's own pods.
pub const SYSTEM: &str = "istio-system";

/// Where a pod is in being captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// Not enrolled.
    Off,
    /// Rules are written, the proxy has not taken the pod yet.
    Pending,
    /// The proxy has it.
    Enabled,
}

/// What a kubelet reports of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// Unique id of this incarnation.
    pub uid: String,
    /// Node it runs on.
    pub node: String,
    /// Addresses of the node, IPv4 first.
    pub host_ips: Vec<IpAddr>,
    /// Addresses of the pod, IPv4 first.
    pub pod_ips: Vec<IpAddr>,
    /// Whether it serves.
    pub ready: bool,
    /// Whether it is captured.
    pub capture: Capture,
}

fn ips(addresses: &[IpAddr]) -> Value {
    addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect()
}

/// The part of a Pod that the kubelet and the scheduler write.
pub fn pod(name: &NamespacedName, report: &PodReport) -> Value {
    let mut metadata = json!({ "name": &*name.name, "namespace": &*name.namespace, "uid": report.uid });
    let captured = match report.capture {
        Capture::Off => None,
        Capture::Pending => Some("pending"),
        Capture::Enabled => Some("enabled"),
    };
    if let Some(captured) = captured {
        metadata["annotations"] = json!({ REDIRECTION: captured });
    }
    let ready = if report.ready { "True" } else { "False" };
    let [host_ip, pod_ip] = [&report.host_ips, &report.pod_ips].map(|ips| ips.first().map(ToString::to_string));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": { "nodeName": report.node },
        "status": {
            "phase": "Running",
            "hostIP": host_ip,
            "hostIPs": ips(&report.host_ips),
            "podIP": pod_ip,
            "podIPs": ips(&report.pod_ips),
            "conditions": [{ "type": "Ready", "status": ready }],
        },
    })
}

/// The addresses of a Service; for a headless one there is nothing to add.
pub fn service(name: &NamespacedName, addresses: &[IpAddr]) -> Option<Value> {
    let first = addresses.first()?.to_string();
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let families: Vec<&str> = addresses.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    Some(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": &*name.name, "namespace": &*name.namespace },
        "spec": { "clusterIP": first, "clusterIPs": all, "ipFamilies": families },
    }))
}

/// A Node.
pub fn node(name: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": { "addresses": addresses, "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// A Namespace.
pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// A ServiceAccount.
pub fn service_account(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } })
}

/// The service account of the proxy of a Gateway, as the one that is made for it on Kubernetes: for nobody else is what it has at the edge.
pub fn account_of_gateway(name: &NamespacedName) -> Value {
    let mut account = service_account(&name.namespace, &name.name);
    account["metadata"]["labels"] = json!({ GATEWAY_NAME: &*name.name, MANAGED_BY: MANAGER });
    account
}

/// A whole pod of the mesh itself, with its report laid over.
pub fn system_pod(name: &NamespacedName, labels: &Value, service_account: &str, container: &str, report: &PodReport) -> Value {
    let mut pod = pod(name, report);
    pod["metadata"]["labels"] = labels.clone();
    pod["spec"]["serviceAccountName"] = json!(service_account);
    pod["spec"]["containers"] = json!([{ "name": container, "image": "ghcr.io/ambit-mesh/ambit:0.1.0" }]);
    pod
}

/// Labels of a waypoint's pod: which Gateway it serves, that it speaks HBONE itself, and that nothing is captured.
pub fn waypoint_labels(gateway: &str) -> Value {
    json!({
        GATEWAY_NAME: gateway,
        TUNNEL: "http",
        DATAPLANE_MODE: "none",
    })
}

/// Labels of a pod at the edge of the mesh: the same, but for the tunnels, which it does not take at its ports.
pub fn edge_labels(gateway: &str) -> Value {
    json!({ GATEWAY_NAME: gateway, DATAPLANE_MODE: "none" })
}

/// The Service in front of a waypoint.
pub fn waypoint_service(name: &NamespacedName, addresses: &[IpAddr]) -> Option<Value> {
    let mut service = service(name, addresses)?;
    let labels = json!({ GATEWAY_NAME: &*name.name });
    service["metadata"]["labels"] = labels.clone();
    service["spec"]["selector"] = labels;
    service["spec"]["ports"] = json!([{ "name": "mesh", "port": 15008, "targetPort": 15008, "appProtocol": "hbone" }]);
    Some(service)
}

/// The status of a waypoint's Gateway: where it is reached.
pub fn gateway(name: &NamespacedName, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({ "type": "IPAddress", "value": ip.to_string() })).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": { "name": &*name.name, "namespace": &*name.namespace },
        "status": { "addresses": addresses },
    })
}

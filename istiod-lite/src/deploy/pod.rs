//! The pod of a waypoint: no privileges, nothing written, one projected token.

use serde_json::{Value, json};

use super::{Options, Role};
use crate::index::{MeshConfig, label};
use crate::source::NamespacedName;

/// The name of its container, by which parameters set its resources; also what dashboards of the ecosystem look for.
pub const CONTAINER: &str = "istio-proxy";
/// The user it runs as; any but root would do, and a fixed one owns the token's file.
const USER: u32 = 1337;
/// Seconds that a pod which is deleted goes on as before: that it is deleted goes by way of the API server and the control plane to the proxies
/// of all nodes, while it may be the only one that they know.
const LINGER: u32 = 5;

/// Labels that the mesh reads: a waypoint speaks HBONE itself, and nothing in the pod is captured.
pub fn labels(name: &str, role: Role) -> Value {
    // What comes to the edge of the mesh comes in clear, from pods of the mesh as well.
    let mut labels = if role == Role::Waypoint { json!({ label::TUNNEL: "http" }) } else { json!({}) };
    labels[label::DATAPLANE_MODE] = json!("none");
    labels["service.istio.io/canonical-name"] = json!(name);
    labels
}

/// The given annotations, with those by which Prometheus finds the metrics where they are not among them.
pub fn annotations(given: Value) -> Value {
    let mut annotations = json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/path": "/metrics",
    });
    super::parameters::merge(&mut annotations, &given);
    annotations
}

/// The spec of the pod.
pub fn spec(name: &NamespacedName, mesh: &MeshConfig, options: &Options, image: &str) -> Value {
    json!({
        "serviceAccountName": &*name.name,
        "automountServiceAccountToken": false,
        // More than it lingers, and its own 20 seconds for open requests.
        "terminationGracePeriodSeconds": LINGER + 25,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { label::GATEWAY_NAME: &*name.name } },
        }],
        "containers": [container(name, mesh, options, image)],
        "volumes": [
            { "name": "istiod-ca-cert", "configMap": { "name": "istio-ca-root-cert" } },
            {
                "name": "istio-token",
                "projected": {
                    "sources": [{ "serviceAccountToken": { "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token" } }],
                },
            },
        ],
    })
}

fn container(name: &NamespacedName, mesh: &MeshConfig, options: &Options, image: &str) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": { "path": "/healthz/ready", "port": 15021, "scheme": "HTTP" },
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": options.pull_policy.as_str(),
        // The image starts `ambit`, wherever it lies in it.
        "args": ["waypoint", format!("--linger-seconds={LINGER}")],
        "env": [
            { "name": "GATEWAY_NAME", "value": &*name.name },
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_NAME", "metadata.name"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("INSTANCE_IP", "status.podIP"),
            { "name": "XDS_ADDRESS", "value": options.xds_address },
            { "name": "CLUSTER_ID", "value": mesh.cluster_id },
            { "name": "TRUST_DOMAIN", "value": mesh.trust_domain.to_string() },
        ],
        "ports": [
            { "name": "mesh", "containerPort": 15008, "protocol": "TCP" },
            { "name": "metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "status-port", "containerPort": 15021, "protocol": "TCP" },
        ],
        // The first asks every second, so that a new pod serves as soon as it can; there is no liveness probe, for a waypoint
        // goes on with what it knows while the control plane is away.
        "startupProbe": probe(1, 120),
        "readinessProbe": probe(5, 3),
        "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "memory": "1Gi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [
            { "name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true },
            { "name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true },
        ],
    })
}

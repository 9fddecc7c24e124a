//! From a Gateway to the objects of its waypoint, or of its proxy at the edge of the mesh.

use std::collections::BTreeMap;

use gateway_api::gateways::{Gateway, GatewayListeners};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::parameters::merge;
use super::{APPLIED, CLASS_LABEL, MANAGED_BY, MANAGER, Manifest, Options, Parameters, Part, Role, pod};
use crate::index::{HTTPS, MeshConfig, TCP, TLS, container_port, label, unserved};
use crate::source::NamespacedName;

/// The objects of the waypoint that a Gateway asks for, in the order in which they are made. `image` is what its pods run.
#[must_use]
pub fn desired(gateway: &Gateway, parameters: &Parameters, mesh: &MeshConfig, options: &Options, image: &str) -> Vec<Manifest> {
    made(gateway, Role::Waypoint, parameters, mesh, options, image)
}

/// The same for a Gateway of either role.
#[must_use]
pub fn made(
    gateway: &Gateway,
    role: Role,
    parameters: &Parameters,
    mesh: &MeshConfig,
    options: &Options,
    image: &str,
) -> Vec<Manifest> {
    let name = NamespacedName::of(&gateway.metadata);
    let parts = Part::ALL.into_iter().filter(|part| parameters.asks_for(*part));
    let manifests = parts.map(|part| {
        let mut value = match part {
            Part::ServiceAccount => json!({ "automountServiceAccountToken": false }),
            Part::Service => service(&name, role.service_type(), &ports(gateway, role)),
            Part::Deployment => deployment(gateway, &name, pod::spec(&name, mesh, options, image)),
            Part::PodDisruptionBudget => budget(&name),
            Part::HorizontalPodAutoscaler => autoscaler(&name),
        };
        let metadata = json!({
            "annotations": infrastructure(gateway, |infrastructure| infrastructure.annotations.as_ref()),
            "labels": infrastructure(gateway, |infrastructure| infrastructure.labels.as_ref()),
        });
        merge(&mut value, &json!({ "metadata": metadata }));
        if let Some(overlay) = parameters.overlay(part) {
            merge(&mut value, overlay);
        }
        if part == Part::Deployment && parameters.asks_for(Part::HorizontalPodAutoscaler) {
            remove(&mut value, &["spec", "replicas"]);
        }
        if part == Part::PodDisruptionBudget && value["spec"].get("maxUnavailable").is_some() {
            remove(&mut value, &["spec", "minAvailable"]);
        }
        // Last, so that nobody's labels take the waypoint apart.
        merge(&mut value, &identity(gateway, &name, part, role));
        value["metadata"]["annotations"][APPLIED] = Value::String(digest(&value));
        Manifest { part, name: name.clone(), value }
    });
    manifests.collect()
}

/// What makes an object this part of this waypoint.
fn identity(gateway: &Gateway, name: &NamespacedName, part: Part, role: Role) -> Value {
    let labels = json!({
        label::GATEWAY_NAME: &*name.name,
        CLASS_LABEL: gateway.spec.gateway_class_name,
        MANAGED_BY: MANAGER,
    });
    let mut value = json!({
        "apiVersion": part.api_version(),
        "kind": part.kind(),
        "metadata": {
            "name": &*name.name,
            "namespace": &*name.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": &*name.name,
                "uid": gateway.metadata.uid.as_deref().unwrap_or_default(),
                "controller": true,
            }],
        },
    });
    if part == Part::Deployment {
        let mut labels = labels;
        merge(&mut labels, &pod::labels(&name.name, role));
        value["spec"] = json!({ "template": { "metadata": { "labels": labels } } });
    }
    value
}

type Infrastructure = gateway_api::gateways::GatewayInfrastructure;

/// What the Gateway wants on everything that is made for it.
fn infrastructure(gateway: &Gateway, field: impl Fn(&Infrastructure) -> Option<&BTreeMap<String, String>>) -> Value {
    let pairs = gateway.spec.infrastructure.as_ref().and_then(field);
    let pairs = pairs.into_iter().flatten().map(|(key, value)| (key.clone(), json!(value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// The pods of a waypoint.
fn selector(name: &NamespacedName) -> Value {
    json!({ label::GATEWAY_NAME: &*name.name })
}

/// A port that clients come to.
struct Port {
    name: String,
    number: u16,
    in_pod: u16,
    protocol: &'static str,
}

/// The port of tunnels, or those of the listeners that serve at the edge, each once.
fn ports(gateway: &Gateway, role: Role) -> Vec<Port> {
    if role == Role::Waypoint {
        return vec![Port { name: "mesh".into(), number: 15008, in_pod: 15008, protocol: "hbone" }];
    }
    let serving = gateway.spec.listeners.iter().filter(|listener| unserved(gateway, listener).is_none());
    let spoken = |listener: &GatewayListeners| match listener.protocol.as_str() {
        HTTPS => "https",
        TLS => "tls",
        TCP => "tcp",
        _ => "http",
    };
    let numbers: BTreeMap<u16, &str> =
        serving.filter_map(|listener| Some((u16::try_from(listener.port).ok()?, spoken(listener)))).collect();
    let port =
        |(number, protocol)| Port { name: format!("{protocol}-{number}"), number, in_pod: container_port(number), protocol };
    numbers.into_iter().map(port).collect()
}

fn service(name: &NamespacedName, service_type: &str, ports: &[Port]) -> Value {
    let ports = ports.iter().map(|port| {
        json!({
            "name": port.name, "port": port.number, "protocol": "TCP", "targetPort": port.in_pod, "appProtocol": port.protocol,
        })
    });
    json!({
        "spec": {
            "type": service_type,
            "ipFamilyPolicy": "PreferDualStack",
            "selector": selector(name),
            "ports": ports.collect::<Vec<_>>(),
        },
    })
}

/// The ports of listeners are not said of the container: that would change nothing but start all pods anew for each listener that comes or
/// goes, which the running ones follow by themselves.
fn deployment(gateway: &Gateway, name: &NamespacedName, pod: Value) -> Value {
    json!({
        "spec": {
            "selector": { "matchLabels": selector(name) },
            // A waypoint holds connections: a new pod takes over before an old one goes.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "revisionHistoryLimit": 3,
            "template": {
                "metadata": {
                    "labels": infrastructure(gateway, |infrastructure| infrastructure.labels.as_ref()),
                    "annotations": pod::annotations(infrastructure(gateway, |infrastructure| infrastructure.annotations.as_ref())),
                },
                "spec": pod,
            },
        },
    })
}

/// One pod stays at least, unless the parameters say otherwise.
fn budget(name: &NamespacedName) -> Value {
    json!({
        "spec": {
            "minAvailable": 1,
            "selector": { "matchLabels": selector(name) },
            // A pod that is not ready serves nobody, and must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    })
}

fn autoscaler(name: &NamespacedName) -> Value {
    json!({
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": &*name.name },
            "minReplicas": 2,
            "maxReplicas": 5,
            "metrics": [
                { "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } },
            ],
        },
    })
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().try_fold(value, |value, key| value.get_mut(*key));
    if let Some(fields) = parent.and_then(Value::as_object_mut) {
        fields.remove(*last);
    }
}

fn digest(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

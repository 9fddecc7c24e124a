//! What of an object is kept in memory: a cluster's objects are mostly fields that no mesh reads.
//!
//! What is left out here must not be read by `index/`, `translate/`, `status/` or `ca/`; the tests compare what they make of an object
//! before and after.

use serde_json::{Map, Value};

use crate::source::Kind;
use crate::source::crd::{mesh, secret};

type Fields = Map<String, Value>;

/// A copy of the object as `kubectl apply` was given it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The label selector of those objects of a kind that are asked for; `None` for all. EndpointSlices that Kubernetes makes of the pods
/// that a Service selects say what the pods say themselves, and are as many.
pub(super) fn wanted(kind: Kind) -> Option<&'static str> {
    (kind == Kind::EndpointSlice).then_some("endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io")
}

/// The field selector of those objects of a kind that are asked for: of the only one, where there is but one, as a cluster has many ConfigMaps
/// with much in them; of Secrets those with certificates, so that no other ever leaves the API server.
pub(super) fn only(kind: Kind) -> Option<String> {
    if kind == Kind::TlsSecret {
        return Some(format!("type={}", secret::TYPE));
    }
    kind.only().map(|only| format!("metadata.name={},metadata.namespace={}", only.name, only.namespace))
}

/// Takes out what is not kept of an object of the kind. `metadata.resourceVersion` goes as well, so that an object that changed in
/// nothing that matters is equal to what it was.
pub(super) fn trim(kind: Kind, object: &mut Value) {
    let Value::Object(fields) = object else { return };
    if let Some(metadata) = mapping(fields, "metadata") {
        for key in ["managedFields", "resourceVersion", "selfLink", "generateName", "deletionGracePeriodSeconds"] {
            metadata.remove(key);
        }
        if let Some(annotations) = mapping(metadata, "annotations") {
            annotations.remove(LAST_APPLIED);
        }
    }
    match kind {
        Kind::Pod => pod(fields),
        // The labels say where it is; a node's status changes all the time.
        Kind::Node => {
            fields.retain(|key, _| key == "metadata");
            keep(fields, "metadata", &["name", "labels"]);
        }
        Kind::ServiceAccount => {
            fields.retain(|key, _| key == "metadata");
            keep(fields, "metadata", &["name", "namespace", "uid", "labels"]);
        }
        Kind::Namespace => fields.retain(|key, _| key == "metadata"),
        Kind::MeshSettings => {
            fields.retain(|key, _| matches!(key.as_str(), "metadata" | "data"));
            keep(fields, "data", &[mesh::KEY]);
        }
        Kind::TlsSecret => {
            fields.retain(|key, _| matches!(key.as_str(), "metadata" | "data"));
            keep(fields, "metadata", &["name", "namespace"]);
            keep(fields, "data", &[secret::CERTIFICATE, secret::KEY]);
        }
        _ => {}
    }
}

fn pod(fields: &mut Fields) {
    fields.retain(|key, _| matches!(key.as_str(), "metadata" | "spec" | "status"));
    keep(fields, "metadata", &["name", "namespace", "uid", "labels", "annotations", "ownerReferences", "deletionTimestamp"]);
    if let Some(metadata) = mapping(fields, "metadata") {
        if let Some(annotations) = mapping(metadata, "annotations") {
            annotations.retain(|key, _| is_ours(key));
        }
        items(metadata, "ownerReferences", |owner| {
            owner.retain(|key, _| matches!(key.as_str(), "kind" | "name" | "controller"));
            owner.get("controller") == Some(&Value::Bool(true))
        });
    }
    keep(fields, "spec", &["serviceAccountName", "serviceAccount", "nodeName", "hostNetwork", "containers", "initContainers"]);
    if let Some(spec) = mapping(fields, "spec") {
        named_ports(spec);
    }
    keep(fields, "status", &["phase", "podIP", "podIPs", "conditions"]);
    if let Some(status) = mapping(fields, "status") {
        items(status, "conditions", |condition| {
            condition.retain(|key, _| matches!(key.as_str(), "type" | "status"));
            condition.get("type").is_some_and(|kind| kind == "Ready")
        });
    }
}

/// Annotations of pods that mean something to a mesh.
fn is_ours(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or_default();
    domain == "istio.io" || domain.ends_with(".istio.io") || domain == "gateway.networking.k8s.io"
}

/// A container is kept for its ports that services name, and all in one, in the order in which they are searched.
fn named_ports(spec: &mut Fields) {
    let mut ports = Vec::new();
    for key in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.remove(key) else { continue };
        for container in containers {
            let Value::Object(mut container) = container else { continue };
            let Some(Value::Array(listed)) = container.remove("ports") else { continue };
            ports.extend(listed.into_iter().filter_map(|port| {
                let Value::Object(mut port) = port else { return None };
                port.retain(|key, _| matches!(key.as_str(), "name" | "containerPort" | "protocol"));
                port.contains_key("name").then_some(Value::Object(port))
            }));
        }
    }
    let containers = if ports.is_empty() { Vec::new() } else { vec![serde_json::json!({"name": "ports", "ports": ports})] };
    spec.insert("containers".into(), Value::Array(containers));
}

/// Keeps only some fields of a mapping in a field.
fn keep(fields: &mut Fields, key: &str, kept: &[&str]) {
    if let Some(mapping) = mapping(fields, key) {
        mapping.retain(|key, _| kept.contains(&key.as_str()));
    }
}

/// Trims the mappings of a list, and keeps those for which that says so.
fn items(fields: &mut Fields, key: &str, mut trim: impl FnMut(&mut Fields) -> bool) {
    if let Some(Value::Array(items)) = fields.get_mut(key) {
        items.retain_mut(|item| item.as_object_mut().is_some_and(&mut trim));
    }
}

fn mapping<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    fields.get_mut(key)?.as_object_mut()
}

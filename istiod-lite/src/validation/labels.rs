//! Labels of the mesh. In a cluster the API server checks them by itself (`manifests/chart/templates/validation/policies.yaml`); a test
//! holds that against this.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::judge::Findings;
use crate::index::label;
use crate::source::{Object, is_label, is_subdomain};

/// What is wrong with the labels of an object.
pub(super) fn labels(object: &Object, findings: &mut Findings) {
    let metadata = object.metadata();
    if let Object::Namespace(_) | Object::Pod(_) = object {
        one_of(metadata, label::DATAPLANE_MODE, &["ambient", "none"], "would be ignored", findings);
    }
    if let Object::Namespace(_) | Object::Pod(_) | Object::Service(_) | Object::ServiceEntry(_) = object {
        use_waypoint(metadata, findings);
    }
    if let Object::Gateway(_) = object {
        one_of(metadata, label::WAYPOINT_FOR, &["service", "workload", "all", "none"], "would be taken for service", findings);
    }
    if let Object::Pod(pod) = object
        && pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
        && value(metadata, label::DATAPLANE_MODE) == "ambient"
    {
        let reason = format!("{} has no effect on a pod with hostNetwork: it stays out of the mesh", label::DATAPLANE_MODE);
        findings.warning("metadata.labels", reason);
    }
}

/// The value of a label; empty is as good as none.
fn value<'a>(metadata: &'a ObjectMeta, key: &str) -> &'a str {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
}

fn one_of(metadata: &ObjectMeta, key: &str, known: &[&str], consequence: &str, findings: &mut Findings) {
    let value = value(metadata, key);
    if !value.is_empty() && !known.contains(&value) {
        let reason = format!("{key}: {value:?} {consequence}; write one of {}", known.join(", "));
        findings.error("metadata.labels", reason);
    }
}

fn use_waypoint(metadata: &ObjectMeta, findings: &mut Findings) {
    let (name, namespace) = (value(metadata, label::USE_WAYPOINT), value(metadata, label::USE_WAYPOINT_NAMESPACE));
    let mut error = |key: &str, reason: String| findings.error("metadata.labels", format!("{key}: {reason}"));
    if !name.is_empty() && !is_subdomain(name) {
        let fix = "write the name of a waypoint, or none";
        error(label::USE_WAYPOINT, format!("no Gateway can have the name {name:?}, and nothing would be reached; {fix}"));
    }
    if !namespace.is_empty() && !is_label(namespace) {
        error(
            label::USE_WAYPOINT_NAMESPACE,
            format!("no namespace can have the name {namespace:?}, and nothing would be reached"),
        );
    }
    if !namespace.is_empty() && name.is_empty() {
        let fix = format!("name the waypoint with {} besides, or take it off", label::USE_WAYPOINT);
        error(label::USE_WAYPOINT_NAMESPACE, format!("would be ignored; {fix}"));
    }
}

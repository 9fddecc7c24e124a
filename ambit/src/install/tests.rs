use serde_json::json;

use super::*;

fn object(labels: Value) -> DynamicObject {
    serde_json::from_value(json!({"metadata": {"name": "x", "labels": labels}})).unwrap()
}

fn name(kind: &str) -> Name {
    Name::new(Known::named(kind).unwrap(), Some("istio-system"), "x")
}

#[test]
fn what_is_there_already_is_taken_only_when_it_is_ours() {
    let said = |kind: &str, labels: Value| others(&name(kind), &object(labels));
    assert_eq!(said("DaemonSet", json!({"app.kubernetes.io/managed-by": "ambit"})), None);
    assert!(said("DaemonSet", json!({"app.kubernetes.io/managed-by": "Helm"})).unwrap().contains("--from-helm"));
    assert!(said("DaemonSet", json!({})).unwrap().contains("belongs to somebody else"));
    for shared in ["CustomResourceDefinition", "Namespace"] {
        assert_eq!(said(shared, json!({"app.kubernetes.io/managed-by": "Helm"})), None, "{shared} of others serves as well");
    }
}

#[test]
fn a_namespace_that_lets_no_privileged_pod_run_is_refused_with_the_fix() {
    let wrong = others(&name("Namespace"), &object(json!({"pod-security.kubernetes.io/enforce": "restricted"}))).unwrap();
    assert!(wrong.contains("kubectl label --overwrite namespace x pod-security.kubernetes.io/enforce=privileged"), "{wrong}");
}

#[test]
fn objects_are_applied_in_an_order_in_which_each_finds_what_it_needs() {
    let wanted = wanted(&Settings::default()).unwrap();
    let kinds: Vec<&str> = wanted.iter().map(|(name, _)| name.kind).collect();
    let first = |kind: &str| kinds.iter().position(|known| *known == kind).unwrap();
    assert_eq!(first("Namespace"), 0);
    for pair in [
        "CustomResourceDefinition",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "Deployment",
        "DaemonSet",
    ]
    .windows(2)
    {
        assert!(first(pair[0]) < first(pair[1]), "{pair:?}");
    }
    let names: BTreeSet<_> = wanted.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), wanted.len(), "nothing twice");
}

#[test]
fn what_the_settings_have_no_more_is_deleted_but_no_crd_and_no_namespace() {
    let installed: Vec<Name> = ["Namespace", "CustomResourceDefinition", "NetworkPolicy", "Service"].map(name).to_vec();
    let wanted = BTreeSet::from([name("Service")]);
    assert_eq!(apply::left_over(&installed, &wanted), [name("NetworkPolicy")]);
}

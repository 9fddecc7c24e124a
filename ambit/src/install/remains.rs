//! What of others there is in a namespace, which would be deleted with it.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResourceList, ObjectMeta};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};

use super::apply::MANAGED_BY;
use super::cluster::{failed, is_missing};
use crate::error::Result;

/// How many objects are named; the others are counted.
const NAMED: usize = 8;

/// Kinds, by group, whose objects are made of others' or only tell of them: nothing is lost with them.
const DERIVED: [(&str, &str); 5] = [
    ("", "Endpoints"),
    ("", "Event"),
    ("coordination.k8s.io", "Lease"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("events.k8s.io", "Event"),
];

/// Whose objects the control plane's are, by that label: it writes them again wherever they are missing.
const CONTROL_PLANE: &str = "istiod-lite";

/// Names the objects of all kinds in a namespace that are somebody's. What cannot be listed counts as such, for nobody knows what is lost.
///
/// # Errors
/// When the API server does not answer, or does not say what kinds there are.
pub(crate) async fn remains(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let (lists, mut found) = kinds(client).await?;
    let mut seen = BTreeSet::new();
    for list in &lists {
        let (group, version) = list.group_version.split_once('/').unwrap_or(("", list.group_version.as_str()));
        let listable = list
            .resources
            .iter()
            .filter(|kind| kind.namespaced && !kind.name.contains('/') && kind.verbs.iter().any(|verb| verb == "list"));
        for kind in listable {
            // The same objects in every version.
            if DERIVED.contains(&(group, kind.kind.as_str())) || !seen.insert((group, kind.name.as_str())) {
                continue;
            }
            let resource = ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: list.group_version.clone(),
                kind: kind.kind.clone(),
                plural: kind.name.clone(),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            match api.list_metadata(&ListParams::default()).await {
                Ok(objects) => {
                    let theirs = objects.items.iter().filter(|object| is_somebodys(&kind.kind, &object.metadata));
                    found.extend(theirs.map(|object| format!("{} {}", kind.kind, object.name_any())));
                }
                Err(error) if is_missing(&error) => {}
                Err(kube::Error::Api(status)) => {
                    found.push(format!("{}, which cannot be listed ({})", kind.name, status.message));
                }
                Err(error) => return Err(failed(&format!("listing {} of namespace {namespace}", kind.name), error)),
            }
        }
    }
    Ok(found)
}

/// What kinds the API server has in all versions, and the versions of groups that it cannot tell of now.
async fn kinds(client: &Client) -> Result<(Vec<APIResourceList>, Vec<String>)> {
    let unknown = |error| failed("asking what kinds of objects there are", error);
    let mut lists = vec![client.list_core_api_resources("v1").await.map_err(unknown)?];
    let mut untold = Vec::new();
    // Preferred versions alone do not have every kind of their group.
    for group in client.list_api_groups().await.map_err(unknown)?.groups {
        // What is measured is nobody's, and who measures is often away.
        if group.name.ends_with("metrics.k8s.io") {
            continue;
        }
        for version in group.versions {
            match client.list_api_group_resources(&version.group_version).await {
                Ok(list) => lists.push(list),
                Err(error) if is_missing(&error) => {}
                Err(kube::Error::Api(status)) => {
                    untold.push(format!(
                        "objects of {}, which the API server cannot tell of ({})",
                        version.group_version, status.message
                    ));
                }
                Err(error) => return Err(unknown(error)),
            }
        }
    }
    Ok((lists, untold))
}

/// Whether an object is neither on its way out, nor part of another, nor made by Kubernetes or the control plane in every namespace.
fn is_somebodys(kind: &str, metadata: &ObjectMeta) -> bool {
    let in_every =
        matches!((kind, metadata.name.as_deref()), ("ServiceAccount", Some("default")) | ("ConfigMap", Some("kube-root-ca.crt")));
    let by = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    !in_every
        && by.is_none_or(|by| by != CONTROL_PLANE)
        && metadata.deletion_timestamp.is_none()
        && metadata.owner_references.as_deref().unwrap_or_default().is_empty()
}

/// Why a namespace stays in which these objects are; nothing when there are none.
pub(crate) fn reason(namespace: &str, remains: &[String]) -> Option<String> {
    if remains.is_empty() {
        return None;
    }
    let named = remains.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match remains.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("there are others' objects in it: {named}{more} (`kubectl delete namespace {namespace}` deletes them, too)"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_nobody_has_made_or_goes_anyhow_keeps_no_namespace() {
        let somebodys = |kind: &str, metadata: Value| is_somebodys(kind, &serde_json::from_value(metadata).unwrap());
        assert!(somebodys("AuthorizationPolicy", json!({"name": "everywhere"})));
        assert!(somebodys("ConfigMap", json!({"name": "default"})));
        assert!(!somebodys("ServiceAccount", json!({"name": "default"})));
        assert!(!somebodys("ConfigMap", json!({"name": "kube-root-ca.crt"})));
        assert!(!somebodys("Pod", json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"})));
        assert!(!somebodys("ConfigMap", json!({"name": "istio-ca-root-cert", "labels": {MANAGED_BY: CONTROL_PLANE}})));
        assert!(somebodys("ConfigMap", json!({"name": "c", "labels": {MANAGED_BY: "Helm"}})));
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"});
        assert!(!somebodys("Pod", json!({"name": "p", "ownerReferences": [owner]})));
    }

    #[test]
    fn what_keeps_a_namespace_is_named_but_not_without_end() {
        assert_eq!(reason("istio-system", &[]), None);
        let said = reason("istio-system", &["Secret cacerts".to_owned()]).unwrap();
        assert!(said.contains("in it: Secret cacerts (`kubectl delete namespace istio-system`"), "{said}");
        let many: Vec<String> = (0..NAMED + 2).map(|n| format!("Pod p{n}")).collect();
        assert!(reason("istio-system", &many).unwrap().contains("Pod p7 and 2 more ("));
    }
}

//! Writes the objects of an installation by server-side apply: what is as it should be does not change.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::{
    Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, ValidationDirective},
};
use serde_json::{Value, json};

use super::{
    chart::{MANAGER, NAME},
    cluster::{failed, is_missing},
    kinds::{KNOWN, Known, Name},
};
use crate::error::{Error, Result};

/// Whose fields are whose, for the API server.
pub(super) const FIELD_MANAGER: &str = "ambit-install";
/// The label of whom an object belongs to.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// How long a CRD may take until objects of its kind can be written.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// API groups that every cluster has, with all kinds of the chart.
const BUILT_IN: [&str; 6] = ["", "apiextensions.k8s.io", "apps", "networking.k8s.io", "policy", "rbac.authorization.k8s.io"];
/// One that every cluster has, and some without ValidatingAdmissionPolicies.
const ADMISSION: &str = "admissionregistration.k8s.io";

/// What an apply did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Done {
    Created,
    Changed,
    Unchanged,
}

/// Finds the objects of an installation by their labels.
pub(super) fn ours() -> String {
    format!("app.kubernetes.io/part-of={NAME},{MANAGED_BY}={MANAGER}")
}

/// An object as it is in the cluster.
pub(super) async fn get(client: &Client, name: &Name) -> Result<Option<DynamicObject>> {
    let Some(known) = name.known() else { return Ok(None) };
    match known.api(client, name.namespace.as_deref()).get_opt(&name.name).await {
        Ok(found) => Ok(found),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(&format!("reading {name}"), error)),
    }
}

/// Who manages an object, as its labels say.
pub(super) fn manager(object: &DynamicObject) -> &str {
    object.labels().get(MANAGED_BY).map_or("", String::as_str)
}

/// Applies one object; `before` is what there was.
pub(super) async fn apply(client: &Client, object: &Value, before: Option<&DynamicObject>, force: bool) -> Result<Done> {
    let name =
        Name::of(object).ok_or_else(|| Error::Invalid("the chart has an object of a kind that is not known".to_owned()))?;
    let Some(known) = name.known() else { return Err(Error::Invalid(format!("{name} is of a kind that is not known"))) };
    let mut how = PatchParams::apply(FIELD_MANAGER);
    how.force = force;
    // A field that the API server does not know would be left out without a word.
    how.field_validation = Some(ValidationDirective::Strict);
    let api = known.api(client, name.namespace.as_deref());
    let after = api.patch(&name.name, &how, &Patch::Apply(object)).await;
    let after = after.map_err(|error| failed(&format!("applying {name}"), error))?;
    Ok(match before {
        None => Done::Created,
        Some(before) if before.resource_version() == after.resource_version() => Done::Unchanged,
        Some(_) => Done::Changed,
    })
}

/// Waits until objects of the kinds of these CRDs can be written.
pub(super) async fn established(client: &Client, crds: &[Name]) -> Result<()> {
    let until = tokio::time::Instant::now() + ESTABLISHED;
    for name in crds {
        loop {
            let found = get(client, name).await?;
            if found.is_some_and(|crd| holds(&crd.data, "Established")) {
                break;
            }
            if tokio::time::Instant::now() >= until {
                return Err(Error::NotReady(format!(
                    "{name} is not established after {} s: `kubectl get crd {} -o yaml` says why",
                    ESTABLISHED.as_secs(),
                    name.name
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Whether a condition of an object's status is true.
pub(super) fn holds(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|known| known["type"] == condition && known["status"] == "True")
}

/// The objects of all installations by this program; a kind that the cluster does not have has none.
pub(super) async fn installed(client: &Client) -> Result<Vec<Name>> {
    let mut found = Vec::new();
    for known in KNOWN {
        found.extend(labelled(client, *known, &ours()).await?);
    }
    Ok(found)
}

/// What is wrong when the cluster does not have one of these kinds: those of others and of later versions, which an option of the chart asks for.
pub(super) async fn unknown_kinds(client: &Client, wanted: &BTreeSet<Known>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for known in wanted.iter().filter(|known| !BUILT_IN.contains(&known.group)) {
        match known.api(client, None).list(&ListParams::default().limit(1)).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => {
                let fix = match known.group {
                    ADMISSION => "Kubernetes 1.30 or later, or --set validation.policies=false",
                    _ => "install its CRDs, or switch off the setting that asks for it",
                };
                wrong.push(format!("the cluster has no kind {} of {}\n  the fix: {fix}", known.kind, known.group));
            }
            Err(error) => return Err(failed(&format!("listing {}", known.plural), error)),
        }
    }
    Ok(wrong)
}

/// Objects of a kind in all namespaces, by a label selector.
pub(super) async fn labelled(client: &Client, known: Known, selector: &str) -> Result<Vec<Name>> {
    let listed = known.api(client, None).list(&ListParams::default().labels(selector)).await;
    match listed {
        Ok(list) => {
            Ok(list.items.iter().map(|object| Name::new(known, object.namespace().as_deref(), &object.name_any())).collect())
        }
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(failed(&format!("listing {}", known.plural), error)),
    }
}

/// Deletes an object; whether there was one. What belongs to it goes, too, in the background.
pub(super) async fn delete(client: &Client, name: &Name) -> Result<bool> {
    let Some(known) = name.known() else { return Ok(false) };
    match known.api(client, name.namespace.as_deref()).delete(&name.name, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(failed(&format!("deleting {name}"), error)),
    }
}

/// What was installed by earlier settings or an earlier version and is not any more; CRDs and the namespace are kept.
pub(super) fn left_over(installed: &[Name], wanted: &BTreeSet<Name>) -> Vec<Name> {
    let kept = ["Namespace", "CustomResourceDefinition"];
    installed.iter().filter(|name| !wanted.contains(*name) && !kept.contains(&name.kind)).cloned().collect()
}

/// The object that keeps with what settings was installed.
pub(super) fn record(namespace: &str, settings: &Value, version: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": super::RECORD,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/part-of": NAME, MANAGED_BY: MANAGER, "app.kubernetes.io/name": NAME },
        },
        "data": { "version": version, "settings": settings.to_string() },
    })
}

//! An installation goes from `ambit` to Helm, or back: nothing of it is deleted or restarted by that.
//!
//! Helm takes what is there already for a part of a release if its label and its annotations say that it is one. Both write by server-side apply,
//! for which the API server keeps who has set which field. Who goes has to hand that over too: what it still had, the other could neither change
//! without conflict nor take away.

use std::collections::BTreeMap;
use std::process::ExitCode;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::{
    Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    RECORD, apply,
    chart::{MANAGER, NAME, NAMESPACE, values::Settings},
    cluster::failed,
    kinds::{KNOWN, Known, Name},
    template,
    uninstall::{SECRET, delete_all},
};
use crate::error::{Error, Result};

/// Helm in the label [`apply::MANAGED_BY`].
pub(super) const HELM: &str = "Helm";
/// Annotations by which Helm knows what belongs to which release.
const RELEASE_NAME: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";
/// Others may write the same object meanwhile: a controller its status, say.
const ATTEMPTS: usize = 10;

/// One of the two.
#[derive(Debug, Clone, Copy)]
struct Side {
    /// In the label.
    label: &'static str,
    /// For the API server, whose fields are whose.
    fields: &'static str,
}

const OURS: Side = Side { label: MANAGER, fields: apply::FIELD_MANAGER };
const THEIRS: Side = Side { label: HELM, fields: "helm" };

/// Leaves to Helm what `ambit install` has made, and prints the settings as Helm reads them.
///
/// # Errors
/// When there is no installation by this program, the cluster refuses something, or the settings could not be printed. Once more, it goes on.
pub(super) async fn to_helm(client: &Client) -> Result<()> {
    let (records, mut objects): (Vec<Name>, Vec<Name>) =
        apply::installed(client).await?.into_iter().partition(|name| name.kind == "ConfigMap" && name.name == RECORD);
    if objects.is_empty() && records.is_empty() {
        return Err(Error::Missing {
            missing: "nothing in this cluster was installed by `ambit install`".to_owned(),
            remedy: "--context if it is another cluster".to_owned(),
        });
    }
    let mut settings = Settings::default();
    if let Some(name) = records.first()
        && let Some(record) = apply::get(client, name).await?
    {
        let kept = record.data.pointer("/data/settings").and_then(Value::as_str).unwrap_or("{}");
        settings.add_yaml(&name.to_string(), kept).map_err(|error| Error::Invalid(error.to_string()))?;
    }
    // Helm may have taken over some by itself, with our fields still ours.
    objects.extend(by_helm(client).await?);
    for name in &objects {
        hand(client, name, OURS, THEIRS).await?;
    }
    println!("# {} objects are Helm's now, and none was restarted. With this text in FILE:", objects.len());
    println!("# helm upgrade --install {NAME} manifests/chart --namespace {NAMESPACE} --values FILE");
    println!("{}", template::to_yaml(&settings.given()));
    // The record is the only other place where they are.
    let _printed = crate::print::finished(ExitCode::SUCCESS)?;
    if crate::print::is_unread() {
        return Err(Error::NotReady(
            "nobody has read the settings, so they are kept\n  the fix: `ambit uninstall --to-helm > FILE` once more".to_owned(),
        ));
    }
    for name in &records {
        apply::delete(client, name).await?;
    }
    Ok(())
}

/// Takes over from Helm what it has installed, and forgets its release. The settings are not taken over.
///
/// # Errors
/// When there is no installation by Helm, or not one release of it in the namespace of the mesh, or the cluster refuses something. Once
/// more, it goes on.
pub(super) async fn from_helm(client: &Client) -> Result<()> {
    let objects = by_helm(client).await?;
    if objects.is_empty() {
        return Err(Error::Missing {
            missing: "nothing of the mesh in this cluster was installed by Helm".to_owned(),
            remedy: "leave --from-helm out; --context if it is another cluster".to_owned(),
        });
    }
    let mut release: Option<String> = None;
    for name in &objects {
        if let Some(object) = apply::get(client, name).await? {
            let annotations = object.metadata.annotations.unwrap_or_default();
            release = Some(release_of(name, &annotations, release.as_deref())?);
        }
    }
    let release = release.unwrap_or_else(|| NAME.to_owned());
    // First, so that nobody uninstalls by it what is ours.
    let records = ListParams::default().labels(&format!("owner=helm,name={release}"));
    for kind in [Some(SECRET), Known::named("ConfigMap")].into_iter().flatten() {
        delete_all(client, kind, Some(NAMESPACE), &records).await?;
    }
    for name in &objects {
        hand(client, name, THEIRS, OURS).await?;
    }
    println!("{} objects were Helm's, in release {release}", objects.len());
    Ok(())
}

/// The release that an object is part of, if it can be taken over, together with those of the release of which the others are.
fn release_of(name: &Name, annotations: &BTreeMap<String, String>, others: Option<&str>) -> Result<String> {
    let said = |key: &str| annotations.get(key).map_or("", String::as_str);
    let (release, namespace) = (said(RELEASE_NAME), said(RELEASE_NAMESPACE));
    if release.is_empty() {
        return Err(Error::Invalid(format!(
            "{name} is labelled as Helm's and is in no release, as what `helm template` prints: --from-helm takes over a release\n  \
             the fix: take it out by what applied it, then `ambit install`"
        )));
    }
    if namespace != NAMESPACE || others.is_some_and(|others| others != release) {
        let others = others.map_or_else(String::new, |others| format!("; what was looked at before is of release {others}"));
        return Err(Error::Invalid(format!(
            "{name} is of Helm's release {release} in namespace {namespace}{others}: --from-helm takes over one release in namespace {NAMESPACE}\n  \
             the fix: `helm uninstall {release} -n {namespace}`, then `ambit install`"
        )));
    }
    Ok(release.to_owned())
}

/// The objects that Helm has installed.
pub(super) async fn by_helm(client: &Client) -> Result<Vec<Name>> {
    let selector = format!("app.kubernetes.io/part-of={NAME},{}={HELM}", apply::MANAGED_BY);
    let mut found = Vec::new();
    for known in KNOWN {
        found.extend(apply::labelled(client, *known, &selector).await?);
    }
    Ok(found)
}

/// Hands one object over.
async fn hand(client: &Client, name: &Name, from: Side, to: Side) -> Result<()> {
    let Some(known) = name.known() else { return Ok(()) };
    let api = known.api(client, name.namespace.as_deref());
    let how = PatchParams { field_manager: Some(to.fields.to_owned()), ..PatchParams::default() };
    for attempt in 1.. {
        let Some(object) = apply::get(client, name).await? else { return Ok(()) };
        match api.patch(&name.name, &how, &Patch::Merge(patch(&object.metadata, from, to))).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => {}
            Err(error) => return Err(failed(&format!("handing over {name}"), error)),
        }
    }
    Ok(())
}

/// What is to be said on an object; refused if it has changed since.
fn patch(metadata: &ObjectMeta, from: Side, to: Side) -> Value {
    let release = |value: &str| if to.label == HELM { Value::from(value) } else { Value::Null };
    json!({ "metadata": {
        "resourceVersion": metadata.resource_version,
        "labels": { apply::MANAGED_BY: to.label },
        "annotations": { RELEASE_NAME: release(NAME), RELEASE_NAMESPACE: release(NAMESPACE) },
        "managedFields": handed(metadata.managed_fields.as_deref().unwrap_or_default(), from.fields, to.fields),
    } })
}

/// What one manager has applied is the other's, unless that has applied the object itself.
fn handed(entries: &[ManagedFieldsEntry], from: &str, to: &str) -> Vec<ManagedFieldsEntry> {
    let is = |entry: &ManagedFieldsEntry, manager: &str| {
        entry.manager.as_deref() == Some(manager) && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let applied = |entry: &ManagedFieldsEntry, manager: &str| is(entry, manager) && entry.operation.as_deref() == Some("Apply");
    let mut kept: Vec<_> = entries.iter().filter(|entry| !is(entry, from)).cloned().collect();
    if !entries.iter().any(|entry| applied(entry, to)) {
        // Helm before version 4 did not apply.
        let given = entries.iter().find(|entry| applied(entry, from)).or_else(|| entries.iter().find(|entry| is(entry, from)));
        kept.extend(given.map(|entry| ManagedFieldsEntry {
            manager: Some(to.to_owned()),
            operation: Some("Apply".to_owned()),
            ..entry.clone()
        }));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: &str) -> ManagedFieldsEntry {
        let subresource = Some(subresource.to_owned()).filter(|name| !name.is_empty());
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            subresource,
            ..ManagedFieldsEntry::default()
        }
    }

    #[track_caller]
    fn check(entries: &[(&str, &str, &str)], expected: &[(&str, &str)]) {
        let entries: Vec<_> = entries.iter().map(|(manager, operation, of)| entry(manager, operation, of)).collect();
        let made = handed(&entries, "helm", "ambit-install");
        let made: Vec<_> =
            made.iter().map(|entry| (entry.manager.as_deref().unwrap(), entry.operation.as_deref().unwrap())).collect();
        assert_eq!(made, expected);
    }

    #[test]
    fn fields_go_to_who_takes_over_and_stay_with_everybody_else() {
        let others = [("kubectl", "Update", ""), ("controller", "Update", "status")];
        let with = |more: &[(&'static str, &'static str, &'static str)]| [&others[..], more].concat();
        let stay = [("kubectl", "Update"), ("controller", "Update")];
        let stay_with = |more: &[(&'static str, &'static str)]| [&stay[..], more].concat();
        check(&with(&[("helm", "Apply", ""), ("helm", "Update", "")]), &stay_with(&[("ambit-install", "Apply")]));
        check(&with(&[("helm", "Update", "")]), &stay_with(&[("ambit-install", "Apply")]));
        let both = [("helm", "Apply", ""), ("ambit-install", "Apply", "")];
        check(&with(&both), &stay_with(&[("ambit-install", "Apply")]));
        check(&with(&[("ambit-install", "Apply", "")]), &stay_with(&[("ambit-install", "Apply")]));
        check(&[("helm", "Update", "scale")], &[("helm", "Update")]);
    }

    #[test]
    fn only_one_release_in_the_namespace_of_the_mesh_is_taken_over() {
        let name = Name::new(Known::named("ConfigMap").unwrap(), Some(NAMESPACE), "x");
        let of = |release: &str, namespace: &str, others: Option<&str>| {
            let annotations = [(RELEASE_NAME, release), (RELEASE_NAMESPACE, namespace)];
            let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            release_of(&name, &annotations, others).map_err(|error| error.to_string())
        };
        assert_eq!(of("mesh", NAMESPACE, None).as_deref(), Ok("mesh"));
        assert_eq!(of("mesh", NAMESPACE, Some("mesh")).as_deref(), Ok("mesh"));
        for (refused, part) in [
            (of("mesh", "default", None), "`helm uninstall mesh -n default`"),
            (of("mesh", NAMESPACE, Some("ambit")), "is of release ambit"),
            (of("", "", None), "is in no release"),
        ] {
            let error = refused.unwrap_err();
            assert!(error.starts_with("ConfigMap istio-system/x is ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_object_says_whose_it_is() {
        let metadata = ObjectMeta { resource_version: Some("7".to_owned()), ..ObjectMeta::default() };
        let theirs = patch(&metadata, OURS, THEIRS);
        assert_eq!(theirs["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm");
        assert_eq!(theirs["metadata"]["annotations"]["meta.helm.sh/release-namespace"], "istio-system");
        let ours = patch(&metadata, THEIRS, OURS);
        assert_eq!(ours["metadata"]["labels"]["app.kubernetes.io/managed-by"], "ambit");
        assert!(ours["metadata"]["annotations"]["meta.helm.sh/release-name"].is_null());
        assert_eq!(ours["metadata"]["resourceVersion"], "7");
    }
}

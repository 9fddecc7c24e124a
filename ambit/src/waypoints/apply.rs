//! `ambit waypoint apply`.

use std::collections::BTreeMap;

use istiod_lite::deploy::WAYPOINT_CLASS;
use istiod_lite::index::label::{USE_WAYPOINT, USE_WAYPOINT_NAMESPACE};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::ApplyArgs;
use super::cluster::{Cluster, failed};
use super::gateway::{label, manifest};
use super::wait::until_ready;
use crate::error::{Error, Result};

/// The name under which the API server notes who set a field.
const FIELD_MANAGER: &str = "ambit";

pub async fn run(args: ApplyArgs) -> Result<()> {
    if args.dry_run {
        let namespace = args.cluster.namespace.as_deref().unwrap_or("default");
        let gateway = manifest(namespace, &args.name, args.serves, args.admit.as_ref(), None);
        let text = serde_saphyr::to_string(&gateway).map_err(|error| Error::part("writing YAML", error))?;
        print!("{text}");
        return Ok(());
    }
    let cluster = args.cluster.connect().await?;
    if args.enroll_namespace {
        // Before anything is made, so that a refusal leaves nothing half done.
        other_waypoint(&cluster, &args).await?;
    }
    gateway(&cluster, &args).await?;
    if args.wait.wait || args.enroll_namespace {
        until_ready(&cluster, &args.name, args.wait.timeout()).await?;
    }
    if args.enroll_namespace {
        // Last: what goes through a waypoint that is not ready is refused.
        enroll(&cluster, &args).await?;
    }
    Ok(())
}

async fn gateway(cluster: &Cluster, args: &ApplyArgs) -> Result<()> {
    let name = format!("{}/{}", cluster.namespace, args.name);
    let gateways = cluster.gateways();
    let held = gateways.get_opt(&args.name).await.map_err(|error| failed("get gateways", &error))?;
    if let Some(class) = held.as_ref().map(|held| &held.spec.gateway_class_name).filter(|class| *class != WAYPOINT_CLASS) {
        let message =
            format!("Gateway {name} exists and is of class {class}, not {WAYPOINT_CLASS}; choose another name with --name NAME");
        return Err(Error::Invalid(message));
    }
    let parameters = PatchParams { force: args.overwrite, ..PatchParams::apply(FIELD_MANAGER) };
    let gateway = manifest(&cluster.namespace, &args.name, args.serves, args.admit.as_ref(), held.as_ref());
    match gateways.patch(&args.name, &parameters, &Patch::Apply(gateway)).await {
        Ok(now) => {
            let same = held.is_some_and(|held| {
                held.metadata.generation == now.metadata.generation && held.metadata.labels == now.metadata.labels
            });
            println!("waypoint {name} {}", if same { "is as asked for" } else { "applied" });
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => {
            Err(Error::Invalid(format!("{}; --overwrite takes these fields of Gateway {name} over", status.message)))
        }
        Err(error) => Err(failed("patch gateways", &error)),
    }
}

/// An error when the namespace's services go through another waypoint already.
async fn other_waypoint(cluster: &Cluster, args: &ApplyArgs) -> Result<()> {
    let own = &cluster.namespace;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = api.get_opt(own).await.map_err(|error| failed("get namespaces", &error))?;
    let Some(namespace) = namespace else {
        return Err(Error::Invalid(format!("there is no namespace {own}; `kubectl create namespace {own}` makes it")));
    };
    match other(namespace.metadata.labels.as_ref(), own, &args.name) {
        Some(other) if !args.overwrite => {
            let message =
                format!("namespace {own} has the label {other}; --overwrite puts waypoint {own}/{} in its place", args.name);
            Err(Error::Invalid(message))
        }
        _ => Ok(()),
    }
}

/// The labels by which a namespace has another waypoint than the one of this name in the namespace itself.
fn other(labels: Option<&BTreeMap<String, String>>, own: &str, name: &str) -> Option<String> {
    let held = label(labels, USE_WAYPOINT)?;
    match label(labels, USE_WAYPOINT_NAMESPACE).filter(|of| *of != own) {
        Some(of) => Some(format!("{USE_WAYPOINT}={held} (and {USE_WAYPOINT_NAMESPACE}={of})")),
        None => (held != name).then(|| format!("{USE_WAYPOINT}={held}")),
    }
}

async fn enroll(cluster: &Cluster, args: &ApplyArgs) -> Result<()> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let patch = json!({ "metadata": { "labels": { USE_WAYPOINT: args.name, USE_WAYPOINT_NAMESPACE: null } } });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(&cluster.namespace, &parameters, &Patch::Merge(patch)).await.map_err(|error| failed("patch namespaces", &error))?;
    println!("the services of namespace {} go through waypoint {}", cluster.namespace, args.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waypoint_of_the_same_name_in_another_namespace_is_another() {
        let held = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            other(Some(&labels), "shop", "waypoint")
        };
        assert_eq!(other(None, "shop", "waypoint"), None);
        assert_eq!(held(&[(USE_WAYPOINT, "waypoint")]), None);
        assert_eq!(held(&[(USE_WAYPOINT, "waypoint"), (USE_WAYPOINT_NAMESPACE, "shop")]), None);
        assert_eq!(held(&[(USE_WAYPOINT, "gate")]).as_deref(), Some("istio.io/use-waypoint=gate"));
        let elsewhere = held(&[(USE_WAYPOINT, "waypoint"), (USE_WAYPOINT_NAMESPACE, "infra")]);
        assert_eq!(elsewhere.as_deref(), Some("istio.io/use-waypoint=waypoint (and istio.io/use-waypoint-namespace=infra)"));
    }
}

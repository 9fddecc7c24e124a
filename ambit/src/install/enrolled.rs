//! Namespaces and pods that are in the mesh, and how they leave it before it goes.

use std::time::Duration;

use istiod_lite::index::label::{DATAPLANE_MODE, REDIRECTION};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use super::cluster::{failed, is_missing};
use crate::error::{Error, Result};

/// Pods that have ended reach nobody anyhow.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// How many pods are asked for at once.
const PAGE: u32 = 500;

/// Sees that no pod is captured any more: takes the labels off if `unlabel`, and waits until the agents have let the pods go.
///
/// # Errors
/// When there are labels and they are not to be taken off, or pods are still captured in the end.
pub(super) async fn leave(client: &Client, unlabel: bool, patience: Duration) -> Result<()> {
    let (namespaces, pods): (Api<Namespace>, Api<Pod>) = (Api::all(client.clone()), Api::all(client.clone()));
    let labelled = ListParams::default().labels(&format!("{DATAPLANE_MODE}=ambient"));
    let listed = namespaces.list_metadata(&labelled).await.map_err(|error| failed("listing namespaces", error))?;
    let in_mesh: Vec<String> = listed.items.iter().map(ResourceExt::name_any).collect();
    let listed = pods.list_metadata(&labelled).await.map_err(|error| failed("listing pods", error))?;
    let alone: Vec<(String, String)> =
        listed.items.iter().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())).collect();
    let nobody = in_mesh.is_empty() && alone.is_empty();
    if !unlabel && !nobody {
        let named = in_mesh.iter().map(|name| format!("namespace {name}"));
        let named: Vec<String> = named.chain(alone.iter().map(|(namespace, name)| format!("pod {namespace}/{name}"))).collect();
        return Err(Error::Missing {
            missing: format!("these are in the mesh, and their pods would reach nobody without it: {}", named.join(", ")),
            remedy: format!("`ambit uninstall --unlabel`, or take the label off: kubectl label namespace NAME {DATAPLANE_MODE}-"),
        });
    }
    let without = Patch::Merge(json!({ "metadata": { "labels": { DATAPLANE_MODE: null } } }));
    for name in &in_mesh {
        namespaces
            .patch_metadata(name, &PatchParams::default(), &without)
            .await
            .map_err(|error| failed(&format!("taking the label off namespace {name}"), error))?;
        println!("namespace {name} is no longer in the mesh");
    }
    for (namespace, name) in &alone {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        match pods.patch_metadata(name, &PatchParams::default(), &without).await {
            Ok(_) => println!("pod {namespace}/{name} is no longer in the mesh"),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failed(&format!("taking the label off pod {namespace}/{name}"), error)),
        }
    }
    let until = Instant::now() + patience;
    loop {
        let captured = captured(&pods).await?;
        let Some(first) = captured.first() else { return Ok(()) };
        if Instant::now() >= until {
            return Err(Error::NotReady(format!(
                "{} pods are still captured after {} s, {first} among them: `kubectl -n istio-system logs -l app.kubernetes.io/name=ambit-node -c agent` \
                 says why\n  the fix: delete these pods, whoever made them makes them anew, and uninstall once more",
                captured.len(),
                patience.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The pods that say that they are captured.
async fn captured(pods: &Api<Pod>) -> Result<Vec<String>> {
    let (mut found, mut page) = (Vec::new(), ListParams::default().fields(RUNNING).limit(PAGE));
    loop {
        let list = pods.list_metadata(&page).await.map_err(|error| failed("listing pods", error))?;
        let captured = list.items.iter().filter(|pod| pod.annotations().contains_key(REDIRECTION));
        found.extend(captured.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(found),
        }
    }
}

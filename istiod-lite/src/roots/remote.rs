//! The authority of a mesh as people see and ask it, without the control plane: by the Secret.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use super::{
    AT_ONCE, ROTATE, RootsError, STATE,
    issuer::unix,
    keeper::answered,
    report::Report,
    secret::{self, REPORT},
};

fn absent(namespace: &str) -> RootsError {
    let cause = "it is not there; the control plane makes it when it starts with --kubernetes".to_owned();
    RootsError::Api { doing: format!("reading Secret {namespace}/{STATE}"), cause }
}

/// What the Secret in `namespace` shows (`get` on it). Its content, the keys, stays where it is.
///
/// # Errors
/// When it cannot be read, or shows nothing.
pub async fn status(client: kube::Client, namespace: &str) -> Result<Report, RootsError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let doing = format!("reading Secret {namespace}/{STATE}");
    let found = answered(doing.clone(), secrets.get_metadata_opt(STATE)).await?.ok_or_else(|| absent(namespace))?;
    let mut report = secret::reported(&found.metadata).ok_or_else(|| {
        let cause = format!(
            "its annotation {REPORT} is missing or not to be read: the leader of the control plane writes it; wait until one of this version \
             leads, or ask one with --istiod"
        );
        RootsError::Api { doing, cause }
    })?;
    if secret::request(&found.metadata).is_some() {
        report.problems.push("a rotation was asked for; the leader has not begun it yet".to_owned());
    }
    Ok(report.at(unix(SystemTime::now())))
}

/// Asks the leader for a new root (`patch` on the Secret).
///
/// # Errors
/// When the Secret is not there, or may not be changed.
pub async fn rotate(client: kube::Client, namespace: &str, at_once: bool) -> Result<(), RootsError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let asked = if at_once { AT_ONCE.to_owned() } else { jiff::Timestamp::now().to_string() };
    let patch = serde_json::json!({"metadata": {"annotations": {ROTATE: asked}}});
    let doing = format!("asking for a rotation in Secret {namespace}/{STATE}");
    let call = async {
        match secrets.patch_metadata(STATE, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    };
    answered(doing, call).await?.map(drop).ok_or_else(|| absent(namespace))
}

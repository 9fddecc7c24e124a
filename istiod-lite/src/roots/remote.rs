//! The authority of a mesh as people see and ask it, without the control plane: by the Secret.

use std::time::SystemTime;

use ambit_identity::TrustDomain;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use super::{AT_ONCE, ROTATE, RootsConfig, RootsError, STATE, issuer::unix, keeper::answered, report::Report, secret};

fn absent(namespace: &str) -> RootsError {
    let cause = "it is not there; the control plane makes it when it starts with --kubernetes".to_owned();
    RootsError::Api { doing: format!("reading Secret {namespace}/{STATE}"), cause }
}

/// What the Secret in `namespace` says (`get` on it).
///
/// # Errors
/// When it cannot be read, or does not hold what it must.
pub async fn status(client: kube::Client, namespace: &str, trust_domain: &TrustDomain) -> Result<Report, RootsError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let doing = format!("reading Secret {namespace}/{STATE}");
    let secret = answered(doing, secrets.get_opt(STATE)).await?.ok_or_else(|| absent(namespace))?;
    let held = secret::read(&secret, trust_domain, SystemTime::now())?;
    let life = std::time::Duration::from_secs(held.state.life);
    let margin = RootsConfig::new(namespace, trust_domain.clone(), life).margin;
    let waits = secret::request(&secret).map(|_| "a rotation was asked for; the leader has not begun it yet".to_owned());
    let report = Report::of_held(&held, format!("Secret {namespace}/{STATE}"), margin.as_secs(), waits.into_iter().collect());
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
        match secrets.patch(STATE, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    };
    answered(doing, call).await?.map(drop).ok_or_else(|| absent(namespace))
}

//! The roots by which the API server knows the webhook: in the configuration that an installation makes, kept right by the leader.
//!
//! The configuration comes without them, as nobody knows them before the control plane runs; until they are there the API server does not
//! believe who answers, and objects pass. While roots change, old and new ones are believed from before the first certificate of the new
//! one until after the last of the old one (`roots/rotation.rs`), so that reviews go on.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{ca::Issuing, deploy::MANAGER, retry, roots::pauses::Pauses};

/// The name of the configuration.
pub const CONFIGURATION: &str = "ambit-validation";

/// Until a write has to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// The watch begins anew after so long: one that went silent without an end would never tell of a change again.
const ANEW: Duration = Duration::from_mins(10);

/// Writes the roots that are believed into each webhook of the configuration that lacks them, until it is dropped; for the leader. Where
/// there is no configuration there is nothing to do.
pub async fn keep(client: kube::Client, issuing: Issuing) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let watch = || watch_object(api.clone(), CONFIGURATION).backoff(Pauses::default());
    let mut watched = std::pin::pin!(watch());
    let mut changes = issuing.changes();
    let mut anew = Instant::now() + ANEW;
    let mut seen = None;
    let (mut failures, mut wait, mut unwatched) = (0, None, None);
    loop {
        tokio::select! {
            Some(event) = watched.next() => match event {
                Ok(configuration) => (seen, unwatched) = (configuration, None),
                Err(error) => {
                    let error = error.to_string();
                    if unwatched.as_ref() != Some(&error) {
                        tracing::warn!(error, "ValidatingWebhookConfiguration {CONFIGURATION} cannot be watched");
                        unwatched = Some(error);
                    }
                }
            },
            // The other end is open as long as `issuing`.
            _ = changes.changed() => {}
            () = retry::at(wait) => wait = None,
            () = sleep_until(anew) => {
                watched.set(watch());
                anew = Instant::now() + ANEW;
            }
        }
        let patch = seen.as_ref().and_then(|configuration| missing(configuration, issuing.authority().bundle_pem()));
        let Some(patch) = patch.filter(|_| wait.is_none()) else { continue };
        match write(&api, &patch).await {
            Ok(configuration) => {
                tracing::info!("the roots were written to ValidatingWebhookConfiguration {CONFIGURATION}");
                (seen, failures) = (Some(configuration), 0);
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(error, "ValidatingWebhookConfiguration {CONFIGURATION} cannot be written; trying again");
                }
            }
        }
        // After a success, too: somebody else may write something else.
        wait = Some(Instant::now() + retry::after(failures));
    }
}

async fn write(api: &Api<ValidatingWebhookConfiguration>, patch: &Value) -> Result<ValidatingWebhookConfiguration, String> {
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match timeout(PATIENCE, api.patch(CONFIGURATION, &parameters, &Patch::Strategic(patch))).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The change by which every webhook has these roots; `None` when all have them.
fn missing(configuration: &ValidatingWebhookConfiguration, roots: &str) -> Option<Value> {
    let without = configuration.webhooks.iter().flatten().filter(|webhook| {
        let held = webhook.client_config.ca_bundle.as_ref();
        held.is_none_or(|held| held.0 != roots.as_bytes())
    });
    let bundle = ByteString(roots.as_bytes().to_vec());
    let webhooks: Vec<Value> =
        without.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    (!webhooks.is_empty()).then(|| json!({"webhooks": webhooks}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[(&str, Option<&str>)]) -> ValidatingWebhookConfiguration {
        let webhooks = bundles.iter().map(|(name, bundle)| {
            let bundle = bundle.map(|bundle| ByteString(bundle.into()));
            json!({
                "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "istiod", "namespace": "istio-system"}, "caBundle": bundle},
            })
        });
        serde_json::from_value(json!({"metadata": {"name": CONFIGURATION}, "webhooks": webhooks.collect::<Vec<_>>()})).unwrap()
    }

    #[test]
    fn only_what_lacks_the_roots_is_written() {
        assert_eq!(missing(&configuration(&[("a", Some("R")), ("b", Some("R"))]), "R"), None);
        assert_eq!(missing(&ValidatingWebhookConfiguration::default(), "R"), None);
        let patch = missing(&configuration(&[("a", Some("R")), ("b", None), ("c", Some("old"))]), "R").unwrap();
        // "Ug==" is "R".
        let bundle = json!({"caBundle": "Ug=="});
        assert_eq!(patch, json!({"webhooks": [{"name": "b", "clientConfig": bundle}, {"name": "c", "clientConfig": bundle}]}));
    }
}

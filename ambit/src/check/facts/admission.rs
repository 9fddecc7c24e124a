//! What else is asked when an object is written.

use istiod_lite::validation;
use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration};
use kube::{Api, Client, api::ListParams};

use super::seen;
use crate::error::Result;
use crate::install::cluster::is_missing;

/// A configuration of somebody else with webhooks that judge objects of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhooks {
    /// Its name.
    pub name: String,
    /// Whether one of them refuses everything while nobody answers.
    pub blocks: bool,
    /// The Services that answer, `namespace/name`.
    pub services: Vec<String>,
}

/// The groups of the mesh that are no other controllers' as well.
const GROUPS: [&str; 2] = ["security.istio.io", "networking.istio.io"];

/// Whether the API server has ValidatingAdmissionPolicies.
pub(super) async fn policies(client: &Client) -> Result<Option<bool>> {
    let answer = match client.list_api_group_resources("admissionregistration.k8s.io/v1").await {
        Err(error) if is_missing(&error) => Ok(false),
        answer => answer.map(|list| list.resources.iter().any(|resource| resource.name == "validatingadmissionpolicies")),
    };
    seen(answer, "asking which kinds there are")
}

/// The webhooks of others that are asked about the mesh's objects.
pub(super) async fn webhooks(client: &Client) -> Result<Option<Vec<Webhooks>>> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let list = seen(api.list(&ListParams::default()).await, "listing ValidatingWebhookConfigurations")?;
    Ok(list.map(|list| list.items.iter().filter_map(others).collect()))
}

fn others(configuration: &ValidatingWebhookConfiguration) -> Option<Webhooks> {
    let name = configuration.metadata.name.clone().unwrap_or_default();
    let judging: Vec<&ValidatingWebhook> = configuration.webhooks.iter().flatten().filter(|webhook| judges(webhook)).collect();
    if judging.is_empty() || name == validation::CONFIGURATION {
        return None;
    }
    let services = judging.iter().filter_map(|webhook| webhook.client_config.service.as_ref());
    Some(Webhooks {
        name,
        // So it is when nothing is said.
        blocks: judging.iter().any(|webhook| webhook.failure_policy.as_deref() != Some("Ignore")),
        services: services.map(|service| format!("{}/{}", service.namespace, service.name)).collect(),
    })
}

/// Whether a webhook asks for a group of the mesh by name; what looks at everything has rules of its cluster's own.
fn judges(webhook: &ValidatingWebhook) -> bool {
    let mut groups = webhook.rules.iter().flatten().flat_map(|rule| rule.api_groups.iter().flatten());
    groups.any(|group| GROUPS.contains(&group.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(name: &str, group: &str, policy: Option<&str>) -> Option<Webhooks> {
        let configuration = json!({
            "metadata": {"name": name},
            "webhooks": [{
                "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": policy,
                "clientConfig": {"service": {"namespace": "istio-system", "name": "istiod"}},
                "rules": [{"apiGroups": [group], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"]}],
            }],
        });
        others(&serde_json::from_value(configuration).unwrap())
    }

    #[test]
    fn webhooks_of_others_that_ask_for_kinds_of_the_mesh_are_found() {
        let istios = |blocks| {
            let services = vec!["istio-system/istiod".to_owned()];
            Some(Webhooks { name: "istiod-default-validator".to_owned(), blocks, services })
        };
        assert_eq!(seen("istiod-default-validator", "networking.istio.io", Some("Ignore")), istios(false));
        assert_eq!(seen("istiod-default-validator", "security.istio.io", Some("Fail")), istios(true));
        assert_eq!(seen("istiod-default-validator", "security.istio.io", None), istios(true));
        assert_eq!(seen("gatekeeper", "*", Some("Fail")), None);
        assert_eq!(seen(validation::CONFIGURATION, "security.istio.io", Some("Ignore")), None);
    }
}

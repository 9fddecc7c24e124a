//! The custom resources of Istio and our own, as their users write them; here those of `security.istio.io`.
//!
//! Field names follow the public Istio API reference.

use std::collections::BTreeMap;

mod attachment;
pub mod destination;
pub mod duration;
pub mod hash;
pub mod health;
pub mod mesh;
pub mod networking;
pub mod requests;
pub mod secret;
pub mod telemetry;
pub mod tokens;
pub mod traffic;
pub mod upgrades;
pub mod virtual_service;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

pub use attachment::Attachment;

/// Who may, or may not, talk to what.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct AuthorizationPolicy {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked; an absent spec is an ALLOW policy without rules, which allows nothing.
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
}

/// Status of the policies of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Conditions such as `ZtunnelAccepted`.
    pub conditions: Vec<Condition>,
    /// Generation the conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The wish of an [`AuthorizationPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// The pods it holds for; absent: all of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The resources whose waypoint enforces it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The one resource, in the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// What happens to a request that a rule matches.
    pub action: PolicyAction,
    /// The provider of a CUSTOM action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ExtensionProvider>,
    /// Rules, of which any one may match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

impl AuthorizationPolicySpec {
    /// What it holds for.
    #[must_use]
    pub fn attachment(&self) -> Attachment<'_> {
        Attachment { selector: self.selector.as_ref(), several: &self.target_refs, one: self.target_ref.as_ref() }
    }

    /// All target references, in either form.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.attachment().targets()
    }
}

/// Pods by their labels.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels, all of which must be equal. Empty selects all pods.
    pub match_labels: BTreeMap<String, String>,
}

/// A resource a policy is attached to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct PolicyTargetReference {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// Kind: `Service`, `Gateway` or `GatewayClass`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace, which must be the policy's own when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyAction {
    /// Let it pass; once any ALLOW policy holds for a workload, what none matches is refused.
    #[default]
    Allow,
    /// Refuse it.
    Deny,
    /// Note it.
    Audit,
    /// Ask an external authorizer.
    Custom,
}

/// A named extension provider.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct ExtensionProvider {
    /// Its name in the mesh configuration.
    pub name: String,
}

/// One rule: all of its parts must match. Empty parts match anything.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Rule {
    /// Where from; any one must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<RuleFrom>,
    /// What operation; any one must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<RuleTo>,
    /// Further conditions; all must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<When>,
}

/// One entry of `from`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RuleFrom {
    /// The source.
    pub source: Source,
}

/// Properties of the caller; all that are set must match, any value of each.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// Identities without `spiffe://`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// Identities that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<String>,
    /// `issuer/subject` of the request's token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_principals: Vec<String>,
    /// Token principals that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_request_principals: Vec<String>,
    /// Namespaces of the identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    /// Service accounts, `name` in the policy's namespace or `namespace/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// Service accounts that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<String>,
    /// Addresses or CIDRs of the peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_blocks: Vec<String>,
    /// Addresses or CIDRs that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ip_blocks: Vec<String>,
    /// Addresses or CIDRs of the original client, by `X-Forwarded-For`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote_ip_blocks: Vec<String>,
    /// Original client addresses that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_remote_ip_blocks: Vec<String>,
}

/// One entry of `to`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RuleTo {
    /// The operation.
    pub operation: Operation,
}

/// Properties of the request; all that are set must match, any value of each.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// Host names of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Host names that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_hosts: Vec<String>,
    /// Destination ports, as decimal numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Destination ports that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<String>,
    /// HTTP methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// HTTP methods that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<String>,
    /// Paths: exact, `prefix*`, `*suffix`, `*`, or a template with `{*}` and `{**}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Paths that must not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<String>,
}

/// A further condition on an attribute of the request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct When {
    /// Attribute, such as `source.namespace` or `request.headers[x]`.
    pub key: String,
    /// Values, any of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Values, none of which may match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

/// Whether peers must show a certificate.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct PeerAuthentication {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
    /// Whether it holds in place of one that cannot be read, and before all others. Nobody can write this.
    #[serde(skip)]
    pub stand_in: bool,
}

/// The wish of a [`PeerAuthentication`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// The pods it holds for; absent: the namespace, or the mesh in the root namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The mode for all ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Modes of single ports of the pod, with a selector only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// A mode, wrapped as the API has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct MutualTls {
    /// The mode.
    pub mode: MtlsMode,
}

/// A mutual TLS mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// Inherit from the namespace, then the mesh; permissive when nothing is set.
    #[default]
    Unset,
    /// As permissive, in a mesh without sidecars.
    Disable,
    /// With or without mutual TLS.
    Permissive,
    /// Only with mutual TLS.
    Strict,
}

//! The `security.istio.io` custom resource that says which tokens of requests are believed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{Attachment, PolicyStatus, PolicyTargetReference, WorkloadSelector};

/// Which tokens (JWTs) of requests are believed, and where they are. A request with another token is to be refused, one without any is not.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct RequestAuthentication {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: RequestAuthenticationSpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
    /// Whether it stands in place of one that cannot be read, so that all requests are refused. Nobody can write this.
    #[serde(skip)]
    pub stand_in: bool,
}

/// The wish of a [`RequestAuthentication`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// The pods it holds for; of no effect in a mesh without sidecars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The resources whose waypoint enforces it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The one resource, in the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Issuers, any of which may have made the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jwt_rules: Vec<JwtRule>,
}

impl RequestAuthenticationSpec {
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

/// An issuer, how its tokens are verified, and where they are in a request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtRule {
    /// The claim `iss`.
    pub issuer: String,
    /// Values of the claim `aud`, one of which must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Where the issuer's keys are.
    #[serde(alias = "jwks_uri", skip_serializing_if = "String::is_empty")]
    pub jwks_uri: String,
    /// The keys themselves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks: String,
    /// Headers that may hold the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_headers: Vec<JwtHeader>,
    /// Parameters of the query that may hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_params: Vec<String>,
    /// Cookies that may hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_cookies: Vec<String>,
    /// The header in which the service is given the claims.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output_payload_to_header: String,
    /// Headers in which it is given single claims.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Whether the service is given the token.
    pub forward_original_token: bool,
    /// How long the keys may take to come.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timeout: String,
    /// Claims whose text is a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub space_delimited_claims: Vec<String>,
}

/// A header that may hold a token.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct JwtHeader {
    /// Its name.
    pub name: String,
    /// What stands before the token, such as `Bearer `.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// A header in which a service is given a claim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ClaimToHeader {
    /// Its name.
    pub header: String,
    /// The claim.
    pub claim: String,
}

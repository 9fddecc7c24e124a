//! The `security.istio.io` custom resource that says which tokens of requests are believed.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{Attachment, PolicyStatus, PolicyTargetReference, WorkloadSelector};
use crate::jwks::KeySource;

/// How long it may take to fetch keys where nothing is said.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that it may take, whatever is said: others wait for their keys meanwhile.
const LONGEST: Duration = Duration::from_secs(10);

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

impl JwtRule {
    /// Where its keys are to be fetched from; `None` where it has them itself.
    #[must_use]
    pub fn key_source(&self) -> Option<KeySource> {
        if !self.jwks.is_empty() {
            return None;
        }
        Some(match self.jwks_uri.as_str() {
            "" => KeySource::Issuer(self.issuer.clone()),
            address => KeySource::Set(address.to_owned()),
        })
    }

    /// How long fetching them may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let said = parse_timeout(&self.timeout).filter(|timeout| !timeout.is_zero());
        said.unwrap_or(PATIENCE).min(LONGEST)
    }
}

/// A time as `timeout` has it: `5s`, `1m30s`, or seconds with a fraction (`1.5s`).
pub(crate) fn parse_timeout(text: &str) -> Option<Duration> {
    if let Ok(duration) = text.parse::<gateway_api::Duration>() {
        return u64::try_from(duration.as_millis()).ok().map(Duration::from_millis);
    }
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_awaited_as_long_as_the_rule_says_within_bounds() {
        for (text, milliseconds) in
            [("", 5000), ("3s", 3000), ("1.5s", 1500), ("250ms", 250), ("1m30s", 10_000), ("0s", 5000), ("soon", 5000)]
        {
            let rule = JwtRule { timeout: text.into(), ..JwtRule::default() };
            assert_eq!(rule.patience(), Duration::from_millis(milliseconds), "{text:?}");
        }
    }

    #[test]
    fn keys_that_are_not_given_are_at_an_address_or_where_the_issuer_says() {
        let rule = |jwks: &str, jwks_uri: &str| JwtRule {
            issuer: "https://i/".into(),
            jwks: jwks.into(),
            jwks_uri: jwks_uri.into(),
            ..JwtRule::default()
        };
        let address = |rule: JwtRule| rule.key_source().map(|source| source.address());
        assert_eq!(address(rule("{}", "")), None);
        assert_eq!(address(rule("", "https://j/keys")).as_deref(), Some("https://j/keys"));
        assert_eq!(address(rule("", "")).as_deref(), Some("https://i/.well-known/openid-configuration"));
    }
}

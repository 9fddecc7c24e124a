//! RequestAuthentications. Their rules become providers of Envoy's filter for tokens: a request without a token passes, one with a token
//! that no rule believes is refused. A rule whose keys are not known becomes a provider without any, which believes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use ambit_api::envoy::pb::envoy::config::rbac::v3::rbac::Action;
use ambit_api::envoy::pb::envoy::config::rbac::v3::{Policy, permission::Rule, principal::Identifier};
use ambit_api::envoy::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use ambit_api::envoy::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList, JwtRequirementOrList, RequirementRule,
    jwt_provider::{JwksSourceSpecifier, NormalizePayload},
    jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};

use super::super::wire::ordered::JwtAuthentication;
use super::{Enforcement, claim::PAYLOAD, empty, permission, principal};
use crate::source::crd::tokens::{JwtRule, RequestAuthentication};
use crate::source::keys_of;

/// Claims whose text is a list, whatever a rule says.
const LISTS: [&str; 2] = ["scope", "permission"];

/// Adds to what is asked of requests what these ask for.
pub fn verify(policies: &[&Arc<RequestAuthentication>], enforcement: &mut Enforcement) {
    let mut providers = BTreeMap::new();
    let mut names = Vec::new();
    for policy in policies {
        if policy.stand_in {
            refuse(policy, enforcement);
        }
        for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
            let name = format!("{}-rule[{index}]", key(policy));
            // One that targets both a service and its waypoint is there twice.
            if providers.insert(name.clone(), provider(rule)).is_none() {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        return;
    }
    let everything = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let rule =
        RequirementRule { r#match: Some(everything), requirement_type: Some(RequirementType::Requires(requirement(&names))) };
    enforcement.tokens = Some(JwtAuthentication { providers, rules: vec![rule], bypass_cors_preflight: true });
}

/// Refuses all connections for which one of these asks for anything: where the first bytes decide whether requests are looked at, bytes that
/// do not look like one could still bring a token.
pub fn refuse_all(policies: &[&Arc<RequestAuthentication>], enforcement: &mut Enforcement) {
    for policy in policies.iter().filter(|policy| policy.stand_in || !policy.spec.jwt_rules.is_empty()) {
        refuse(policy, enforcement);
    }
}

/// Refuses everything.
fn refuse(policy: &RequestAuthentication, enforcement: &mut Enforcement) {
    let refused = Policy {
        permissions: vec![permission::boxed(Rule::Any(true))],
        principals: vec![principal::boxed(Identifier::Any(true))],
        ..Default::default()
    };
    let deny = enforcement.deny.get_or_insert_with(|| empty(Action::Deny));
    deny.policies.insert(format!("{}-rule[0]", key(policy)), refused);
}

/// A name that no AuthorizationPolicy can have, so that a refusal says what it is by.
fn key(policy: &RequestAuthentication) -> String {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    format!("ns[{namespace}]-policy[request_authentication_{name}]")
}

fn provider(rule: &JwtRule) -> JwtProvider {
    // Without what of a set of keys is a secret, or is used by nobody: an Envoy would take it.
    let keys = keys_of(rule).unwrap_or_default().to_jwks();
    let jwks = DataSource { specifier: Some(Specifier::InlineString(keys)), ..Default::default() };
    let header = |name: &str, prefix: &str| JwtHeader { name: name.to_ascii_lowercase(), value_prefix: prefix.into() };
    let told = rule.output_claim_to_headers.iter().filter(|told| !told.header.is_empty() && !told.claim.is_empty());
    let lists = LISTS.iter().map(|name| (*name).to_owned()).chain(rule.space_delimited_claims.iter().cloned());
    JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        from_headers: rule.from_headers.iter().map(|from| header(&from.name, &from.prefix)).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward_payload_header: rule.output_payload_to_header.to_ascii_lowercase(),
        payload_in_metadata: PAYLOAD.into(),
        normalize_payload_in_metadata: Some(NormalizePayload { space_delimited_claims: lists.collect() }),
        claim_to_headers: told
            .map(|told| JwtClaimToHeader {
                header_name: told.header.to_ascii_lowercase(),
                claim_name: told.claim.clone(),
                ..Default::default()
            })
            .collect(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(jwks)),
        ..Default::default()
    }
}

/// A token of one of the providers where it looks for them; where several look at the same places, of any of these; or none at all.
fn requirement(names: &[String]) -> JwtRequirement {
    let this = |requires_type| JwtRequirement { requires_type: Some(requires_type) };
    let any = |requirements| this(RequiresType::RequiresAny(JwtRequirementOrList { requirements }));
    let of = |name: &String| this(RequiresType::ProviderName(name.clone()));
    let missing = || this(RequiresType::AllowMissing(Default::default()));
    let or_none = |name: &String| any(vec![of(name), missing()]);
    if let [only] = names {
        return or_none(only);
    }
    let all = JwtRequirementAndList { requirements: names.iter().map(or_none).collect() };
    any(names.iter().map(of).chain([this(RequiresType::RequiresAll(all))]).collect())
}

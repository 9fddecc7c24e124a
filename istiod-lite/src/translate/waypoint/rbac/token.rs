//! RequestAuthentications. Their rules become providers of Envoy's filter for tokens: a request without a token passes, one with a token
//! that no rule believes is refused. A rule whose keys are not known becomes a provider with a key that signs nothing.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::jwks::{Fetched, Learned};
use crate::source::crd::tokens::{JwtRule, RequestAuthentication};
use crate::source::{RuleKeys, keys_of};

/// Claims whose text is a list, whatever a rule says.
const LISTS: [&str; 2] = ["scope", "permission"];

/// A set with a key of which nobody has the other half, for Envoy takes none without a key: the point of P-256 whose x is the SHA-256 of
/// `Ambit: nobody has the other half of this key`, and the smaller y.
const NOBODYS: &str = r#"{"keys":[{"crv":"P-256","kty":"EC","x":"_pjeJNip2A2gvu34Y1bqh6A9bgq1XtmlWl_hUL8jgfo","y":"UgXgnsrxkBnwPNk6xtXDIfEJHINtizF9HjYXz1AKcS8"}]}"#;

/// Adds to what is asked of requests what these ask for, with keys that were fetched.
pub fn verify(policies: &[&Arc<RequestAuthentication>], fetched: &Learned, enforcement: &mut Enforcement) {
    let mut providers = BTreeMap::new();
    let mut groups = Vec::new();
    for policy in policies {
        if policy.stand_in {
            refuse(policy, enforcement);
        }
        for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
            let name = format!("{}-rule[{index}]", key(policy));
            let provider = provider(rule, fetched);
            let places = places(&provider);
            // One that targets both a service and its waypoint is there twice.
            if providers.insert(name.clone(), provider).is_none() {
                groups = joined(groups, (places, vec![name]));
            }
        }
    }
    if groups.is_empty() {
        return;
    }
    let everything = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let requirement_type = Some(RequirementType::Requires(requirement(&groups)));
    let rule = RequirementRule { r#match: Some(everything), requirement_type };
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

/// The keys of a rule: without what of a set is a secret, or is used by nobody, as an Envoy would take it.
fn keys(rule: &JwtRule, fetched: &Learned) -> String {
    let known = match keys_of(rule) {
        Ok(RuleKeys::Given(keys)) => Some(keys.to_jwks()),
        Ok(RuleKeys::From(source)) => fetched.get(&source).and_then(Fetched::keys).map(str::to_owned),
        Err(_) => None,
    };
    known.unwrap_or_else(|| NOBODYS.to_owned())
}

fn provider(rule: &JwtRule, fetched: &Learned) -> JwtProvider {
    let jwks = DataSource { specifier: Some(Specifier::InlineString(keys(rule, fetched))), ..Default::default() };
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

/// A place in a request: a header, a parameter of the query or a cookie, by its name.
type Place = (&'static str, String);
/// Providers that look for tokens in places which they share, by their names.
type Group = (BTreeSet<Place>, Vec<String>);

/// Where a provider looks for tokens.
fn places(provider: &JwtProvider) -> BTreeSet<Place> {
    let headers = provider.from_headers.iter().map(|from| ("header", from.name.clone()));
    let parameters = provider.from_params.iter().map(|name| ("parameter", name.clone()));
    let cookies = provider.from_cookies.iter().map(|name| ("cookie", name.clone()));
    let said: BTreeSet<Place> = headers.chain(parameters).chain(cookies).collect();
    match said.is_empty() {
        true => [("header", "authorization".to_owned()), ("parameter", "access_token".to_owned())].into(),
        false => said,
    }
}

/// With one more, which is joined with those that it shares a place with.
fn joined(groups: Vec<Group>, one: Group) -> Vec<Group> {
    let (sharing, mut others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(places, _)| !places.is_disjoint(&one.0));
    let mut all = Group::default();
    for (places, names) in sharing.into_iter().chain([one]) {
        all.0.extend(places);
        all.1.extend(names);
    }
    others.push(all);
    others
}

/// Of the providers that look at the same places a token of any, or none at all; and so wherever any looks. One good token is not enough
/// where there is another for which other providers look.
fn requirement(groups: &[Group]) -> JwtRequirement {
    let this = |requires_type| JwtRequirement { requires_type: Some(requires_type) };
    let of_each = |(_, names): &Group| {
        let of = names.iter().map(|name| this(RequiresType::ProviderName(name.clone())));
        let requirements = of.chain([this(RequiresType::AllowMissing(Default::default()))]).collect();
        this(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
    };
    if let [only] = groups {
        return of_each(only);
    }
    this(RequiresType::RequiresAll(JwtRequirementAndList { requirements: groups.iter().map(of_each).collect() }))
}

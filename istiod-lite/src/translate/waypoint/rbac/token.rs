//! RequestAuthentications. Nobody here can verify a token, so every token counts as one that is not valid, which is to be refused; a request
//! without one passes, as it does where tokens are verified. Headers in which the service would be told what a token says are refused from
//! clients, who could say anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::rbac::v3::rbac::Action;
use ambit_api::envoy::pb::envoy::config::rbac::v3::{
    Policy,
    permission::{Rule, Set},
    principal::Identifier,
};
use ambit_api::envoy::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::super::wire::{header_is, matches};
use super::{Enforcement, empty, permission, principal};
use crate::source::crd::tokens::{JwtRule, RequestAuthentication};

/// The pseudo-header with the path and the query.
const PATH: &str = ":path";

/// Adds to what is refused of requests what these ask for.
pub fn refuse(policies: &[&Arc<RequestAuthentication>], enforcement: &mut Enforcement) {
    for policy in policies {
        let rules = match policy.stand_in {
            true => vec![everything()],
            false => policy.spec.jwt_rules.iter().map(brings).collect(),
        };
        deny(policy, rules, enforcement);
    }
}

/// Refuses all connections for which one of these asks for anything: where the first bytes decide whether requests are looked at, bytes that
/// do not look like one could still bring a token.
pub fn refuse_all(policies: &[&Arc<RequestAuthentication>], enforcement: &mut Enforcement) {
    for policy in policies.iter().filter(|policy| policy.stand_in || !policy.spec.jwt_rules.is_empty()) {
        deny(policy, vec![everything()], enforcement);
    }
}

fn everything() -> Vec<Rule> {
    vec![Rule::Any(true)]
}

/// Refuses what any of the rules says.
fn deny(policy: &RequestAuthentication, rules: Vec<Vec<Rule>>, enforcement: &mut Enforcement) {
    for (index, rules) in rules.into_iter().enumerate() {
        let refused = Policy {
            permissions: rules.into_iter().map(permission::boxed).collect(),
            principals: vec![principal::boxed(Identifier::Any(true))],
            ..Default::default()
        };
        let deny = enforcement.deny.get_or_insert_with(|| empty(Action::Deny));
        deny.policies.insert(format!("{}-rule[{index}]", key(policy)), refused);
    }
}

/// A name that no AuthorizationPolicy can have, so that a refusal says what it is by.
fn key(policy: &RequestAuthentication) -> String {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    format!("ns[{namespace}]-policy[request_authentication_{name}]")
}

/// The request has something where the rule looks for a token, or where it tells the service of one. Values may be any bytes, which an
/// expression does not match as a whole; so only parts of them are looked for.
fn brings(rule: &JwtRule) -> Vec<Rule> {
    let mut rules = Vec::new();
    // Where a token is when the rule does not say.
    if rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty() {
        rules.push(any_case("authorization", "Bearer "));
        rules.extend(parameter("access_token"));
    }
    rules.extend(rule.from_headers.iter().map(|header| match header.prefix.as_str() {
        "" => present(&header.name),
        prefix => any_case(&header.name, prefix),
    }));
    rules.extend(rule.from_params.iter().flat_map(|name| parameter(name)));
    rules.extend(rule.from_cookies.iter().flat_map(|name| cookie(name)));
    let told = rule.output_claim_to_headers.iter().map(|output| &output.header);
    rules.extend(told.chain([&rule.output_payload_to_header]).filter(|name| !name.is_empty()).map(|name| present(name)));
    rules
}

/// In any of several headers of the name, which are one text here, and in any case, for there are services that do not mind.
fn any_case(header: &str, text: &str) -> Rule {
    let text = StringMatcher { ignore_case: true, ..matches(MatchPattern::Contains(text.into())) };
    Rule::Header(header_is(header.to_ascii_lowercase(), text))
}

fn looks_like(header: &str, pattern: MatchPattern) -> Rule {
    Rule::Header(header_is(header, matches(pattern)))
}

/// A parameter of the query, and any query with a character of its name written as `%61`: what decodes to the name has one. Those who have
/// no reason to hide a name do not write letters so.
fn parameter(name: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        ["?", "&"].map(|before| looks_like(PATH, MatchPattern::Contains(format!("{before}{name}=")))).into();
    let bytes: BTreeSet<u8> = name.bytes().collect();
    let encoded: Vec<_> = bytes.iter().map(|byte| permission::boxed(any_case(PATH, &format!("%{byte:02X}")))).collect();
    if !encoded.is_empty() {
        let query = permission::boxed(looks_like(PATH, MatchPattern::Contains("?".into())));
        let encoded = permission::boxed(Rule::OrRules(Set { rules: encoded }));
        rules.push(Rule::AndRules(Set { rules: vec![query, encoded] }));
    }
    rules
}

/// A cookie, in any of several headers, which a comma joins.
fn cookie(name: &str) -> Vec<Rule> {
    let first = MatchPattern::Prefix(format!("{name}="));
    let further = [" ", ";", ","].map(|before| MatchPattern::Contains(format!("{before}{name}=")));
    [first].into_iter().chain(further).map(|pattern| looks_like("cookie", pattern)).collect()
}

fn present(header: &str) -> Rule {
    Rule::Header(HeaderMatcher {
        name: header.to_ascii_lowercase(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    })
}

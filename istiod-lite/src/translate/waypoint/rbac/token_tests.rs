//! What is sent for a RequestAuthentication.

use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::core::v3::data_source::Specifier;
use ambit_api::envoy::pb::envoy::config::rbac::v3::permission::Rule;
use ambit_api::envoy::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtProvider, JwtRequirement, jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};

use super::super::wire::ordered::JwtAuthentication;
use super::{Enforcement, refuse_connections, verify_tokens};
use crate::jwks::{Fetched, KeySource, Learned};
use crate::source::crd::tokens::RequestAuthentication;

const KEY: &str = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn asked(policies: &[RequestAuthentication]) -> Enforcement {
    with_fetched(policies, &Learned::new())
}

fn with_fetched(policies: &[RequestAuthentication], fetched: &Learned) -> Enforcement {
    let mut enforcement = Enforcement::default();
    let policies: Vec<_> = policies.iter().cloned().map(Arc::new).collect();
    verify_tokens(&policies.iter().collect::<Vec<_>>(), fetched, &mut enforcement);
    enforcement
}

fn policy(rules: &str) -> RequestAuthentication {
    let text = format!(r#"{{"metadata": {{"name": "t", "namespace": "shop"}}, "spec": {{"jwtRules": [{rules}]}}}}"#);
    serde_json::from_str(&text).unwrap()
}

/// A rule with these keys.
fn rule(issuer: &str, keys: &[&str]) -> String {
    let jwks = serde_json::to_string(&format!(r#"{{"keys": [{}]}}"#, keys.join(", "))).unwrap();
    format!(r#"{{"issuer": "{issuer}", "jwks": {jwks}}}"#)
}

fn keys(provider: &JwtProvider) -> serde_json::Value {
    let Some(JwksSourceSpecifier::LocalJwks(source)) = &provider.jwks_source_specifier else { panic!("{provider:?}") };
    let Some(Specifier::InlineString(text)) = &source.specifier else { panic!("{source:?}") };
    serde_json::from_str::<serde_json::Value>(text).unwrap()["keys"].clone()
}

fn only(tokens: &JwtAuthentication) -> &JwtProvider {
    assert_eq!(tokens.providers.len(), 1);
    &tokens.providers["ns[shop]-policy[request_authentication_t]-rule[0]"]
}

/// A requirement in few letters.
fn shown(requirement: &JwtRequirement) -> String {
    let list = |all: &[JwtRequirement]| all.iter().map(shown).collect::<Vec<_>>().join(" ");
    match requirement.requires_type.as_ref().unwrap() {
        RequiresType::ProviderName(name) => name.rsplit("]-").next().unwrap().to_owned(),
        RequiresType::RequiresAny(any) => format!("any({})", list(&any.requirements)),
        RequiresType::RequiresAll(all) => format!("all({})", list(&all.requirements)),
        RequiresType::AllowMissing(_) => "none".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn required(tokens: &JwtAuthentication) -> String {
    let [rule] = &tokens.rules[..] else { panic!("one rule") };
    let Some(RequirementType::Requires(requirement)) = &rule.requirement_type else { panic!("{rule:?}") };
    shown(requirement)
}

#[test]
fn each_rule_is_a_provider_and_no_token_is_needed() {
    let one = asked(&[policy(&rule("i", &[KEY]))]).tokens.unwrap();
    assert!(one.bypass_cors_preflight);
    assert_eq!(required(&one), "any(rule[0] none)");
    let two = asked(&[policy(&format!("{}, {}", rule("i", &[KEY]), rule("j", &[KEY])))]).tokens.unwrap();
    assert_eq!(required(&two), "any(rule[0] rule[1] none)");
    // One that is there twice, for the service and for its waypoint, is asked for once.
    let twice = asked(&[policy(&rule("i", &[KEY])), policy(&rule("i", &[KEY]))]).tokens.unwrap();
    assert_eq!(twice, one);
    assert_eq!(asked(&[policy("")]), Enforcement::default());
}

#[test]
fn a_good_token_does_not_stand_for_another_that_other_rules_look_for() {
    for (rules, expected) in [
        (&["", r#""fromHeaders": [{"name": "x"}]"#][..], "all(any(rule[0] none) any(rule[1] none))"),
        // A header is one, whatever is before its token.
        (
            &[r#""fromHeaders": [{"name": "X", "prefix": "a "}]"#, r#""fromHeaders": [{"name": "x"}]"#],
            "any(rule[0] rule[1] none)",
        ),
        (&["", r#""fromParams": ["access_token"]"#], "any(rule[0] rule[1] none)"),
        (&[r#""fromParams": ["t"]"#, r#""fromCookies": ["t"]"#], "all(any(rule[0] none) any(rule[1] none))"),
        // The third looks where each of the others does.
        (
            &[r#""fromParams": ["t"]"#, r#""fromCookies": ["t"]"#, r#""fromParams": ["t"], "fromCookies": ["t"]"#],
            "any(rule[0] rule[1] rule[2] none)",
        ),
        (
            &[r#""fromParams": ["t"]"#, r#""fromCookies": ["t"]"#, r#""fromParams": ["t"]"#],
            "all(any(rule[1] none) any(rule[0] rule[2] none))",
        ),
    ] {
        let rule = |places: &&str| match *places {
            "" => r#"{"issuer": "i"}"#.to_owned(),
            places => format!(r#"{{"issuer": "i", {places}}}"#),
        };
        let rules: Vec<String> = rules.iter().map(rule).collect();
        assert_eq!(required(&asked(&[policy(&rules.join(", "))]).tokens.unwrap()), expected, "{rules:?}");
    }
}

#[test]
fn a_provider_has_what_its_rule_says() {
    let text = r#"{"issuer": "i", "audiences": ["a"], "forwardOriginalToken": true, "fromHeaders": [{"name": "X-Token", "prefix": "J.W "}],
        "fromParams": ["t"], "fromCookies": ["s"], "outputPayloadToHeader": "X-Claims", "spaceDelimitedClaims": ["groups"],
        "outputClaimToHeaders": [{"header": "X-Sub", "claim": "sub"}, {"header": "", "claim": "sub"}, {"header": "x", "claim": ""}]}"#;
    let tokens = asked(&[policy(text)]).tokens.unwrap();
    let provider = only(&tokens);
    assert_eq!((provider.issuer.as_str(), provider.forward, &provider.audiences[..]), ("i", true, &["a".to_owned()][..]));
    assert_eq!(provider.from_headers.len(), 1);
    assert_eq!((provider.from_headers[0].name.as_str(), provider.from_headers[0].value_prefix.as_str()), ("x-token", "J.W "));
    assert_eq!((&provider.from_params[..], &provider.from_cookies[..]), (&["t".to_owned()][..], &["s".to_owned()][..]));
    assert_eq!((provider.forward_payload_header.as_str(), provider.payload_in_metadata.as_str()), ("x-claims", "payload"));
    assert_eq!(provider.claim_to_headers.len(), 1, "Envoy would reject the others");
    assert_eq!(
        (provider.claim_to_headers[0].header_name.as_str(), provider.claim_to_headers[0].claim_name.as_str()),
        ("x-sub", "sub")
    );
    let lists = &provider.normalize_payload_in_metadata.as_ref().unwrap().space_delimited_claims;
    assert_eq!(lists[..], ["scope", "permission", "groups"]);
}

#[test]
fn only_public_keys_are_sent_and_without_any_that_are_known_no_token_is_believed() {
    let secret = r#"{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}"#;
    let private = KEY.replace("\"x\"", "\"d\": \"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\", \"kid\": \"k\", \"x\"");
    let tokens = asked(&[policy(&rule("i", &[secret, &private]))]).tokens.unwrap();
    let sent = keys(only(&tokens));
    let expected = r#"[{"kty": "OKP", "kid": "k", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]"#;
    assert_eq!(sent, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    for keyless in [
        rule("i", &[]),
        rule("i", &[secret]),
        rule("", &[KEY]),
        r#"{"issuer": "i"}"#.to_owned(),
        r#"{"issuer": "i", "jwks": "nonsense"}"#.to_owned(),
        r#"{"issuer": "i", "jwksUri": "https://i/keys"}"#.to_owned(),
    ] {
        let tokens = asked(&[policy(&keyless)]).tokens.unwrap();
        // Envoy takes no set without a key.
        let nobodys = serde_json::json!([{
            "kty": "EC", "crv": "P-256",
            "x": "_pjeJNip2A2gvu34Y1bqh6A9bgq1XtmlWl_hUL8jgfo", "y": "UgXgnsrxkBnwPNk6xtXDIfEJHINtizF9HjYXz1AKcS8",
        }]);
        assert_eq!(keys(only(&tokens)), nobodys, "{keyless}");
    }
}

#[test]
fn keys_that_were_fetched_are_those_of_the_rules_that_name_where_they_are() {
    let (set, issuer) = (KeySource::Set("https://i/keys".into()), KeySource::Issuer("https://i".into()));
    let known = |kid: &str| Fetched::Keys(format!(r#"{{"keys":[{{"kid":"{kid}"}}]}}"#).into());
    let fetched = Learned::from([(set, known("set")), (issuer, known("issuer"))]);
    for (rule, expected) in [
        (r#"{"issuer": "https://i", "jwksUri": "https://i/keys"}"#.to_owned(), "set"),
        (r#"{"issuer": "https://i"}"#.to_owned(), "issuer"),
        (r#"{"issuer": "https://i", "jwksUri": "https://i/others"}"#.to_owned(), ""),
        (rule("https://i", &[&KEY.replace("\"x\"", "\"kid\": \"own\", \"x\"")]), "own"),
    ] {
        let tokens = with_fetched(&[policy(&rule)], &fetched).tokens.unwrap();
        assert_eq!(keys(only(&tokens))[0]["kid"].as_str().unwrap_or_default(), expected, "{rule}");
    }
    let failed = Learned::from([(KeySource::Issuer("https://i".into()), Fetched::Failed("away".into()))]);
    let tokens = with_fetched(&[policy(r#"{"issuer": "https://i"}"#)], &failed).tokens.unwrap();
    assert_eq!(keys(only(&tokens))[0]["kty"], "EC", "nobody's");
}

#[test]
fn in_place_of_what_cannot_be_read_everything_is_refused() {
    let enforcement = asked(&[RequestAuthentication { stand_in: true, ..policy("") }]);
    let deny = enforcement.deny.unwrap();
    assert!(deny.policies.values().all(|policy| policy.permissions[0].rule == Some(Rule::Any(true))));
    assert_eq!((deny.policies.len(), enforcement.tokens), (1, None));
}

#[test]
fn where_the_first_bytes_decide_all_connections_are_refused_for_which_a_policy_asks_for_anything() {
    let connections = |policy: RequestAuthentication| {
        let mut enforcement = Enforcement::default();
        refuse_connections(&[&Arc::new(policy)], &mut enforcement);
        enforcement.deny
    };
    let two = policy(r#"{"issuer": "i"}, {"issuer": "j", "fromParams": ["t"]}"#);
    for policy in [two, RequestAuthentication { stand_in: true, ..policy("") }] {
        let deny = connections(policy).unwrap();
        let refused: Vec<_> = deny.policies.values().flat_map(|policy| &policy.permissions).collect();
        assert!(refused.len() == 1 && refused[0].rule == Some(Rule::Any(true)), "{refused:?}");
    }
    assert_eq!(connections(policy("")), None);
}

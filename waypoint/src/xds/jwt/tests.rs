//! What is taken of the filter for tokens, and what is rejected and by which name.

use ambit_api::envoy::pb::{
    envoy::extensions::filters::http::jwt_authn::v3::{
        JwtRequirementAndList, JwtRequirementOrList, ProviderWithAudiences, RemoteJwks,
    },
    google::protobuf::Empty,
};

use super::*;

fn this(requires_type: RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(requires_type) }
}

fn named(name: &str) -> JwtRequirement {
    this(RequiresType::ProviderName(name.into()))
}

fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    this(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

fn inline(jwks: &str) -> Option<JwksSourceSpecifier> {
    let specifier = Some(Specifier::InlineString(jwks.into()));
    Some(JwksSourceSpecifier::LocalJwks(DataSource { specifier, ..Default::default() }))
}

/// Two providers without keys, of which the first is required where it is looked for.
fn config() -> Config {
    let provider = |issuer: &str| JwtProvider {
        issuer: issuer.into(),
        jwks_source_specifier: inline(r#"{"keys": []}"#),
        ..Default::default()
    };
    let everything = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let requirement = any(vec![this(RequiresType::AllowMissing(Empty {})), named("b")]);
    Config {
        providers: [("b".to_owned(), provider("i")), ("a".to_owned(), provider("j"))].into(),
        rules: vec![RequirementRule {
            r#match: Some(everything),
            requirement_type: Some(RequirementType::Requires(requirement)),
        }],
        ..Default::default()
    }
}

fn requiring(requirement: JwtRequirement) -> Compiled<Requirement> {
    let mut config = config();
    config.rules[0].requirement_type = Some(RequirementType::Requires(requirement));
    filter(config).map(|filter| filter.requirement)
}

#[test]
fn providers_are_in_the_order_of_their_names_and_only_those_beside_it_may_be_missing() {
    let compiled = filter(config()).unwrap();
    let names: Vec<_> = compiled.providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(compiled.providers[0].places, Place::usual());
    let shown = |requirement: &Requirement| format!("{requirement:?}");
    assert_eq!(shown(&compiled.requirement), "Any([Provider(1), AllowMissing([1])])");
    let all = JwtRequirementAndList { requirements: vec![any(vec![named("a")]), this(RequiresType::AllowMissing(Empty {}))] };
    let all = requiring(this(RequiresType::RequiresAll(all))).unwrap();
    assert_eq!(shown(&all), "All([Any([Provider(0)]), AllowMissing([])])");
}

#[test]
fn what_is_not_implemented_of_tokens_is_rejected_by_name() {
    type Edit = fn(&mut Config);
    fn provider(config: &mut Config) -> &mut JwtProvider {
        config.providers.get_mut("b").unwrap()
    }
    let edits: [(Edit, &str); 14] = [
        (|c| provider(c).jwks_source_specifier = None, "providers[b]: a source of keys is missing"),
        (
            |c| provider(c).jwks_source_specifier = Some(JwksSourceSpecifier::RemoteJwks(RemoteJwks::default())),
            "providers[b]: remote_jwks is not implemented",
        ),
        (|c| provider(c).jwks_source_specifier = inline("{}"), "providers[b].local_jwks: no JSON object with a list of keys"),
        (|c| provider(c).require_expiration = true, "require_expiration is not implemented"),
        (|c| provider(c).clock_skew_seconds = 5, "clock_skew_seconds is not implemented"),
        (|c| provider(c).header_in_metadata = "h".into(), "header_in_metadata is not implemented"),
        (|c| provider(c).failed_status_in_metadata = "f".into(), "failed_status_in_metadata is not implemented"),
        (|c| provider(c).clear_route_cache = true, "clear_route_cache is not implemented"),
        (|c| provider(c).forward_payload_header = ":path".into(), "forward_payload_header: \":path\" is no name of a header"),
        (|c| c.strip_failure_response = true, "strip_failure_response is not implemented"),
        (|c| c.rules.clear(), "rules: other than one rule"),
        (|c| c.rules.push(c.rules[0].clone()), "rules: other than one rule"),
        (|c| c.rules[0].r#match = None, "rules.match: other than the prefix /"),
        (
            |c| c.rules[0].requirement_type = Some(RequirementType::RequirementName("r".into())),
            "requirement_name is not implemented",
        ),
    ];
    for (edit, words) in edits {
        let mut config = config();
        edit(&mut config);
        let problem = filter(config).unwrap_err().to_string();
        assert!(problem.contains(words), "{words:?}: {problem}");
    }
    let audiences = ProviderWithAudiences { provider_name: "a".into(), audiences: vec!["x".into()] };
    for (requirement, words) in [
        (RequiresType::ProviderAndAudiences(audiences), "rules.requires: provider_and_audiences is not implemented"),
        (RequiresType::AllowMissingOrFailed(Empty {}), "allow_missing_or_failed is not implemented"),
        (RequiresType::ExtractOnlyWithoutValidation(Default::default()), "extract_only_without_validation is not implemented"),
        (RequiresType::ProviderName("c".into()), "there is no provider c"),
    ] {
        let problem = requiring(this(requirement)).unwrap_err().to_string();
        assert!(problem.contains(words), "{words:?}: {problem}");
    }
}

//! Which texts of a token's issuer and subject `requestPrincipals` match.

use ambit_api::envoy::pb::envoy::config::rbac::v3::principal::Identifier;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{string_matcher::MatchPattern, value_matcher};

use super::claim;
use super::term::Term;

/// What is asked of a claim, as `path=test`.
fn shown(identifier: &Identifier) -> String {
    let sourced = match identifier {
        Identifier::SourcedMetadata(sourced) => sourced,
        Identifier::AndIds(set) => {
            return set.ids.iter().map(|one| shown(one.identifier.as_ref().unwrap())).collect::<Vec<_>>().join(" ");
        }
        other => panic!("{other:?}"),
    };
    let matcher = sourced.metadata_matcher.as_ref().unwrap();
    assert_eq!((matcher.filter.as_str(), sourced.metadata_source), ("envoy.filters.http.jwt_authn", 0));
    let names = matcher.path.iter().map(|part| match part.segment.as_ref().unwrap() {
        Segment::Key(key) => key.as_str(),
    });
    let names: Vec<&str> = names.collect();
    format!("{}={}", names.join("."), value(matcher.value.as_ref().unwrap().match_pattern.as_ref().unwrap()))
}

fn value(pattern: &value_matcher::MatchPattern) -> String {
    use ambit_api::envoy::pb::envoy::r#type::matcher::v3::list_matcher::MatchPattern::OneOf;
    match pattern {
        value_matcher::MatchPattern::StringMatch(text) => match text.match_pattern.as_ref().unwrap() {
            MatchPattern::Exact(text) => text.clone(),
            MatchPattern::Prefix(text) => format!("{text}…"),
            MatchPattern::Suffix(text) => format!("…{text}"),
            MatchPattern::SafeRegex(regex) => format!("/{}/", regex.regex),
            other => panic!("{other:?}"),
        },
        value_matcher::MatchPattern::ListMatch(list) => {
            let OneOf(of) = list.match_pattern.as_ref().unwrap();
            format!("[{}]", value(of.match_pattern.as_ref().unwrap()))
        }
        value_matcher::MatchPattern::OrMatch(either) => {
            let all = either.value_matchers.iter().map(|one| value(one.match_pattern.as_ref().unwrap()));
            all.collect::<Vec<_>>().join("|")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_principal_is_an_issuer_and_a_subject_with_a_star_at_either_end() {
    for (value, expected) in [
        ("*", "payload.iss=/.+/ payload.sub=/.+/"),
        ("https://i.example/ann", "payload.iss=https://i.example payload.sub=ann"),
        ("https://i.example/*", "payload.iss=https://i.example payload.sub=/.+/"),
        ("https://i.example/an*", "payload.iss=https://i.example payload.sub=an…"),
        ("*/ann", "payload.iss=/.+/ payload.sub=ann"),
        ("*.example/ann", "payload.iss=….example payload.sub=ann"),
        ("*/*", "payload.iss=/.+/ payload.sub=/.+/"),
        ("*.example/*", "payload.iss=….example payload.sub=/.+/"),
        ("*ann", "payload.iss=/.+/ payload.sub=…ann"),
        ("i*", "payload.iss=i… payload.sub=/.+/"),
        ("i/", "payload.iss=i payload.sub="),
        // A star elsewhere is one.
        ("i/*a", "payload.iss=i payload.sub=*a"),
        ("i*/a", "payload.iss=i* payload.sub=a"),
    ] {
        match claim::principal(value).unwrap() {
            Term::Is(identifier) => assert_eq!(shown(&identifier), expected, "{value}"),
            other => panic!("{value}: {other:?}"),
        }
    }
    assert_eq!(claim::principal("ann"), Some(Term::Never), "no issuer");
}

#[test]
fn a_claim_is_a_text_or_a_list_and_may_be_in_another() {
    for (keys, value, expected) in [
        ("[aud]", "shop", "payload.aud=[shop]|shop"),
        ("[realm_access][roles]", "adm*", "payload.realm_access.roles=[adm…]|adm…"),
        ("[https://a.example/x]", "*", "payload.https://a.example/x=[/.+/]|/.+/"),
    ] {
        let path = claim::path(keys).unwrap();
        match claim::is(&path, value).unwrap() {
            Term::Is(identifier) => assert_eq!(shown(&identifier), expected, "{keys}"),
            other => panic!("{other:?}"),
        }
    }
    for bad in ["", "[]", "[a", "a]", "[a][]", "[a]b", "[a]b]", "[[a]]"] {
        assert_eq!(claim::path(bad), None, "{bad}");
    }
}

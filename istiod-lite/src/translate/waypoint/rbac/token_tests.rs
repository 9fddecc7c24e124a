//! What is refused for a RequestAuthentication, judged as a waypoint and Envoy judge it: by parts of the bytes of a header.

use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::rbac::v3::permission::Rule;
use ambit_api::envoy::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::{Enforcement, refuse_connections, refuse_tokens};
use crate::source::crd::tokens::RequestAuthentication;

fn refused(policy: RequestAuthentication) -> Enforcement {
    let mut enforcement = Enforcement::default();
    refuse_tokens(&[&Arc::new(policy)], &mut enforcement);
    enforcement
}

fn policy(rule: &str) -> RequestAuthentication {
    let text = format!(r#"{{"metadata": {{"name": "t", "namespace": "shop"}}, "spec": {{"jwtRules": [{rule}]}}}}"#);
    serde_json::from_str(&text).unwrap()
}

/// Whether a request with this header, a pseudo-header among them, is refused for this rule.
fn refuses(rule: &str, header: (&str, &[u8])) -> bool {
    let deny = refused(policy(rule)).deny.unwrap();
    let permissions = &deny.policies["ns[shop]-policy[request_authentication_t]-rule[0]"].permissions;
    permissions.iter().any(|permission| holds(permission.rule.as_ref().unwrap(), header))
}

fn holds(rule: &Rule, (name, value): (&str, &[u8])) -> bool {
    let header = match rule {
        Rule::AndRules(set) => return set.rules.iter().all(|one| holds(one.rule.as_ref().unwrap(), (name, value))),
        Rule::OrRules(set) => return set.rules.iter().any(|one| holds(one.rule.as_ref().unwrap(), (name, value))),
        Rule::Header(header) => header,
        other => panic!("{other:?}"),
    };
    let passes = match header.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::PresentMatch(present) => *present,
        HeaderMatchSpecifier::StringMatch(test) => {
            let case = |bytes: &[u8]| if test.ignore_case { bytes.to_ascii_lowercase() } else { bytes.to_vec() };
            let value = case(value);
            match test.match_pattern.as_ref().unwrap() {
                MatchPattern::Prefix(text) => value.starts_with(&case(text.as_bytes())),
                MatchPattern::Contains(text) => value.windows(text.len()).any(|part| part == case(text.as_bytes())),
                other => panic!("{other:?} may not match what is not UTF-8"),
            }
        }
        other => panic!("{other:?}"),
    };
    header.name == name && passes
}

#[test]
fn a_token_where_the_rule_looks_for_it_is_refused_and_nothing_else_is() {
    let anywhere = r#"{"issuer": "i"}"#;
    let told = r#"{"issuer": "i", "fromHeaders": [{"name": "X-Token", "prefix": "J.W "}, {"name": "x-bare"}], "fromParams": ["t"], "fromCookies": ["s"]}"#;
    let tells =
        r#"{"issuer": "i", "outputPayloadToHeader": "X-Claims", "outputClaimToHeaders": [{"header": "X-Sub", "claim": "sub"}]}"#;
    for (rule, (name, value), expected) in [
        (anywhere, ("authorization", &b"Bearer a.b.c"[..]), true),
        (anywhere, ("authorization", &b"bearer a.b.c"[..]), true),
        (anywhere, ("authorization", &b"Basic YTpi,Bearer a.b.c"[..]), true),
        (anywhere, ("authorization", &b"Basic YTpi"[..]), false),
        (anywhere, ("authorization", &b"\xff,Bearer a.b.c"[..]), true),
        (anywhere, (":path", &b"/x?access_token=a.b.c"[..]), true),
        (anywhere, (":path", &b"/x?y=1&access_token=a.b.c&z=2"[..]), true),
        (anywhere, (":path", &b"/x?access%5ftoken=a.b.c"[..]), true),
        (anywhere, (":path", &b"/x?y=1&\xff=2&%61ccess_token=a.b.c"[..]), true),
        (anywhere, (":path", &b"/x%61?y=%20%2F%C3%A9"[..]), true),
        (anywhere, (":path", &b"/%61x"[..]), false),
        (anywhere, (":path", &b"/x?y=%20%2F%C3%A9"[..]), false),
        (anywhere, (":path", &b"/access_token=a?my_access_token=b"[..]), false),
        (anywhere, ("x-bare", &b"a"[..]), false),
        (told, ("authorization", &b"Bearer a.b.c"[..]), false),
        (told, ("x-token", &b"J.W a"[..]), true),
        (told, ("x-token", &b"JxW a"[..]), false),
        (told, ("x-bare", &b""[..]), true),
        (told, ("x-bare", &b"\xff"[..]), true),
        (told, (":path", &b"/?t=a"[..]), true),
        (told, (":path", &b"/?access_token=a"[..]), false),
        (told, ("cookie", &b"s=a"[..]), true),
        (told, ("cookie", &b"a=b; s=a"[..]), true),
        (told, ("cookie", &b"a=b;s=a"[..]), true),
        (told, ("cookie", &b"a=\xff,s=a"[..]), true),
        (told, ("cookie", &b"xs=a; ys=b"[..]), false),
        // A client must not say what only a verified token says.
        (tells, ("x-claims", &b"{}"[..]), true),
        (tells, ("x-sub", &b"root"[..]), true),
        (tells, ("authorization", &b"Bearer a"[..]), true),
    ] {
        let shown = String::from_utf8_lossy(value);
        assert_eq!(refuses(rule, (name, value)), expected, "{rule} {name}: {shown}");
    }
}

#[test]
fn without_a_rule_nothing_is_refused_and_in_place_of_what_cannot_be_read_everything() {
    let none = serde_json::from_str(r#"{"metadata": {"name": "t", "namespace": "shop"}}"#).unwrap();
    assert_eq!(refused(none), Enforcement::default());
    let deny = refused(RequestAuthentication { stand_in: true, ..policy("") }).deny.unwrap();
    assert!(deny.policies.values().all(|policy| policy.permissions[0].rule == Some(Rule::Any(true))));
    assert_eq!(deny.policies.len(), 1);
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

//! What the token of a request says: `requestPrincipals` and `request.auth.*`. Only what was verified is there to be looked at.

use ambit_api::envoy::pb::envoy::config::rbac::v3::{SourcedMetadata, principal::Identifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, ValueMatcher, list_matcher, value_matcher,
};
use ambit_model::jwt;

use super::super::wire::{matches, regex};
use super::term::{Term, all_of, pattern};

/// Under which name the payload of a token is found.
pub const PAYLOAD: &str = "payload";

/// The names in `[outer][inner]`; `None` when it is none such.
pub fn path(keys: &str) -> Option<Vec<&str>> {
    let names: Vec<&str> = keys.strip_prefix('[')?.strip_suffix(']')?.split("][").collect();
    names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(names)
}

/// A claim is a text that matches, or a list with one.
pub fn is(claim: &[&str], value: &str) -> Option<Term<Identifier>> {
    let of_list = ListMatcher { match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(text(wanted(value))))) };
    let list = ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(of_list))) };
    let either = OrMatcher { value_matchers: vec![list, text(wanted(value))] };
    Some(Term::Is(of_payload(claim, ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::OrMatch(either)) })))
}

/// `ISSUER/SUBJECT`, with a star at either end or alone, or one at the beginning and one for the subject. The last slash is the one between
/// them, as an issuer is a URL.
pub fn principal(value: &str) -> Option<Term<Identifier>> {
    let (exactly, anything) = (|text: &str| MatchPattern::Exact(text.into()), || wanted("*"));
    let (issuer, subject) = match (value.rsplit_once('/'), value.strip_prefix('*'), value.strip_suffix('*')) {
        (None, Some(""), _) => (anything(), anything()),
        (Some((issuer, "*")), Some(_), _) => (wanted(issuer), anything()),
        (Some((issuer, subject)), Some(_), _) => (wanted(issuer), exactly(subject)),
        (None, Some(end), _) => (anything(), MatchPattern::Suffix(end.into())),
        (Some((issuer, "*")), None, Some(_)) => (exactly(issuer), anything()),
        (Some((issuer, subject)), None, Some(_)) => (exactly(issuer), MatchPattern::Prefix(subject.trim_end_matches('*').into())),
        (None, None, Some(start)) => (MatchPattern::Prefix(start.into()), anything()),
        (Some((issuer, subject)), None, None) => (exactly(issuer), exactly(subject)),
        // Every principal has a slash.
        (None, None, None) => return Some(Term::Never),
    };
    let is = |claim, pattern| Term::Is(of_payload(&[claim], text(pattern)));
    Some(all_of([is("iss", issuer), is("sub", subject)]))
}

/// A star alone is any text but the empty one.
fn wanted(value: &str) -> MatchPattern {
    pattern(value).unwrap_or_else(|| MatchPattern::SafeRegex(regex(".+")))
}

fn text(pattern: MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(matches(pattern))) }
}

fn of_payload(claim: &[&str], value: ValueMatcher) -> Identifier {
    let names = [PAYLOAD].into_iter().chain(claim.iter().copied());
    let path = names.map(|name| PathSegment { segment: Some(Segment::Key(name.into())) }).collect();
    let matcher = MetadataMatcher { filter: jwt::METADATA.into(), path, value: Some(value), invert: false };
    Identifier::SourcedMetadata(SourcedMetadata { metadata_matcher: Some(matcher), ..Default::default() })
}

//! What a VirtualService asks of a request.

use ambit_api::envoy::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use ambit_api::envoy::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use ambit_api::envoy::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, route_match::PathSpecifier,
};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::super::wire::{exactly, header_is, matches, peer_is, regex};
use crate::index::Index;
use crate::source::crd::virtual_service::{HttpMatch, StringMatch};
use crate::source::is_pattern;

/// All that is asked, but for the port.
pub fn condition(index: &Index, said: &HttpMatch) -> RouteMatch {
    let whole = || PathSpecifier::Prefix("/".into());
    let path_specifier = Some(said.uri.as_ref().map_or_else(whole, |uri| match (&uri.exact, &uri.prefix, &uri.regex) {
        (Some(path), ..) => PathSpecifier::Path(path.clone()),
        // As Istio has it, of letters and not of whole parts.
        (_, Some(prefix), _) if !prefix.is_empty() => PathSpecifier::Prefix(prefix.clone()),
        (_, _, Some(expression)) if is_pattern(expression) => PathSpecifier::SafeRegex(regex(expression)),
        _ => whole(),
    }));
    let mut made = RouteMatch { path_specifier, ..Default::default() };
    for (name, test) in [(":method", &said.method), (":authority", &said.authority)] {
        made.headers.extend(test.as_ref().map(|test| header_is(name, string(test))));
    }
    for (name, test) in &said.headers {
        made.headers.extend(header(name, test));
    }
    // With an expression that is none the rule is not carried out, and a test that no request passes would let them go on to the next one.
    let can_be = |test: &StringMatch| test.regex.as_deref().is_none_or(is_pattern);
    for (name, test) in said.without_headers.iter().filter(|named| can_be(named.1)) {
        // One that is not there has no such value either.
        let treat_missing_header_as_empty = says(test);
        made.headers.extend(header(name, test).map(|header| HeaderMatcher {
            invert_match: true,
            treat_missing_header_as_empty,
            ..header
        }));
    }
    for (name, test) in &said.query_params {
        made.query_parameters.push(QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string(test))),
        });
    }
    if let Some(namespace) = said.source_namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        let clients = format!("spiffe://{}/ns/{namespace}/sa/", index.config().trust_domain);
        made.filter_state.push(peer_is(matches(MatchPattern::Prefix(clients))));
    }
    made
}

/// A test of a header; of what is no name of one there is none, and the rule is not carried out.
fn header(name: &str, test: &StringMatch) -> Option<HeaderMatcher> {
    let name = name.to_lowercase();
    // HTTP/2 has no `host` header; Envoy knows it by the name of the pseudo-header.
    let name = if name == "host" { ":authority".to_owned() } else { name };
    let pseudo = matches!(name.as_str(), ":authority" | ":method" | ":path");
    if !pseudo && name.parse::<http::HeaderName>().is_err() {
        return None;
    }
    Some(match says(test) {
        true => header_is(name, string(test)),
        false => {
            HeaderMatcher { name, header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)), ..Default::default() }
        }
    })
}

/// Whether a test is of more than that something is there.
fn says(test: &StringMatch) -> bool {
    test.exact.is_some() || test.prefix.is_some() || test.regex.is_some()
}

/// A test of text; one that says nothing is for whatever there is.
pub fn string(test: &StringMatch) -> StringMatcher {
    match (&test.exact, &test.prefix, &test.regex) {
        (Some(text), ..) => exactly(text.as_str()),
        (_, Some(prefix), _) if !prefix.is_empty() => matches(MatchPattern::Prefix(prefix.clone())),
        (_, _, Some(expression)) if is_pattern(expression) => matches(MatchPattern::SafeRegex(regex(expression))),
        _ => matches(MatchPattern::SafeRegex(regex(".*"))),
    }
}

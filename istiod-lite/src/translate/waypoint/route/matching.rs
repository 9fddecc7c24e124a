//! Matches, and which of two that both apply comes first.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use ambit_api::envoy::pb::envoy::config::route::v3::{QueryParameterMatcher, RouteMatch, route_match::PathSpecifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};

use super::super::wire::{exactly, header_is, matches, regex};
use super::grpc::MethodRank;
use crate::source::NamespacedName;

/// The path a match asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch<'a> {
    /// The whole path.
    Exact(&'a str),
    /// Leading path elements, without the trailing slash; empty for any path.
    Prefix(&'a str),
    /// A regular expression for the whole path.
    Regex(&'a str),
}

impl<'a> PathMatch<'a> {
    pub fn of(condition: &'a HttpRouteRulesMatches) -> Self {
        let Some(path) = &condition.path else { return Self::Prefix("") };
        let value = path.value.as_deref().unwrap_or("/");
        match path.r#type {
            Some(HttpRouteRulesMatchesPathType::Exact) => Self::Exact(value),
            Some(HttpRouteRulesMatchesPathType::RegularExpression) => Self::Regex(value),
            _ => Self::Prefix(value.trim_end_matches('/')),
        }
    }
}

/// Sorts before another when it takes precedence: exact path, then (as the specification leaves the place of regular
/// expressions open, before the catch-all they would never be reached behind) regular expression, then prefix, each the
/// longest first; for GRPCRoutes the longest service, then the longest method; method; most headers; most query parameters; oldest route; name; order in the route.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    path: (u8, Reverse<(usize, usize)>),
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    of: Arc<Origin>,
    position: (usize, usize),
}

/// The route of a match, as far as it decides between two that ask for as much: the same for all of its matches.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Routes without a creation time come last.
    created: (bool, Option<String>),
    name: NamespacedName,
}

impl Origin {
    pub fn of(route: &HttpRoute) -> Arc<Self> {
        let created = route.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
        Arc::new(Self { created: (created.is_none(), created), name: NamespacedName::of(&route.metadata) })
    }
}

impl Precedence {
    pub fn of(
        condition: &HttpRouteRulesMatches,
        origin: &Arc<Origin>,
        position: (usize, usize),
        method: Option<MethodRank>,
    ) -> Self {
        let (kind, value) = match PathMatch::of(condition) {
            PathMatch::Exact(value) => (0, value),
            PathMatch::Regex(value) => (1, value),
            PathMatch::Prefix(value) => (2, value),
        };
        let headers: BTreeSet<String> = condition.headers.iter().flatten().map(|header| header.name.to_lowercase()).collect();
        let query: BTreeSet<&str> = condition.query_params.iter().flatten().map(|parameter| parameter.name.as_str()).collect();
        Self {
            path: match method {
                None => (kind, Reverse((value.chars().count(), 0))),
                Some(rank) => (0, Reverse(rank)),
            },
            without_method: condition.method.is_none(),
            headers: Reverse(headers.len()),
            query: Reverse(query.len()),
            of: Arc::clone(origin),
            position,
        }
    }

    /// The name of the route.
    pub fn name(&self) -> &NamespacedName {
        &self.of.name
    }
}

/// A match as Envoy has it. Of several entries with the same name the first counts.
pub fn condition(condition: &HttpRouteRulesMatches) -> RouteMatch {
    let path_specifier = Some(match PathMatch::of(condition) {
        PathMatch::Exact(path) => PathSpecifier::Path(path.into()),
        PathMatch::Prefix("") => PathSpecifier::Prefix("/".into()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.into()),
        PathMatch::Regex(expression) => PathSpecifier::SafeRegex(regex(expression)),
    });
    let mut compiled = RouteMatch { path_specifier, ..Default::default() };
    if let Some(method) = &condition.method
        && let Ok(serde_json::Value::String(method)) = serde_json::to_value(method)
    {
        compiled.headers.push(header_is(":method", exactly(method)));
    }
    let mut seen = BTreeSet::new();
    for header in condition.headers.iter().flatten() {
        let name = header.name.to_lowercase();
        if seen.insert(name.clone()) {
            let is_regex = matches!(header.r#type, Some(HttpRouteRulesMatchesHeadersType::RegularExpression));
            // HTTP/2 has no `host` header; Envoy knows it by the name of the pseudo-header.
            let name = if name == "host" { ":authority".into() } else { name };
            compiled.headers.push(header_is(name, value(&header.value, is_regex)));
        }
    }
    let mut seen = BTreeSet::new();
    for parameter in condition.query_params.iter().flatten() {
        if seen.insert(parameter.name.as_str()) {
            let is_regex = matches!(parameter.r#type, Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression));
            let specifier = QueryParameterMatchSpecifier::StringMatch(value(&parameter.value, is_regex));
            compiled
                .query_parameters
                .push(QueryParameterMatcher { name: parameter.name.clone(), query_parameter_match_specifier: Some(specifier) });
        }
    }
    compiled
}

fn value(value: &str, is_regex: bool) -> StringMatcher {
    if is_regex { matches(MatchPattern::SafeRegex(regex(value))) } else { exactly(value) }
}

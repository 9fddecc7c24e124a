//! Sessions that keep to an endpoint (GEP-1619).
//!
//! Envoy says with each answer of another endpoint which one that was, and the client says so with its next requests: in a cookie, which
//! may end, or in a header. It knows no time since the last request, and no choice of a backend that would go before weights.

use std::collections::BTreeMap;
use std::mem::take;
use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3::TypedExtensionConfig;
use ambit_api::envoy::pb::envoy::config::route::v3::{Route, route::Action};
use ambit_api::envoy::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use ambit_api::envoy::pb::envoy::extensions::filters::http::stateful_session::v3::{StatefulSession, StatefulSessionPerRoute};
use ambit_api::envoy::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use ambit_api::envoy::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use ambit_api::envoy::pb::envoy::r#type::http::v3::Cookie;
use gateway_api::experimental::httproutes::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceType,
};

use super::super::backend;
use super::super::wire::{any, entries, seconds};
use super::action::parse_duration;
use super::matching::PathMatch;
use crate::index::{Index, ServiceRef};
use crate::source::NamespacedName;

/// The name of the HTTP filter, under which routes say what holds for them.
pub const FILTER: &str = "envoy.filters.http.stateful_session";

/// What stands for something else in a regular expression.
const META: &str = r".+*?()|[]{}^$\";

/// Adds to the route of a rule's match what the rule says of sessions, if it forwards. `at` is the rule's place in its route.
pub fn keep(compiled: &mut Route, of: &NamespacedName, at: usize, rule: &HttpRouteRules, condition: &HttpRouteRulesMatches) {
    let (Some(said), Some(Action::Route(_))) = (&rule.session_persistence, &compiled.action) else { return };
    // Sessions of one rule are none of another's.
    let own = || format!("ambit.{}.{}.{at}", of.namespace, of.name);
    attach(compiled, state(said, own, path(&PathMatch::of(condition))));
}

/// The same of a Service that everything which takes the route is sent to, where the rule says nothing: what an XBackendTrafficPolicy says.
/// The session is with the Service, whatever the path.
pub fn keep_with(compiled: &mut Route, index: &Index, service: &ServiceRef) {
    if !matches!(compiled.action, Some(Action::Route(_))) {
        return;
    }
    if let Some((said, own)) = backend::session(index, service) {
        attach(compiled, state(&said, || own, "/".to_owned()));
    }
}

/// The only Service that a rule of a route of this namespace sends to, if it says nothing of sessions itself.
pub fn sole_backend(rule: &HttpRouteRules, namespace: &str) -> Option<ServiceRef> {
    let mut backends = rule.backend_refs.iter().flatten().filter(|backend| backend.weight != Some(0));
    let (Some(only), None, None) = (backends.next(), backends.next(), &rule.session_persistence) else { return None };
    let is_service =
        matches!(only.group.as_deref(), None | Some("" | "core")) && only.kind.as_deref().is_none_or(|kind| kind == "Service");
    let namespace = only.namespace.as_deref().unwrap_or(namespace);
    is_service.then(|| ServiceRef::Kubernetes(NamespacedName::new(namespace, only.name.as_str())))
}

fn attach(compiled: &mut Route, state: TypedExtensionConfig) {
    let session = StatefulSession { session_state: Some(state), ..Default::default() };
    let per_route = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    let mut all: BTreeMap<_, _> = take(&mut compiled.typed_per_filter_config).into_iter().collect();
    all.insert(FILTER.to_owned(), any(&per_route));
    compiled.typed_per_filter_config = entries(&all);
}

/// What a session is kept by: of this name, or of the one that is its own, and a cookie for this path.
fn state(said: &HttpRouteRulesSessionPersistence, own: impl FnOnce() -> String, path: String) -> TypedExtensionConfig {
    let name = said.session_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(own);
    // Envoy finds both by these names.
    if said.r#type == Some(HttpRouteRulesSessionPersistenceType::Header) {
        let typed_config = Some(any(&HeaderBasedSessionState { name }));
        return TypedExtensionConfig { name: "envoy.http.stateful_session.header".into(), typed_config };
    }
    let cookie = Cookie { name, path, ttl: lasts(said).and_then(seconds), ..Default::default() };
    let typed_config = Some(any(&CookieBasedSessionState { cookie: Some(cookie) }));
    TypedExtensionConfig { name: "envoy.http.stateful_session.cookie".into(), typed_config }
}

/// The seconds after which a session by cookie ends, if it does.
fn lasts(said: &HttpRouteRulesSessionPersistence) -> Option<u64> {
    let time = parse_duration(said.absolute_timeout.as_deref()?)?;
    // Envoy counts whole seconds, and takes none of them for no end.
    (!time.is_zero()).then(|| time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// The path for which a client keeps the cookie: that of the match, of a regular expression the whole path elements before what stands for
/// something else.
fn path(matched: &PathMatch<'_>) -> String {
    let path = match *matched {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(expression) => literal(expression),
    };
    // What would end the cookie's path, or be no text of a header.
    let bad = path.find(|character: char| character == ';' || !character.is_ascii_graphic());
    let path = bad.map_or(path, |bad| elements(path, bad));
    if path.is_empty() { "/".into() } else { path.into() }
}

/// The path elements that all paths of an expression begin with.
fn literal(expression: &str) -> &str {
    let Some(first) = expression.find(|character: char| META.contains(character)) else { return expression };
    // It stands for the paths of each of its parts.
    if expression.contains('|') {
        return "";
    }
    // The character before these need not be there.
    let optional = expression.get(first..).is_some_and(|rest| rest.starts_with(['*', '?', '{']));
    elements(expression, if optional { first.saturating_sub(1) } else { first })
}

/// The whole path elements of the first `end` bytes.
fn elements(path: &str, end: usize) -> &str {
    let slash = path.get(..end).and_then(|before| before.rfind('/')).unwrap_or(0);
    path.get(..slash).unwrap_or_default()
}

/// What a rule says of sessions and is not carried out, or not as one might think: the field below the rule, and the reason.
pub fn remarks(rule: &HttpRouteRules) -> Vec<(&'static str, &'static str)> {
    let Some(said) = &rule.session_persistence else { return Vec::new() };
    if rule.filters.iter().flatten().any(|filter| filter.request_redirect.is_some()) {
        return vec![("sessionPersistence", "has no effect on a redirect")];
    }
    let mut remarks = Vec::new();
    if said.idle_timeout.is_some() {
        remarks.push(("sessionPersistence.idleTimeout", "has no effect"));
    }
    if said.absolute_timeout.as_deref().and_then(parse_duration).is_some_and(|time| time > Duration::ZERO) {
        if said.r#type == Some(HttpRouteRulesSessionPersistenceType::Header) {
            remarks.push(("sessionPersistence.absoluteTimeout", "has no effect on a header"));
        } else if !is_permanent(said) {
            remarks.push(("sessionPersistence.absoluteTimeout", "makes the cookie one that outlives its client's session"));
        }
    }
    if rule.backend_refs.iter().flatten().filter(|backend| backend.weight != Some(0)).count() > 1 {
        remarks.push(("sessionPersistence", "holds only within a backend, and weights choose one for each request"));
    }
    remarks
}

fn is_permanent(said: &HttpRouteRulesSessionPersistence) -> bool {
    use gateway_api::experimental::httproutes::HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as Lifetime;
    said.cookie_config.as_ref().is_some_and(|config| config.lifetime_type == Some(Lifetime::Permanent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(session: &str) -> TypedExtensionConfig {
        let said = serde_json::from_str(session).unwrap();
        state(&said, || "ambit.shop.cart.2".to_owned(), "/".to_owned())
    }

    fn cookie(session: &str) -> Cookie {
        use prost::Message;
        let state = of(session);
        assert_eq!(state.name, "envoy.http.stateful_session.cookie");
        CookieBasedSessionState::decode(state.typed_config.unwrap().value.as_slice()).unwrap().cookie.unwrap()
    }

    #[test]
    fn a_session_has_the_name_and_the_end_that_the_rule_gives_it() {
        let plain = cookie("{}");
        assert_eq!((plain.name.as_str(), plain.path.as_str(), plain.ttl), ("ambit.shop.cart.2", "/", None));
        let full = r#"{"sessionName": "cart", "absoluteTimeout": "1m500ms", "cookieConfig": {"lifetimeType": "Permanent"}}"#;
        assert_eq!((cookie(full).name.as_str(), cookie(full).ttl), ("cart", seconds(61)));
        assert_eq!(cookie(r#"{"absoluteTimeout": "0s"}"#).ttl, None);
        let header = of(r#"{"type": "Header", "sessionName": "x-session", "absoluteTimeout": "1m"}"#);
        assert_eq!(header.name, "envoy.http.stateful_session.header");
        assert_eq!(header.typed_config, Some(any(&HeaderBasedSessionState { name: "x-session".into() })));
    }

    #[test]
    fn a_cookie_is_kept_for_the_path_of_its_match() {
        for (matched, kept) in [
            (PathMatch::Prefix(""), "/"),
            (PathMatch::Prefix("/a/b"), "/a/b"),
            (PathMatch::Exact("/a/b"), "/a/b"),
            (PathMatch::Exact("/"), "/"),
            (PathMatch::Prefix("/a/b;c/d"), "/a"),
            (PathMatch::Prefix("/ä"), "/"),
            (PathMatch::Regex("/a/b"), "/a/b"),
            (PathMatch::Regex("/p1/p2/.*/p3"), "/p1/p2"),
            (PathMatch::Regex("/a/b[0-9]+"), "/a"),
            (PathMatch::Regex("/a/?b"), "/"),
            (PathMatch::Regex("/a/b|/c/d"), "/"),
            (PathMatch::Regex("(?i)/a/b"), "/"),
            (PathMatch::Regex("ä*"), "/"),
            (PathMatch::Regex(".*"), "/"),
        ] {
            assert_eq!(path(&matched), kept, "{matched:?}");
        }
    }

    #[test]
    fn a_route_of_which_several_filters_are_told_has_the_same_bytes_each_time() {
        use prost::Message;
        let rule = serde_json::from_str(r#"{"sessionPersistence": {}}"#).unwrap();
        let bytes = || {
            let others = BTreeMap::from(["a", "m", "z"].map(|name| (name.to_owned(), any(&Cookie::default()))));
            let action = Some(Action::Route(Default::default()));
            let mut route = Route { action, typed_per_filter_config: entries(&others), ..Default::default() };
            keep(&mut route, &NamespacedName::new("shop", "cart"), 0, &rule, &Default::default());
            assert_eq!(route.typed_per_filter_config.len(), 4);
            [route.clone().encode_to_vec(), route.encode_to_vec()]
        };
        let [first, copied] = bytes();
        assert_eq!(first, copied);
        for _ in 0..20 {
            assert_eq!(bytes(), [first.clone(), first.clone()]);
        }
    }
}

//! The CORS filter.

use std::collections::HashMap;

use ambit_api::envoy::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use gateway_api::experimental::httproutes::HttpRouteRulesFiltersCors;

use super::super::rbac::escape;
use super::super::wire::{Any, any, bool_value, entry, exactly, matches, regex};

/// The name of the HTTP filter, under which routes say what holds for them.
pub const FILTER: &str = "envoy.filters.http.cors";
/// The seconds that the specification gives where nothing is said of them.
const MAX_AGE: i32 = 5;

/// What a route says for the HTTP filter.
pub fn per_filter(filter: Option<&HttpRouteRulesFiltersCors>) -> HashMap<String, Any> {
    filter.map(|filter| entry(FILTER, any(&policy(filter)))).unwrap_or_default()
}

fn policy(filter: &HttpRouteRulesFiltersCors) -> CorsPolicy {
    let credentials = filter.allow_credentials == Some(true);
    let joined = |list: &Option<Vec<String>>| list.as_deref().unwrap_or_default().join(",");
    // To a page that sends credentials a star is the name of a header; the specification forbids to send it one.
    let exposed = filter.expose_headers.iter().flatten().filter(|name| !credentials || *name != "*");
    CorsPolicy {
        allow_origin_string_match: filter.allow_origins.iter().flatten().flat_map(|origin| origins(origin)).collect(),
        allow_methods: joined(&filter.allow_methods),
        allow_headers: joined(&filter.allow_headers),
        expose_headers: exposed.map(String::as_str).collect::<Vec<_>>().join(","),
        max_age: filter.max_age.unwrap_or(MAX_AGE).to_string(),
        allow_credentials: bool_value(credentials),
        // A preflight is a question to the mesh, which knows the answer: a service must not give another one.
        forward_not_matching_preflights: bool_value(false),
        ..Default::default()
    }
}

/// An origin as the specification writes it: with the scheme's own port or without it is the same one, and a star stands for any host
/// or for any labels before a domain. Browsers write schemes and hosts in lower case.
fn origins(origin: &str) -> Vec<StringMatcher> {
    let expression = |text: String| vec![matches(MatchPattern::SafeRegex(regex(text)))];
    let origin = origin.to_lowercase();
    let Some((scheme, rest)) = origin.split_once("://") else {
        return if origin == "*" { expression(".*".into()) } else { vec![exactly(origin)] };
    };
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(format!(":{port}"))));
    let port = port.filter(|port| port != own_port);
    if let Some(domain) = host.strip_prefix('*') {
        let any_host = if domain.is_empty() { r"(?:[^/:@]+|\[[0-9a-f:.]+\])" } else { "[^/:@]+" };
        let port = port.unwrap_or_else(|| format!("(?:{own_port})?"));
        return expression(format!("{scheme}://{any_host}{}{port}", escape(domain)));
    }
    match port {
        Some(port) => vec![exactly(format!("{scheme}://{host}{port}"))],
        None => vec![exactly(format!("{scheme}://{host}")), exactly(format!("{scheme}://{host}{own_port}"))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an origin of a browser is let in by one of the specification.
    fn lets(written: &str, origin: &str) -> bool {
        origins(written).iter().any(|test| match test.match_pattern.as_ref().unwrap() {
            MatchPattern::Exact(text) => text == origin,
            MatchPattern::SafeRegex(expression) => {
                ::regex::Regex::new(&format!("^(?:{})$", expression.regex)).unwrap().is_match(origin)
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_origin_is_its_scheme_host_and_port_with_the_schemes_own_port_left_out_or_not() {
        for (written, let_in, kept_out) in [
            (
                "https://a.example",
                &["https://a.example", "https://a.example:443"][..],
                &["http://a.example", "https://a.example:8443"][..],
            ),
            ("https://A.Example:443", &["https://a.example", "https://a.example:443"], &["https://a.example:80"]),
            ("http://a.example:8080", &["http://a.example:8080"], &["http://a.example", "http://a.example:80"]),
            (
                "http://*.a.example",
                &["http://b.a.example", "http://c.b.a.example:80"],
                &["http://a.example", "http://b.axexample", "http://b.a.example:81"],
            ),
            (
                "https://*.a.example:8443",
                &["https://b.a.example:8443"],
                &["https://b.a.example", "https://x:8443/.a.example:8443"],
            ),
            (
                "https://*",
                &["https://anything", "https://[::1]", "https://anything:443"],
                &["http://anything", "https://anything:8443", "null"],
            ),
            ("http://*:81", &["http://a:81"], &["http://a"]),
            ("*", &["https://a:1", "http://b", "null"], &[]),
        ] {
            for origin in let_in {
                assert!(lets(written, origin), "{written} keeps out {origin}");
            }
            for origin in kept_out {
                assert!(!lets(written, origin), "{written} lets in {origin}");
            }
        }
    }

    fn of(filter: &str) -> CorsPolicy {
        policy(&serde_json::from_str(filter).unwrap())
    }

    #[test]
    fn lists_become_headers_and_what_is_not_said_has_the_values_of_the_specification() {
        let full = of(
            r#"{"allowOrigins": ["*"], "allowMethods": ["GET", "PUT"], "allowHeaders": ["a", "b"], "exposeHeaders": ["c", "*"], "maxAge": 60}"#,
        );
        let texts = [&full.allow_methods, &full.allow_headers, &full.expose_headers, &full.max_age];
        assert_eq!(texts, ["GET,PUT", "a,b", "c,*", "60"]);
        assert_eq!(full.allow_credentials, bool_value(false));
        let least = of("{}");
        let texts = [&least.allow_methods, &least.allow_headers, &least.expose_headers, &least.max_age];
        assert_eq!(texts, ["", "", "", "5"]);
        assert!(least.allow_origin_string_match.is_empty() && least.forward_not_matching_preflights == bool_value(false));
    }

    #[test]
    fn with_credentials_no_star_is_exposed() {
        let policy = of(r#"{"allowCredentials": true, "exposeHeaders": ["*", "c"]}"#);
        assert_eq!((policy.expose_headers.as_str(), policy.allow_credentials), ("c", bool_value(true)));
    }
}

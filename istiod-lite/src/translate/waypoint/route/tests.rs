use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::route::v3::{RedirectAction, RouteAction};
use gateway_api::experimental::httproutes::{HttpRouteRulesFiltersRequestRedirect, HttpRouteRulesFiltersUrlRewrite};

use super::action::parse_duration;
use super::matching::PathMatch;
use super::redirect::{redirect, rewrite};

fn redirected(filter: &str, service_port: u16, secure: bool) -> RedirectAction {
    let filter: HttpRouteRulesFiltersRequestRedirect = serde_json::from_str(filter).unwrap();
    redirect(&filter, &PathMatch::Prefix("/foo"), service_port, secure).unwrap()
}

#[test]
fn a_redirect_writes_the_port_only_when_the_scheme_does_not_imply_it() {
    let cases = [
        (r#"{"hostname": "h"}"#, 80, 0),
        (r#"{"hostname": "h"}"#, 8080, 8080),
        (r#"{"hostname": "h", "scheme": "https"}"#, 8080, 0),
        (r#"{"hostname": "h", "scheme": "http"}"#, 8080, 0),
        (r#"{"hostname": "h", "scheme": "https", "port": 443}"#, 80, 0),
        (r#"{"hostname": "h", "scheme": "https", "port": 8443}"#, 80, 8443),
        (r#"{"hostname": "h", "port": 80}"#, 8080, 0),
        // Envoy keeps the port that the request names, unless told another.
        (r#"{"scheme": "https"}"#, 8080, 443),
        (r#"{"scheme": "https"}"#, 80, 0),
    ];
    for (filter, service_port, written) in cases {
        assert_eq!(redirected(filter, service_port, false).port_redirect, written, "{filter} on {service_port}");
    }
    let in_tls = [
        (r#"{"hostname": "h"}"#, 443, 0),
        (r#"{"hostname": "h"}"#, 8443, 8443),
        (r#"{"scheme": "http"}"#, 443, 0),
        (r"{}", 8443, 8443),
    ];
    for (filter, service_port, written) in in_tls {
        assert_eq!(redirected(filter, service_port, true).port_redirect, written, "{filter} on {service_port} in TLS");
    }
}

fn rewritten(path: &PathMatch<'_>, replacement: &str) -> Option<RouteAction> {
    let filter = serde_json::json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": replacement } });
    let filter: HttpRouteRulesFiltersUrlRewrite = serde_json::from_value(filter).unwrap();
    let mut action = RouteAction::default();
    rewrite(&mut action, &filter, path).map(|()| action)
}

#[test]
fn a_prefix_is_replaced_whatever_the_trailing_slashes() {
    for replacement in ["/xyz", "/xyz/"] {
        assert_eq!(rewritten(&PathMatch::Prefix("/foo"), replacement).unwrap().prefix_rewrite, "/xyz");
        assert_eq!(rewritten(&PathMatch::Prefix(""), replacement).unwrap().prefix_rewrite, "/xyz/");
    }
    for replacement in ["", "/"] {
        let regex = rewritten(&PathMatch::Prefix("/foo.x"), replacement).unwrap().regex_rewrite.unwrap();
        assert_eq!((regex.pattern.unwrap().regex.as_str(), regex.substitution.as_str()), (r"^/foo\.x(/+|$)", "/"));
    }
}

#[test]
fn a_prefix_cannot_be_replaced_where_none_is_matched() {
    assert_eq!(rewritten(&PathMatch::Exact("/foo"), "/xyz"), None);
    assert_eq!(rewritten(&PathMatch::Regex("/foo.*"), "/xyz"), None);
}

#[test]
fn durations_are_those_of_gep_2257() {
    for (text, milliseconds) in [("0s", 0), ("1s500ms", 1500), ("2m", 120_000), ("1h1m1s1ms", 3_661_001)] {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["1", "s", "1d", "-1s", "1.5s", "99999999999999999999s"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

//! Redirects and rewrites.

use ambit_api::envoy::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use ambit_api::envoy::pb::envoy::config::route::v3::{RedirectAction, RouteAction, route_action::HostRewriteSpecifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use gateway_api::experimental::httproutes::{
    HttpRouteRulesFiltersRequestRedirect, HttpRouteRulesFiltersRequestRedirectPathType as RedirectPath,
    HttpRouteRulesFiltersRequestRedirectScheme as Scheme, HttpRouteRulesFiltersUrlRewrite,
    HttpRouteRulesFiltersUrlRewritePathType as RewritePath,
};

use super::super::rbac::escape;
use super::super::wire::regex;
use super::matching::PathMatch;

/// What becomes of a path.
enum PathChange {
    /// Replace all of it.
    Whole(String),
    /// Replace the matched prefix by this text.
    Prefix(String),
    /// Replace what the expression finds.
    Regex(RegexMatchAndSubstitute),
}

/// A redirect for requests to a service port, which come in TLS if `secure`; `None` when its path change needs a prefix that the match does not have.
pub fn redirect(
    filter: &HttpRouteRulesFiltersRequestRedirect,
    path: &PathMatch<'_>,
    service_port: u16,
    secure: bool,
) -> Option<RedirectAction> {
    let mut action = RedirectAction { response_code: code(filter.status_code)?.into(), ..Default::default() };
    let scheme = filter.scheme.as_ref().map(|scheme| match scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
    });
    action.scheme_rewrite_specifier = scheme.map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.into()));
    action.host_redirect = filter.hostname.clone().unwrap_or_default();
    action.port_redirect = port(filter, scheme, (service_port, secure));
    if let Some(change) = &filter.path {
        let whole = match change.r#type {
            RedirectPath::ReplaceFullPath => change.replace_full_path.as_deref(),
            RedirectPath::ReplacePrefixMatch => None,
        };
        let change = match whole {
            Some(whole) => PathChange::Whole(whole.into()),
            None => prefix_change(path, change.replace_prefix_match.as_deref()?)?,
        };
        action.path_rewrite_specifier = Some(match change {
            PathChange::Whole(path) => PathRewriteSpecifier::PathRedirect(path),
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            PathChange::Regex(rewrite) => PathRewriteSpecifier::RegexRewrite(rewrite),
        });
    }
    Some(action)
}

/// The port to write, 0 to write none: the one asked for, else the scheme's well-known one when there is a scheme, else
/// the service's. The well-known port of the resulting scheme is left out.
fn port(filter: &HttpRouteRulesFiltersRequestRedirect, scheme: Option<&str>, (service_port, secure): (u16, bool)) -> u32 {
    let well_known = if scheme.map_or(secure, |scheme| scheme == "https") { 443 } else { 80 };
    let asked = filter.port.and_then(|port| u32::try_from(port).ok());
    let port = asked.unwrap_or_else(|| if scheme.is_some() { well_known } else { service_port.into() });
    // Without a host name Envoy keeps the request's own port, which for these services is written out.
    let kept = filter.hostname.is_none() && !matches!(service_port, 80 | 443);
    if port == well_known && !kept { 0 } else { port }
}

fn code(status: Option<i64>) -> Option<RedirectResponseCode> {
    Some(match status {
        Some(301) => RedirectResponseCode::MovedPermanently,
        None | Some(302) => RedirectResponseCode::Found,
        Some(303) => RedirectResponseCode::SeeOther,
        Some(307) => RedirectResponseCode::TemporaryRedirect,
        Some(308) => RedirectResponseCode::PermanentRedirect,
        Some(_) => return None,
    })
}

/// Puts a rewrite into a route action; `None` when it needs a prefix that the match does not have.
pub fn rewrite(action: &mut RouteAction, filter: &HttpRouteRulesFiltersUrlRewrite, path: &PathMatch<'_>) -> Option<()> {
    if let Some(host) = &filter.hostname {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
    }
    let Some(change) = &filter.path else { return Some(()) };
    let change = match change.r#type {
        RewritePath::ReplaceFullPath => PathChange::Whole(change.replace_full_path.clone()?),
        RewritePath::ReplacePrefixMatch => prefix_change(path, change.replace_prefix_match.as_deref()?)?,
    };
    match change {
        PathChange::Whole(path) => action.regex_rewrite = Some(substitute("^/.*$", &path)),
        PathChange::Prefix(prefix) => action.prefix_rewrite = prefix,
        PathChange::Regex(rewrite) => action.regex_rewrite = Some(rewrite),
    }
    Some(())
}

/// `/foo/bar` → `/xyz/bar`, whatever the trailing slashes of prefix and replacement; `/foo` with `/` or nothing → `/`.
fn prefix_change(path: &PathMatch<'_>, replacement: &str) -> Option<PathChange> {
    let PathMatch::Prefix(prefix) = path else { return None };
    let replacement = replacement.trim_end_matches('/');
    Some(match (*prefix, replacement) {
        ("", "") => PathChange::Prefix("/".into()),
        ("", replacement) => PathChange::Prefix(format!("{replacement}/")),
        (prefix, "") => PathChange::Regex(substitute(&format!("^{}(/+|$)", escape(prefix)), "/")),
        (_, replacement) => PathChange::Prefix(replacement.into()),
    })
}

/// RE2 takes a backslash in the replacement for a reference to a group.
pub fn substitute(pattern: &str, replacement: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(regex(pattern)), substitution: replacement.replace('\\', r"\\") }
}

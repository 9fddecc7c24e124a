//! Values of HTTPRoute and GRPCRoute (the limits of the Gateway API's schemas).

use ambit_model::route::Pattern;
use gateway_api::Duration;
use gateway_api::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType as GrpcHeaderType,
    GrpcRouteRulesMatchesMethodType as MethodType,
};
use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteRules, HttpRouteRulesFilters, HttpRouteRulesFiltersType as Filter, HttpRouteRulesMatches,
    HttpRouteRulesMatchesHeadersType as HeaderType, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteRulesMatchesQueryParamsType as QueryType,
};

use super::{Errors, filter, session};

/// The greatest weight a backend may have.
const MAX_WEIGHT: i32 = 1_000_000;
/// The longest regular expression: no field of the schemas takes more.
const MAX_PATTERN: usize = 4096;

pub(super) fn http(route: &HttpRoute, errors: &mut Errors) {
    for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
        let path = format!("spec.rules[{index}]");
        for (index, entry) in rule.matches.iter().flatten().enumerate() {
            http_match(entry, &format!("{path}.matches[{index}]"), errors);
        }
        for (index, backend) in rule.backend_refs.iter().flatten().enumerate() {
            let path = format!("{path}.backendRefs[{index}]");
            let service = is_service(backend.group.as_deref(), backend.kind.as_deref());
            backend_ref(errors, &path, service, backend.port, backend.weight);
        }
        for (index, entry) in rule.filters.iter().flatten().enumerate() {
            http_filter(entry, &format!("{path}.filters[{index}]"), errors);
        }
        http_rule(rule, &path, errors);
    }
}

fn http_match(entry: &HttpRouteRulesMatches, path: &str, errors: &mut Errors) {
    if let Some(matched) = &entry.path {
        let value = matched.value.as_deref().unwrap_or("/");
        let path = format!("{path}.path.value");
        if matches!(matched.r#type, Some(PathType::RegularExpression)) {
            pattern(errors, &path, value);
        } else {
            errors.check(value.starts_with('/'), &path, || format!("{value:?} must start with '/'"));
            for bad in ["//", "/./", "/../", "%2f", "%2F", "#"] {
                errors.check(!value.contains(bad), &path, || format!("{value:?} must not contain {bad:?}"));
            }
        }
        errors.check(value.len() <= 1024, &path, || "must be at most 1024 bytes".into());
    }
    for (index, header) in entry.headers.iter().flatten().enumerate() {
        header_name(errors, &format!("{path}.headers[{index}].name"), &header.name);
        if matches!(header.r#type, Some(HeaderType::RegularExpression)) {
            pattern(errors, &format!("{path}.headers[{index}].value"), &header.value);
        }
    }
    for (index, query) in entry.query_params.iter().flatten().enumerate() {
        header_name(errors, &format!("{path}.queryParams[{index}].name"), &query.name);
        if matches!(query.r#type, Some(QueryType::RegularExpression)) {
            pattern(errors, &format!("{path}.queryParams[{index}].value"), &query.value);
        }
    }
}

fn http_filter(entry: &HttpRouteRulesFilters, path: &str, errors: &mut Errors) {
    let (field, given) = match entry.r#type {
        Filter::RequestHeaderModifier => ("requestHeaderModifier", entry.request_header_modifier.is_some()),
        Filter::ResponseHeaderModifier => ("responseHeaderModifier", entry.response_header_modifier.is_some()),
        Filter::RequestMirror => ("requestMirror", entry.request_mirror.is_some()),
        Filter::RequestRedirect => ("requestRedirect", entry.request_redirect.is_some()),
        Filter::UrlRewrite => ("urlRewrite", entry.url_rewrite.is_some()),
        Filter::ExtensionRef => ("extensionRef", entry.extension_ref.is_some()),
        Filter::Cors => ("cors", entry.cors.is_some()),
        Filter::ExternalAuth => ("externalAuth", entry.external_auth.is_some()),
    };
    errors.check(given, path, || format!("the filter's type asks for the field {field}"));
    for (field, names) in [
        (
            "requestHeaderModifier",
            entry.request_header_modifier.as_ref().map(|change| {
                let set = change.set.iter().flatten().map(|header| header.name.as_str());
                let add = change.add.iter().flatten().map(|header| header.name.as_str());
                set.chain(add).chain(change.remove.iter().flatten().map(String::as_str)).collect::<Vec<_>>()
            }),
        ),
        (
            "responseHeaderModifier",
            entry.response_header_modifier.as_ref().map(|change| {
                let set = change.set.iter().flatten().map(|header| header.name.as_str());
                let add = change.add.iter().flatten().map(|header| header.name.as_str());
                set.chain(add).chain(change.remove.iter().flatten().map(String::as_str)).collect::<Vec<_>>()
            }),
        ),
    ] {
        for name in names.into_iter().flatten() {
            header_name(errors, &format!("{path}.{field}"), name);
        }
    }
    if let Some(mirror) = &entry.request_mirror {
        filter::mirror(mirror, &format!("{path}.requestMirror"), errors);
    }
    if let Some(cors) = &entry.cors {
        filter::cors(cors, &format!("{path}.cors"), errors);
    }
    if let Some(redirect) = &entry.request_redirect {
        if let Some(port) = redirect.port {
            errors.port(&format!("{path}.requestRedirect.port"), port);
        }
        let status = redirect.status_code.unwrap_or(302);
        errors.check(matches!(status, 301 | 302 | 303 | 307 | 308), &format!("{path}.requestRedirect.statusCode"), || {
            format!("{status} is not a redirect status")
        });
    }
}

fn http_rule(rule: &HttpRouteRules, path: &str, errors: &mut Errors) {
    let filters = rule.filters.as_deref().unwrap_or_default();
    let redirects = filters.iter().any(|filter| filter.request_redirect.is_some());
    let backends = rule.backend_refs.as_ref().is_some_and(|backends| !backends.is_empty());
    errors.check(!(redirects && backends), &format!("{path}.filters"), || {
        "RequestRedirect must not be used together with backendRefs".into()
    });
    errors.check(filters.iter().filter(|filter| filter.cors.is_some()).count() <= 1, &format!("{path}.filters"), || {
        "CORS must not be used more than once".into()
    });
    let rewrites = filters.iter().any(|filter| filter.url_rewrite.is_some());
    errors.check(!(redirects && rewrites), &format!("{path}.filters"), || {
        "RequestRedirect and URLRewrite must not be used together".into()
    });
    if let Some(timeouts) = &rule.timeouts {
        let request = duration(errors, &format!("{path}.timeouts.request"), timeouts.request.as_deref());
        let backend = duration(errors, &format!("{path}.timeouts.backendRequest"), timeouts.backend_request.as_deref());
        if let (Some(request), Some(backend)) = (request, backend) {
            errors.check(request == 0 || backend <= request, &format!("{path}.timeouts.backendRequest"), || {
                "must not be longer than the request timeout".into()
            });
        }
    }
    session::http(rule.session_persistence.as_ref(), path, errors);
    if let Some(retry) = &rule.retry {
        duration(errors, &format!("{path}.retry.backoff"), retry.backoff.as_deref());
        for (index, code) in retry.codes.iter().flatten().enumerate() {
            errors.check((400..=599).contains(code), &format!("{path}.retry.codes[{index}]"), || {
                format!("{code} is not a status to retry (400 to 599)")
            });
        }
        errors.check(retry.attempts.is_none_or(|attempts| attempts >= 0), &format!("{path}.retry.attempts"), || {
            "must not be negative".into()
        });
    }
}

/// A duration in nanoseconds; an error is noted.
pub(super) fn duration(errors: &mut Errors, path: &str, text: Option<&str>) -> Option<u128> {
    let text = text?;
    let parsed = text.parse::<Duration>();
    errors.check(parsed.is_ok(), path, || format!("{text:?} is not a duration such as 10s or 1m30s"));
    parsed.ok().map(|duration| duration.as_nanos())
}

pub(super) fn grpc(route: &GrpcRoute, errors: &mut Errors) {
    for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
        for (position, entry) in rule.matches.iter().flatten().enumerate() {
            grpc_match(entry, &format!("spec.rules[{index}].matches[{position}]"), errors);
        }
        for (position, backend) in rule.backend_refs.iter().flatten().enumerate() {
            let path = format!("spec.rules[{index}].backendRefs[{position}]");
            let service = is_service(backend.group.as_deref(), backend.kind.as_deref());
            backend_ref(errors, &path, service, backend.port, backend.weight);
        }
        session::grpc(rule.session_persistence.as_ref(), &format!("spec.rules[{index}]"), errors);
    }
}

fn grpc_match(entry: &GrpcRouteRulesMatches, path: &str, errors: &mut Errors) {
    if let Some(method) = &entry.method {
        let path = format!("{path}.method");
        let given = [&method.service, &method.method].into_iter().flatten().any(|name| !name.is_empty());
        errors.check(given, &path, || "must have a service or a method".into());
        for (field, value) in [("service", &method.service), ("method", &method.method)] {
            let Some(value) = value else { continue };
            let path = format!("{path}.{field}");
            if matches!(method.r#type, Some(MethodType::RegularExpression)) {
                pattern(errors, &path, value);
            } else {
                let good = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
                errors.check(good, &path, || format!("{value:?} is no name of a gRPC {field}"));
            }
        }
    }
    for (index, header) in entry.headers.iter().flatten().enumerate() {
        header_name(errors, &format!("{path}.headers[{index}].name"), &header.name);
        if matches!(header.r#type, Some(GrpcHeaderType::RegularExpression)) {
            pattern(errors, &format!("{path}.headers[{index}].value"), &header.value);
        }
    }
}

pub(super) fn is_service(group: Option<&str>, kind: Option<&str>) -> bool {
    matches!(group, None | Some("")) && matches!(kind, None | Some("Service"))
}

pub(super) fn backend_ref(errors: &mut Errors, path: &str, service: bool, port: Option<i32>, weight: Option<i32>) {
    match port {
        Some(port) => errors.port(&format!("{path}.port"), port),
        None => errors.check(!service, &format!("{path}.port"), || "required for a Service".into()),
    }
    if let Some(weight) = weight {
        errors.check((0..=MAX_WEIGHT).contains(&weight), &format!("{path}.weight"), || {
            format!("{weight} is not a weight (0 to {MAX_WEIGHT})")
        });
    }
}

/// A regular expression, as a waypoint takes it; the syntax is that of RE2, which proxies use, but for Unicode details.
pub(super) fn pattern(errors: &mut Errors, path: &str, text: &str) {
    if text.len() > MAX_PATTERN {
        // Read, a character of it may be kilobytes; that it compiles to too much is found out only after that.
        return errors.add(path, format!("must be at most {MAX_PATTERN} bytes"));
    }
    let Err(error) = Pattern::new(text) else { return };
    // The library draws a picture of the place; its last line is the reason.
    let reason = error.to_string();
    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    errors.add(path, format!("{text:?} is not a regular expression: {reason}"));
}

/// A token of RFC 9110, section 5.6.2.
pub(super) fn header_name(errors: &mut Errors, path: &str, name: &str) {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    errors.check(!name.is_empty() && name.bytes().all(token), path, || format!("{name:?} is not a header name"));
}

//! Values of single filters of HTTPRoute and GRPCRoute.

use gateway_api::experimental::httproutes::{HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestMirror};

use super::Errors;
use super::route::{backend_ref, header_name, is_service};

/// Entries in a list of the CORS filter.
const MAX_ENTRIES: usize = 64;
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

pub(super) fn cors(filter: &HttpRouteRulesFiltersCors, path: &str, errors: &mut Errors) {
    for (field, list, alone) in [
        ("allowOrigins", &filter.allow_origins, true),
        ("allowMethods", &filter.allow_methods, true),
        ("allowHeaders", &filter.allow_headers, true),
        ("exposeHeaders", &filter.expose_headers, false),
    ] {
        let list = list.as_deref().unwrap_or_default();
        let path = format!("{path}.{field}");
        errors.at_most(MAX_ENTRIES, &path, list.len());
        let mixed = alone && list.len() > 1 && list.iter().any(|entry| entry == "*");
        errors.check(!mixed, &path, || "\"*\" must be the only entry".into());
        for (index, entry) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match field {
                "allowOrigins" => errors.check(is_origin(entry), &path, || {
                    format!("{entry:?} is not an origin such as https://example.com, https://*.example.com:8443 or *")
                }),
                "allowMethods" => errors.check(METHODS.contains(&entry.as_str()), &path, || {
                    format!("{entry:?} is not a method; methods are written in capitals")
                }),
                _ => header_name(errors, &path, entry),
            }
        }
    }
    errors.check(filter.max_age.is_none_or(|seconds| seconds >= 1), &format!("{path}.maxAge"), || "must be at least 1".into());
}

pub(super) fn mirror(filter: &HttpRouteRulesFiltersRequestMirror, path: &str, errors: &mut Errors) {
    let to = &filter.backend_ref;
    let service = is_service(to.group.as_deref(), to.kind.as_deref());
    backend_ref(errors, &format!("{path}.backendRef"), service, to.port, None);
    errors.check(filter.percent.is_none() || filter.fraction.is_none(), path, || "has either percent or fraction".into());
    errors.check(filter.percent.is_none_or(|percent| (0..=100).contains(&percent)), &format!("{path}.percent"), || {
        "must be between 0 and 100".into()
    });
    if let Some(fraction) = &filter.fraction {
        let denominator = fraction.denominator.unwrap_or(100);
        errors.check(denominator >= 1, &format!("{path}.fraction.denominator"), || "must be at least 1".into());
        errors.check((0..=denominator).contains(&fraction.numerator), &format!("{path}.fraction.numerator"), || {
            format!("must be between 0 and the denominator, {denominator}")
        });
    }
}

/// `*`, or a scheme and a host, whose first label or all may be `*`, and a port or none. The schema knows no IPv6 addresses here.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let domain = host.strip_prefix("*.").unwrap_or(if host == "*" { "any" } else { host });
    let label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    domain.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

//! What of a VirtualService is not carried out, each part by its name. Requests that a rule with such a part is for are answered with 500: what
//! it asks for is not known, and they must not go elsewhere for that.

use super::Errors;
use super::route::pattern;
use crate::source::crd::destination::as_time;
use crate::source::crd::virtual_service::{
    Destination, HeaderOperations, Headers, HttpMatch, HttpRule, MESH, Others, Percent, Retries, StringMatch, VirtualService,
};
use crate::source::typed::FieldError;

/// What becomes of requests.
const ANSWERED: &str = "it is not carried out: requests that the rule is for are answered with 500";
/// As of a backend of an HTTPRoute.
const MOST_WEIGHT: i64 = 1_000_000;
/// The longest body of an answer that Envoy takes, bytes.
const LONGEST: usize = 4096;

/// The parts that are not carried out, or cannot be what they are.
pub(crate) fn not_routed(object: &VirtualService) -> Vec<FieldError> {
    let mut found = Errors::default();
    let spec = &object.spec;
    found.check(!spec.hosts.is_empty(), "spec.hosts", || "must not be empty".into());
    for (at, gateway) in spec.gateways.iter().enumerate().filter(|(_, gateway)| *gateway != MESH) {
        found.add(
            format!("spec.gateways[{at}]"),
            format!(
                "{gateway:?}: it holds in the mesh alone; attach an HTTPRoute to a Gateway of the Gateway API for clients outside"
            ),
        );
    }
    if !spec.is_for_mesh() {
        return found.0;
    }
    for (at, namespace) in spec.export_to.iter().enumerate() {
        found.check(matches!(namespace.as_str(), "*" | "."), &format!("spec.exportTo[{at}]"), || {
            format!("{namespace:?}: it holds for whoever goes through the waypoint of its host, so for \"*\"")
        });
    }
    for field in spec.others.keys() {
        found.add(format!("spec.{field}"), "it has no effect: connections go on to the Service; write a TCPRoute or a TLSRoute");
    }
    for (at, rule) in spec.http.iter().enumerate() {
        found.0.extend(faults_of_rule(rule, &format!("spec.http[{at}]")));
    }
    found.0
}

/// Why a rule is not carried out, if it is not.
pub(crate) fn faults_of_rule(rule: &HttpRule, path: &str) -> Vec<FieldError> {
    let mut found = Errors::default();
    unknown(&mut found, path, &rule.others);
    for (at, condition) in rule.conditions.iter().enumerate() {
        matching(condition, &format!("{path}.match[{at}]"), &mut found);
    }
    let ends = [!rule.route.is_empty(), rule.redirect.is_some(), rule.direct_response.is_some()];
    let one = ends.iter().filter(|there| **there).count() == 1 || rule.others.contains_key("delegate");
    found.check(one, path, || "it needs one of route, redirect and directResponse".into());
    for (at, to) in rule.route.iter().enumerate() {
        let path = format!("{path}.route[{at}]");
        unknown(&mut found, &path, &to.others);
        destination(&to.destination, &format!("{path}.destination"), &mut found);
        found.check(to.weight.is_none_or(|weight| (0..=MOST_WEIGHT).contains(&weight)), &format!("{path}.weight"), || {
            format!("it is no weight (0 to {MOST_WEIGHT})")
        });
        headers(to.headers.as_ref(), &format!("{path}.headers"), &mut found);
    }
    let some = rule.route.iter().any(|to| to.weight.is_some_and(|weight| weight != 0));
    found.check(rule.route.len() < 2 || some, &format!("{path}.route"), || {
        "of several none has a weight, so that none is sent to".into()
    });
    headers(rule.headers.as_ref(), &format!("{path}.headers"), &mut found);
    time(&mut found, &format!("{path}.timeout"), rule.timeout.as_deref(), true);
    if let Some(retries) = &rule.retries {
        self::retries(retries, &format!("{path}.retries"), &mut found);
    }
    answers(rule, path, &mut found);
    copies(rule, path, &mut found);
    faults(rule, path, &mut found);
    found.0
}

fn unknown(found: &mut Errors, path: &str, others: &Others) {
    for field in others.keys() {
        found.add(format!("{path}.{field}"), ANSWERED);
    }
}

fn matching(said: &HttpMatch, path: &str, found: &mut Errors) {
    unknown(found, path, &said.others);
    for (field, test) in [("uri", &said.uri), ("method", &said.method), ("authority", &said.authority)] {
        if let Some(test) = test {
            text(test, &format!("{path}.{field}"), found);
        }
    }
    for (field, tests) in [("headers", &said.headers), ("withoutHeaders", &said.without_headers)] {
        for (name, test) in tests {
            let path = format!("{path}.{field}[{name}]");
            let pseudo = matches!(name.as_str(), ":authority" | ":method" | ":path");
            found.check(pseudo || is_header(name), &path, || format!("{name:?} is no name of a header"));
            text(test, &path, found);
        }
    }
    for (name, test) in &said.query_params {
        let path = format!("{path}.queryParams[{name}]");
        found.check((1..=1024).contains(&name.len()), &path, || "it is no name of a parameter".into());
        text(test, &path, found);
    }
    found.check(said.port.is_none_or(|port| (1..=65535).contains(&port)), &format!("{path}.port"), || {
        "it is not a port (1 to 65535)".into()
    });
}

fn text(test: &StringMatch, path: &str, found: &mut Errors) {
    unknown(found, path, &test.others);
    let said = [&test.exact, &test.prefix, &test.regex];
    found.check(said.iter().filter(|test| test.is_some()).count() <= 1, path, || {
        "it says more than one of exact, prefix and regex".into()
    });
    if let Some(expression) = &test.regex {
        let path = format!("{path}.regex");
        found.check(!expression.is_empty(), &path, || "must not be empty".into());
        pattern(found, &path, expression);
    }
}

/// Whether it is a regular expression that a waypoint takes: with one that it does not, it would refuse a whole table of routes.
pub(crate) fn is_pattern(text: &str) -> bool {
    let mut found = Errors::default();
    pattern(&mut found, "", text);
    !text.is_empty() && found.0.is_empty()
}

fn is_header(name: &str) -> bool {
    name.parse::<http::HeaderName>().is_ok()
}

fn destination(said: &Destination, path: &str, found: &mut Errors) {
    unknown(found, path, &said.others);
    found.check(!said.host.is_empty(), &format!("{path}.host"), || "must not be empty".into());
}

fn headers(said: Option<&Headers>, path: &str, found: &mut Errors) {
    let Some(said) = said else { return };
    unknown(found, path, &said.others);
    for (direction, changes) in [("request", &said.request), ("response", &said.response)] {
        operations(changes, &format!("{path}.{direction}"), found);
    }
}

fn operations(changes: &HeaderOperations, path: &str, found: &mut Errors) {
    unknown(found, path, &changes.others);
    let written = changes.set.iter().chain(&changes.add);
    let names = written.clone().map(|(name, _)| name).chain(&changes.remove);
    for name in names {
        let host = name.eq_ignore_ascii_case("host");
        found.check(is_header(name) && !host, path, || {
            format!("{name:?} is no header that is changed here; of the host rewrite.authority says it")
        });
    }
    for (name, value) in written {
        let good = http::HeaderValue::from_str(value).is_ok() && !value.contains('%');
        found.check(good, path, || format!("{name}: {value:?} has a placeholder (%), or what no header has"));
    }
}

/// What they are for is another matter (`retry_on`).
fn retries(said: &Retries, path: &str, found: &mut Errors) {
    unknown(found, path, &said.others);
    found.check(u32::try_from(said.attempts).is_ok(), &format!("{path}.attempts"), || "it is no number of things".into());
    time(found, &format!("{path}.perTryTimeout"), said.per_try_timeout.as_deref(), true);
    time(found, &format!("{path}.backoff"), said.backoff.as_deref(), false);
}

/// What is said to the client, or said otherwise to the endpoint.
fn answers(rule: &HttpRule, path: &str, found: &mut Errors) {
    if let Some(redirect) = &rule.redirect {
        let path = format!("{path}.redirect");
        unknown(found, &path, &redirect.others);
        found.check(
            matches!(redirect.redirect_code, None | Some(301 | 302 | 303 | 307 | 308)),
            &format!("{path}.redirectCode"),
            || "it is none of 301, 302, 303, 307 and 308".into(),
        );
        found.check(redirect.port.is_none_or(|port| (1..=65535).contains(&port)), &format!("{path}.port"), || {
            "it is not a port (1 to 65535)".into()
        });
        for (field, said) in [("authority", &redirect.authority), ("uri", &redirect.uri), ("scheme", &redirect.scheme)] {
            written(said.as_ref(), &format!("{path}.{field}"), found);
        }
        found.check(redirect.uri.as_ref().is_none_or(|uri| uri.starts_with('/')), &format!("{path}.uri"), || {
            "it does not begin with a slash".into()
        });
    }
    if let Some(answer) = &rule.direct_response {
        let path = format!("{path}.directResponse");
        unknown(found, &path, &answer.others);
        if let Some(body) = &answer.body {
            unknown(found, &format!("{path}.body"), &body.others);
            let short = body.string.as_ref().is_none_or(|text| text.len() <= LONGEST);
            found.check(short, &format!("{path}.body.string"), || format!("it is longer than {LONGEST} bytes"));
        }
        found.check((200..=599).contains(&answer.status), &format!("{path}.status"), || "it is no status (200 to 599)".into());
    }
    if let Some(rewrite) = &rule.rewrite {
        let path = format!("{path}.rewrite");
        unknown(found, &path, &rewrite.others);
        found.check(!rule.route.is_empty(), &path, || "only what is sent on is rewritten".into());
        for (field, said) in [("authority", &rewrite.authority), ("uri", &rewrite.uri)] {
            written(said.as_ref(), &format!("{path}.{field}"), found);
        }
        let by_regex = rule.conditions.iter().any(|condition| condition.uri.as_ref().is_some_and(|uri| uri.regex.is_some()));
        let uri = rewrite.uri.as_ref();
        found.check(uri.is_none_or(|uri| !by_regex && uri.starts_with('/')), &format!("{path}.uri"), || {
            "it begins with a slash, and takes the place of a prefix or of a whole path, not of what a regular expression matched".into()
        });
    }
    if let Some(cors) = &rule.cors_policy {
        let path = format!("{path}.corsPolicy");
        unknown(found, &path, &cors.others);
        for (at, origin) in cors.allow_origins.iter().enumerate() {
            text(origin, &format!("{path}.allowOrigins[{at}]"), found);
        }
        time(found, &format!("{path}.maxAge"), cors.max_age.as_deref(), true);
    }
}

/// Text that goes where a header's value may go.
fn written(said: Option<&String>, path: &str, found: &mut Errors) {
    let good = said.is_none_or(|said| !said.is_empty() && http::HeaderValue::from_str(said).is_ok());
    found.check(good, path, || "it is empty, or has what no header has".into());
}

fn copies(rule: &HttpRule, path: &str, found: &mut Errors) {
    if let Some(to) = &rule.mirror {
        destination(to, &format!("{path}.mirror"), found);
        percent(found, &format!("{path}.mirrorPercentage"), rule.mirror_percentage.as_ref());
    }
    for (at, mirror) in rule.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{at}]");
        unknown(found, &path, &mirror.others);
        destination(&mirror.destination, &format!("{path}.destination"), found);
        percent(found, &format!("{path}.percentage"), mirror.percentage.as_ref());
    }
}

fn faults(rule: &HttpRule, path: &str, found: &mut Errors) {
    let Some(fault) = &rule.fault else { return };
    let path = format!("{path}.fault");
    unknown(found, &path, &fault.others);
    if let Some(delay) = &fault.delay {
        let path = format!("{path}.delay");
        unknown(found, &path, &delay.others);
        let good = delay.fixed_delay.as_deref().and_then(as_time).is_some();
        found.check(good, &format!("{path}.fixedDelay"), || "it is no duration such as 30ms or 1m30s, from 1ms on".into());
        percent(found, &format!("{path}.percentage"), delay.percentage.as_ref());
    }
    if let Some(abort) = &fault.abort {
        let path = format!("{path}.abort");
        unknown(found, &path, &abort.others);
        let good = abort.http_status.is_some_and(|status| (200..=599).contains(&status));
        found.check(good, &format!("{path}.httpStatus"), || "it is no status (200 to 599)".into());
        percent(found, &format!("{path}.percentage"), abort.percentage.as_ref());
    }
}

fn percent(found: &mut Errors, path: &str, said: Option<&Percent>) {
    found.check(said.is_none_or(|percent| (0.0..=100.0).contains(&percent.value)), path, || {
        "it is no percentage (0 to 100)".into()
    });
}

/// Where a time of nothing means that there is none, `zero` is true.
fn time(found: &mut Errors, path: &str, said: Option<&str>, zero: bool) {
    let good = said.is_none_or(|said| as_time(said).is_some() || (zero && matches!(said, "0s" | "0ms" | "0")));
    found.check(good, path, || "it is no duration such as 30ms or 1m30s, from 1ms on".into());
}

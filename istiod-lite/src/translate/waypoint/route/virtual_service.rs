//! A VirtualService as Envoy routes, in its own order: unlike the Gateway API's, its rules hold as they are written, the first that matches.
//!
//! A rule of which something is not carried out answers the requests that it is for with 500, as a rule of an HTTPRoute does.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use ambit_api::envoy::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use ambit_api::envoy::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use ambit_api::envoy::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster, route::Action,
};
use ambit_api::envoy::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use ambit_api::envoy::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use ambit_api::envoy::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::StringMatcher;

use super::super::hash;
use super::super::names::{INVALID_BACKEND, Layer};
use super::super::scope::ServedPort;
use super::super::wire::{any, bool_value, duration, entry, u32_value};
use super::action::{is_plain, respond, to_cluster};
use super::filter::HeaderChange;
use super::virtual_match::{condition, string};
use super::virtual_retry::again;
use super::{Backend, cors, deadline, mirror, not_found, redirect, requests, session, writes};
use crate::index::{Index, ServiceRef};
use crate::source::crd::destination::as_time;
use crate::source::crd::virtual_service::{self as crd, Destination, Headers, HttpMatch, HttpRule, Percent, VirtualService};
use crate::source::{NamespacedName, faults_of_rule};

/// The routes of a VirtualService for a port of a Service of its namespace.
pub fn routes(index: &Index, port: &ServedPort<'_>, object: &VirtualService, backends: &mut BTreeSet<Backend>) -> Vec<Route> {
    let name = NamespacedName::of(&object.metadata);
    let mut routes = Vec::new();
    for (at, rule) in object.spec.http.iter().enumerate() {
        let unusable = !faults_of_rule(rule, "").is_empty();
        let writes = rule.retries.as_ref().and_then(|_| writes::allowed_by(index, port, None));
        let any = [HttpMatch::default()];
        let conditions = if rule.conditions.is_empty() { any.as_slice() } else { rule.conditions.as_slice() };
        for (number, said) in conditions.iter().enumerate().filter(|(_, said)| said.is_for(port.port.port)) {
            let mut route = match unusable {
                true => Route { action: Some(Action::DirectResponse(respond(500))), ..Default::default() },
                false => carried_out(index, port, &name, rule, said, backends),
            };
            route.name = format!("{name}/http[{at}]/match[{number}]");
            route.r#match = Some(condition(index, said));
            if let Some(service) = sole_destination(index, port, &name, rule) {
                session::keep_with(&mut route, index, &service);
            }
            requests::of_route(index, port, None, &mut route);
            hash::on_route(index, &mut route, backends);
            routes.extend(again(rule, said, route, writes.as_ref()));
        }
    }
    routes.push(not_found(&format!("{name}/unmatched")));
    routes
}

fn carried_out(
    index: &Index,
    port: &ServedPort<'_>,
    name: &NamespacedName,
    rule: &HttpRule,
    said: &HttpMatch,
    backends: &mut BTreeSet<Backend>,
) -> Route {
    let action = if let Some(redirect) = &rule.redirect {
        Action::Redirect(redirected(redirect))
    } else if let Some(answer) = &rule.direct_response {
        Action::DirectResponse(answered(answer))
    } else {
        let sent = forward(index, port.port.port, name, rule, said, backends);
        sent.map_or_else(|| Action::DirectResponse(respond(500)), Action::Route)
    };
    let (mut request, response) = changes(rule.headers.as_ref());
    if matches!(action, Action::Route(_)) {
        let told = deadline::of(times(rule), &request.add);
        request.add.extend(told);
    }
    let mut filters = rule.cors_policy.as_ref().map(|said| entry(cors::FILTER, any(&cors_policy(said)))).unwrap_or_default();
    if let Some(said) = &rule.fault {
        filters.insert(requests::FAULTS.to_owned(), any(&fault(said)));
    }
    Route {
        action: Some(action),
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        typed_per_filter_config: filters,
        ..Default::default()
    }
}

/// The times that hold for an answer, and for each try.
fn times(rule: &HttpRule) -> impl Iterator<Item = Duration> {
    let retries = rule.retries.as_ref().filter(|retries| retries.attempts > 0);
    let of_try = retries.and_then(|retries| retries.per_try_timeout.as_deref());
    [rule.timeout.as_deref(), of_try].into_iter().flatten().filter_map(as_time)
}

/// The only Service that all requests of a rule are sent to.
fn sole_destination(index: &Index, port: &ServedPort<'_>, name: &NamespacedName, rule: &HttpRule) -> Option<ServiceRef> {
    let only = rule.route.len() == 1;
    let mut sent = rule.route.iter().filter(|to| only || to.weight.is_some_and(|weight| weight > 0));
    let (Some(to), None) = (sent.next(), sent.next()) else { return None };
    index.destination(&name.namespace, port.port.port, &to.destination).ok().map(|(service, _)| service)
}

/// `None` when all of its weights are zero.
fn forward(
    index: &Index,
    port: u16,
    name: &NamespacedName,
    rule: &HttpRule,
    said: &HttpMatch,
    backends: &mut BTreeSet<Backend>,
) -> Option<RouteAction> {
    let mut cluster = |to: &Destination| {
        let (service, port) = index.destination(&name.namespace, port, to).ok()?;
        let backend = Backend { service, port, subset: to.named_subset().map(str::to_owned) };
        let cluster = backend.cluster(index, Layer::Http);
        backends.insert(backend);
        Some(cluster)
    };
    let only = rule.route.len() == 1;
    let mut weighted = Vec::new();
    for to in &rule.route {
        let weight = if only { 1 } else { u32::try_from(to.weight.unwrap_or(0)).unwrap_or(0) };
        if weight == 0 {
            continue;
        }
        let (request, response) = changes(to.headers.as_ref());
        weighted.push(ClusterWeight {
            name: cluster(&to.destination).unwrap_or_else(|| INVALID_BACKEND.to_owned()),
            weight: u32_value(weight),
            request_headers_to_add: request.add,
            request_headers_to_remove: request.remove,
            response_headers_to_add: response.add,
            response_headers_to_remove: response.remove,
            ..Default::default()
        });
    }
    let mut action = to_cluster(String::new());
    action.cluster_specifier = Some(match weighted.as_slice() {
        [] => return None,
        [only] if is_plain(only) => ClusterSpecifier::Cluster(only.name.clone()),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighted, ..Default::default() }),
    });
    action.timeout = duration(rule.timeout.as_deref().and_then(as_time).unwrap_or(Duration::ZERO));
    let of_rule = rule.mirror.iter().map(|to| (to, rule.mirror_percentage.as_ref()));
    let copies = of_rule.chain(rule.mirrors.iter().map(|mirror| (&mirror.destination, mirror.percentage.as_ref())));
    for (to, percent) in copies {
        let share = of_million(percent);
        // Of a copy that leads nowhere the request itself does not know.
        if let Some(cluster) = cluster(to).filter(|_| share > 0) {
            action.request_mirror_policies.push(mirror::policy(cluster, share));
        }
    }
    let rewrite = rule.rewrite.as_ref();
    action.host_rewrite_specifier =
        rewrite.and_then(|rewrite| rewrite.authority.clone()).map(HostRewriteSpecifier::HostRewriteLiteral);
    match (rewrite.and_then(|rewrite| rewrite.uri.as_ref()), said.uri.as_ref().is_some_and(|uri| uri.exact.is_some())) {
        (None, _) => {}
        (Some(path), true) => action.regex_rewrite = Some(redirect::substitute("^/.*$", path)),
        (Some(prefix), false) => action.prefix_rewrite.clone_from(prefix),
    }
    Some(action)
}

fn redirected(said: &crd::Redirect) -> RedirectAction {
    RedirectAction {
        response_code: match said.redirect_code {
            Some(302) => RedirectResponseCode::Found,
            Some(303) => RedirectResponseCode::SeeOther,
            Some(307) => RedirectResponseCode::TemporaryRedirect,
            Some(308) => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        }
        .into(),
        host_redirect: said.authority.clone().unwrap_or_default(),
        port_redirect: said.port.and_then(|port| u32::try_from(port).ok()).unwrap_or(0),
        scheme_rewrite_specifier: said.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: said.uri.clone().map(PathRewriteSpecifier::PathRedirect),
        ..Default::default()
    }
}

fn answered(said: &crd::DirectResponse) -> DirectResponseAction {
    let text = said.body.as_ref().and_then(|body| body.string.clone());
    let body = text.map(|text| DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() });
    DirectResponseAction { body, ..respond(u32::try_from(said.status).unwrap_or(500)) }
}

fn changes(said: Option<&Headers>) -> (HeaderChange, HeaderChange) {
    let one = |said: &crd::HeaderOperations| HeaderChange::of(&said.set, &said.add, &said.remove);
    said.map(|said| (one(&said.request), one(&said.response))).unwrap_or_default()
}

fn fault(said: &crd::Fault) -> HttpFault {
    // Unlike in a RequestPolicy, where no share is said there is no fault.
    let value = |percent: &Option<Percent>| Some(percent.as_ref().map_or(0.0, |percent| percent.value));
    HttpFault {
        delay: said.delay.as_ref().map(|delay| FaultDelay {
            percentage: Some(requests::share(value(&delay.percentage))),
            fault_delay_secifier: delay
                .fixed_delay
                .as_deref()
                .and_then(as_time)
                .and_then(duration)
                .map(FaultDelaySecifier::FixedDelay),
        }),
        abort: said.abort.as_ref().map(|abort| FaultAbort {
            percentage: Some(requests::share(value(&abort.percentage))),
            error_type: abort.http_status.and_then(|status| u32::try_from(status).ok()).map(ErrorType::HttpStatus),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cors_policy(said: &crd::CorsPolicy) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: said.allow_origins.iter().map(origin).collect(),
        allow_methods: said.allow_methods.join(","),
        allow_headers: said.allow_headers.join(","),
        expose_headers: said.expose_headers.join(","),
        max_age: said.max_age.as_deref().map(|age| as_time(age).unwrap_or_default().as_secs().to_string()).unwrap_or_default(),
        allow_credentials: bool_value(said.allow_credentials == Some(true)),
        // As of an HTTPRoute: the mesh knows the answer.
        forward_not_matching_preflights: bool_value(false),
        ..Default::default()
    }
}

/// A star is every origin.
fn origin(said: &crd::StringMatch) -> StringMatcher {
    if said.exact.as_deref() == Some("*") { string(&crd::StringMatch::default()) } else { string(said) }
}

fn of_million(percent: Option<&Percent>) -> u32 {
    // Within 0 and 100, or the rule is not carried out.
    (percent.map_or(100.0, |percent| percent.value) * 10_000.0).round() as u32
}

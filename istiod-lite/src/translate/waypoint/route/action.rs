//! What is done with a request that a rule matches.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use ambit_api::envoy::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use ambit_api::envoy::pb::envoy::config::route::v3::{DirectResponseAction, Route, RouteAction, WeightedCluster, route::Action};
use gateway_api::experimental::httproutes::{HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesMatches};

use super::super::names::{INVALID_BACKEND, Layer};
use super::super::scope::ServedPort;
use super::super::wire::{duration, u32_value};
use super::filter::Filters;
use super::matching::PathMatch;
use super::{Backend, Reference, cors, deadline, mirror, redirect, resolve, retry};
use crate::index::{Index, ServiceRef};
use crate::source::{Kind, NamespacedName};

/// A rule's action for one of its matches, without name and match.
pub fn route(
    index: &Index,
    port: &ServedPort<'_>,
    from: (Kind, &NamespacedName),
    rule: &HttpRouteRules,
    condition: &HttpRouteRulesMatches,
    backends: &mut BTreeSet<Backend>,
) -> Route {
    let path = PathMatch::of(condition);
    let mut filters = Filters::of_rule(rule.filters.as_deref());
    let action = if filters.unsupported {
        None
    } else if let Some(filter) = &filters.redirect {
        redirect::redirect(filter, &path, port.port.port, port.secure).map(Action::Redirect)
    } else {
        forward(index, &port.service, from, rule, &filters, &path, backends).map(Action::Route)
    };
    if matches!(action, Some(Action::Route(_))) && with_filters(rule) {
        (filters.request, filters.response) = Default::default();
    }
    if matches!(action, Some(Action::Route(_))) {
        let told = deadline::told(rule, &filters.request.add);
        filters.request.add.extend(told);
    }
    Route {
        action: Some(action.unwrap_or_else(|| Action::DirectResponse(respond(unusable(from.0))))),
        request_headers_to_add: filters.request.add,
        request_headers_to_remove: filters.request.remove,
        response_headers_to_add: filters.response.add,
        response_headers_to_remove: filters.response.remove,
        typed_per_filter_config: cors::per_filter(filters.cors.as_ref()),
        ..Default::default()
    }
}

/// Whether a backend has filters of its own, which come after those of the rule. Envoy makes the changes of a cluster before those of its
/// route, whose host wins, too: so each cluster is given those of the rule along with its own, and the route none.
fn with_filters(rule: &HttpRouteRules) -> bool {
    rule.backend_refs.iter().flatten().any(|reference| reference.filters.as_ref().is_some_and(|filters| !filters.is_empty()))
}

/// Forward to a cluster.
pub fn to_cluster(name: String) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name)),
        // Envoy's own default of 15 s is not what the specification says of a route without timeouts.
        timeout: duration(Duration::ZERO),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        ..Default::default()
    }
}

/// The status of requests that a rule leads nowhere. To gRPC clients 503 is `UNAVAILABLE`, which the specification asks for; 500 is not.
fn unusable(kind: Kind) -> u32 {
    if kind == Kind::GrpcRoute { 503 } else { 500 }
}

/// Answer without a body.
pub fn respond(status: u32) -> DirectResponseAction {
    DirectResponseAction { status, ..Default::default() }
}

/// `None` when there is nothing to forward to, or the rewrite cannot be done.
fn forward(
    index: &Index,
    parent: &ServiceRef,
    from: (Kind, &NamespacedName),
    rule: &HttpRouteRules,
    filters: &Filters,
    path: &PathMatch<'_>,
    backends: &mut BTreeSet<Backend>,
) -> Option<RouteAction> {
    let mut weighted = Vec::new();
    for reference in rule.backend_refs.iter().flatten().filter(|reference| reference.weight != Some(0)) {
        let of_rule = Some(filters).filter(|_| with_filters(rule));
        weighted.push(backend(index, parent, (from.0, &from.1.namespace), (reference, of_rule), backends));
    }
    if weighted.is_empty() {
        return None;
    }
    let mut action = to_cluster(String::new());
    action.cluster_specifier = Some(match weighted.as_slice() {
        [only] if is_plain(only) => ClusterSpecifier::Cluster(only.name.clone()),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighted, ..Default::default() }),
    });
    if from.0 == Kind::GrpcRoute {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::ServiceUnavailable.into();
    }
    action.timeout = duration(timeout(rule));
    action.request_mirror_policies = mirror::policies(index, parent, (from.0, &from.1.namespace), &filters.mirrors, backends);
    if let Some(host) = &filters.host {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
    }
    if let Some(rewrite) = &filters.rewrite {
        redirect::rewrite(&mut action, rewrite, path)?;
    }
    if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier
        && with_filters(rule)
        && let Some(HostRewriteSpecifier::HostRewriteLiteral(host)) = action.host_rewrite_specifier.take()
    {
        for cluster in &mut weighted.clusters {
            let of_rule = || cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host.clone());
            cluster.host_rewrite_specifier.get_or_insert_with(of_rule);
        }
    }
    Some(action)
}

/// One backend with its weight and filters. One that is invalid, or whose filters cannot be done, keeps its share.
fn backend(
    index: &Index,
    parent: &ServiceRef,
    from: (Kind, &str),
    (reference, of_rule): (&HttpRouteRulesBackendRefs, Option<&Filters>),
    backends: &mut BTreeSet<Backend>,
) -> ClusterWeight {
    let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(1);
    let mut filters = Filters::of_backend(of_rule, reference.filters.as_deref());
    let host = filters.rewrite.as_ref().map_or(filters.host.take(), |rewrite| rewrite.hostname.clone());
    let rewrites_path = filters.rewrite.as_ref().is_some_and(|rewrite| rewrite.path.is_some());
    let to = Reference {
        group: reference.group.as_deref(),
        kind: reference.kind.as_deref(),
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
        port: reference.port,
    };
    let target = resolve(index, parent, from, to);
    let cluster = match target {
        Some(target) if !filters.unsupported && !rewrites_path && filters.redirect.is_none() => {
            let cluster = target.cluster(index, Layer::Http);
            backends.insert(target);
            cluster
        }
        _ => INVALID_BACKEND.to_owned(),
    };
    ClusterWeight {
        name: cluster,
        weight: u32_value(weight),
        request_headers_to_add: filters.request.add,
        request_headers_to_remove: filters.request.remove,
        response_headers_to_add: filters.response.add,
        response_headers_to_remove: filters.response.remove,
        host_rewrite_specifier: host.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

/// Whether it is all that is said of where to send.
pub fn is_plain(cluster: &ClusterWeight) -> bool {
    *cluster == ClusterWeight { name: cluster.name.clone(), weight: cluster.weight, ..Default::default() }
}

/// The time a request may take, zero for any. Of a request that is tried once the shorter of both timeouts holds.
pub fn timeout(rule: &HttpRouteRules) -> Duration {
    let Some(timeouts) = &rule.timeouts else { return Duration::ZERO };
    let of_one_try = timeouts.backend_request.as_ref().filter(|_| retry::wanted(rule).is_none());
    let set = [timeouts.request.as_ref(), of_one_try].into_iter().flatten();
    set.filter_map(|text| parse_duration(text)).filter(|duration| !duration.is_zero()).min().unwrap_or_default()
}

/// A duration of GEP-2257: up to four of `<digits><h|m|s|ms>`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?;
        let (one, length) = match unit {
            _ if unit.starts_with("ms") => (Duration::from_millis(number), 2),
            _ if unit.starts_with('h') => (Duration::from_secs(number.checked_mul(3600)?), 1),
            _ if unit.starts_with('m') => (Duration::from_secs(number.checked_mul(60)?), 1),
            _ if unit.starts_with('s') => (Duration::from_secs(number), 1),
            _ => return None,
        };
        total = total.checked_add(one)?;
        rest = unit.get(length..)?;
    }
    Some(total)
}

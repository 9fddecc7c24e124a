//! The routes of a service port, as far as gRPC clients carry them out. What they would leave out without a word, such as a header that is to
//! be set, makes the calls that it is for fail instead: `UNAVAILABLE`.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use ambit_api::envoy::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use ambit_api::envoy::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
    header_matcher::HeaderMatchSpecifier, route::Action, route_match::PathSpecifier,
};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use regex::Regex;

use super::super::waypoint::hash;
use super::super::waypoint::route::{UNSEEN, cors, deadline, for_everyone, requests, respond, session};
use super::super::waypoint::scope::ServedPort;
use crate::index::Index;

/// The status of calls that a client cannot send as a route says; to gRPC it is `UNAVAILABLE`.
const UNAVAILABLE: u32 = 503;
/// The method of all calls, and the pseudo-header that has it.
const POST: &str = "POST";
const METHOD: &str = ":method";

/// The route configuration of a port: the routes of the service's namespace, or everything to the service itself.
pub fn configuration(index: &Index, port: &ServedPort<'_>, name: String) -> RouteConfiguration {
    // The clusters of all services are there to be asked for.
    let routes = for_everyone(index, port, &mut BTreeSet::new());
    // Faults and limits are the waypoint's to carry out; clients that go around it have none. They take endpoints in turn.
    let routes = routes.into_iter().map(requests::without).map(deadline::without).map(hash::without).filter_map(route).collect();
    RouteConfiguration {
        virtual_hosts: vec![VirtualHost { name: name.clone(), domains: vec!["*".into()], routes, ..Default::default() }],
        name,
        ..Default::default()
    }
}

/// A route as a client has it; `None` when no call is what it asks for.
fn route(route: Route) -> Option<Route> {
    let Route { name, r#match, action, .. } = &route;
    let (condition, known) = condition(r#match.clone()?)?;
    // What pages of other origins may do is nothing to a call, and a client that has no session is as good as one that begins each time.
    let mut typed_per_filter_config = route.typed_per_filter_config.clone();
    typed_per_filter_config.retain(|filter, _| [cors::FILTER, session::FILTER].contains(&filter.as_str()));
    let (name_of, of, does) = (name.clone(), r#match.clone(), action.clone());
    let plain = Route { name: name_of, r#match: of, action: does, typed_per_filter_config, ..Default::default() };
    let done = match action {
        Some(Action::Route(action)) if known && plain == route => forward(action).map(Action::Route),
        _ => None,
    };
    let action = done.unwrap_or_else(|| Action::DirectResponse(respond(UNAVAILABLE)));
    Some(Route { name: name.clone(), r#match: Some(condition), action: Some(action), ..Default::default() })
}

/// A condition in the words that clients know, and whether it says all; `None` when no call can meet it. Calls have no query, and all of
/// them are POSTs.
fn condition(mut condition: RouteMatch) -> Option<(RouteMatch, bool)> {
    if !condition.query_parameters.is_empty() {
        return None;
    }
    if condition.headers.iter().any(|header| header.name == METHOD && !is_of_calls(header)) {
        return None;
    }
    condition.headers.retain(|header| header.name != METHOD);
    // The path of a call is always /SERVICE/METHOD.
    if let Some(PathSpecifier::PathSeparatedPrefix(prefix)) = &condition.path_specifier {
        condition.path_specifier = Some(PathSpecifier::Prefix(format!("{prefix}/")));
    }
    let all = condition.headers.len();
    condition.headers.retain(|header| !header.name.starts_with(':'));
    // Whose namespace it is for no client is told.
    let of_some = !std::mem::take(&mut condition.filter_state).is_empty();
    let known = condition.headers.len() == all && !of_some;
    Some((condition, known))
}

/// Whether a call meets what is asked of the method.
fn is_of_calls(header: &HeaderMatcher) -> bool {
    let met = match &header.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(test)) => match &test.match_pattern {
            Some(MatchPattern::Exact(method)) => method == POST,
            Some(MatchPattern::Prefix(prefix)) => POST.starts_with(prefix.as_str()),
            Some(MatchPattern::SafeRegex(expression)) => {
                Regex::new(&format!("^(?:{})$", expression.regex)).is_ok_and(|expression| expression.is_match(POST))
            }
            _ => false,
        },
        // It is there.
        _ => true,
    };
    met != header.invert_match
}

/// To one cluster or several by weight, with a time limit; `None` when the action says more. Retries of what no server has seen are left out,
/// for clients make them by themselves (gRFC A6).
fn forward(action: &RouteAction) -> Option<RouteAction> {
    let weight =
        |cluster: &ClusterWeight| ClusterWeight { name: cluster.name.clone(), weight: cluster.weight, ..Default::default() };
    let specifier = match action.cluster_specifier.as_ref()? {
        ClusterSpecifier::Cluster(name) => ClusterSpecifier::Cluster(name.clone()),
        ClusterSpecifier::WeightedClusters(weighted) => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weighted.clusters.iter().map(weight).collect(),
            ..Default::default()
        }),
        _ => return None,
    };
    let plain = RouteAction {
        cluster_specifier: Some(specifier),
        timeout: action.timeout,
        cluster_not_found_response_code: action.cluster_not_found_response_code,
        retry_policy: action.retry_policy.clone().filter(|policy| policy.retry_on == UNSEEN),
        ..Default::default()
    };
    if plain != *action {
        return None;
    }
    let limit = action.timeout.filter(|timeout| (timeout.seconds, timeout.nanos) != (0, 0));
    let max_stream_duration = limit.map(|limit| MaxStreamDuration { max_stream_duration: Some(limit), ..Default::default() });
    Some(RouteAction { cluster_specifier: plain.cluster_specifier, max_stream_duration, ..Default::default() })
}

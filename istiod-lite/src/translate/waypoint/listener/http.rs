//! HTTP connection managers.

mod certificate;

use ambit_api::envoy::pb::envoy::config::accesslog::v3::AccessLog;
use ambit_api::envoy::pb::envoy::config::listener::v3::Filter;
use ambit_api::envoy::pb::envoy::config::route::v3::RouteConfiguration;
use ambit_api::envoy::pb::envoy::extensions::filters::http::cors::v3::Cors;
use ambit_api::envoy::pb::envoy::extensions::filters::http::router::v3::Router;
use ambit_api::envoy::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use ambit_api::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};

use ambit_model::jwt::METADATA;

use super::super::rbac::Enforcement;
use super::super::route::{cors, requests as policies, session};
use super::super::wire::ordered::HttpRbac;
use super::super::wire::{Any, ads, any, any_as, bool_value, seconds};
use super::super::{admission, ext_authz, ext_proc, limiter, sizes};
use super::network_filter;

/// The peer's address is the tunnel's. `X-Forwarded-For` is the client's to write: it is passed on, and an address is only
/// taken from it beyond as many entries as no header has. (`use_remote_address` would add headers of Envoy's to requests.)
pub const NO_FORWARDED_ADDRESS: u32 = u32::MAX;

/// The name of the last HTTP filter.
const ROUTER: &str = "envoy.filters.http.router";

/// Where the routes of a connection manager come from.
pub enum Routes {
    /// A route configuration of this name.
    Discovered(String),
    /// Written in place.
    Inline(Box<RouteConfiguration>),
}

/// A connection manager for requests to a service: tokens, external authorizers, authorization, then CORS, faults, limits, those of bodies, external
/// processors, admission and sessions, then the router: what a processor answers takes no place among what is let in. The filters from CORS on are there
/// whether a route has anything to say for them or not: a listener that changes ends connections. Only those of servers of limits, of bodies and
/// of processors are there where some route names them, and that of admission where somebody asks for it: routes say nothing for it.
///
/// A service that is `outside` of the mesh is not told who asks: the names of accounts are nobody's else.
pub fn requests(name: &str, routes: Routes, enforcement: &Enforcement, access_log: Vec<AccessLog>, outside: bool) -> Filter {
    let mut manager = manager(name, routes, enforcement, access_log);
    // What the proxy before says of its time is a bound. At the edge, where anybody may be before, it is not.
    let router = Router { suppress_envoy_headers: true, respect_expected_rq_timeout: true, ..Default::default() };
    manager.http_filters.pop();
    manager.http_filters.push(http_filter(ROUTER, any(&router)));
    if !outside {
        certificate::tell(&mut manager);
    }
    network_filter("envoy.filters.network.http_connection_manager", &manager)
}

/// The same, to be changed where clients are outside of the mesh.
pub fn manager(name: &str, routes: Routes, enforcement: &Enforcement, access_log: Vec<AccessLog>) -> HttpConnectionManager {
    let tokens = enforcement
        .tokens
        .iter()
        .map(|tokens| http_filter(METADATA, any_as("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", tokens)));
    let mut http_filters: Vec<HttpFilter> = tokens.collect();
    http_filters.extend(enforcement.asks.iter().flat_map(ext_authz::filters));
    http_filters.extend(enforcement.of_actions().map(|of| {
        let rbac =
            HttpRbac { rules: of.enforced.cloned(), shadow_rules: of.dry_run.cloned(), shadow_rules_stat_prefix: of.prefix() };
        http_filter("envoy.filters.http.rbac", any_as("envoy.extensions.filters.http.rbac.v3.RBAC", &rbac))
    }));
    http_filters.push(http_filter(cors::FILTER, any(&Cors::default())));
    // A waypoint of a version that knows none of these takes the listener all the same, and no route that says something for them.
    let optional = |filter: HttpFilter| HttpFilter { is_optional: true, ..filter };
    let ahead = [http_filter(policies::FAULTS, policies::no_faults()), http_filter(policies::LIMITS, policies::no_limits())];
    http_filters.extend(ahead.into_iter().chain(enforcement.limiters.iter().map(limiter::filter)).map(optional));
    // Without one of these nothing may pass that is for it.
    http_filters.extend(enforcement.bodies.then(sizes::filter));
    http_filters.extend(enforcement.processes.iter().map(ext_proc::filter));
    let sessions = http_filter(session::FILTER, any(&StatefulSession::default()));
    http_filters.extend(enforcement.admission.iter().flat_map(admission::filters).chain([sessions]).map(optional));
    http_filters.push(router());
    HttpConnectionManager {
        stat_prefix: name.into(),
        http_filters,
        access_log,
        route_specifier: Some(match routes {
            Routes::Discovered(name) => RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: name }),
            Routes::Inline(configuration) => RouteSpecifier::RouteConfig(*configuration),
        }),
        // What a service answers is passed on as it is, and requests are not given headers of the proxy's own.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        // But for an id by which it is decided who is traced.
        generate_request_id: bool_value(enforcement.traces.is_some()),
        tracing: enforcement.traces.as_ref().map(|traces| traces.manager.clone()),
        xff_num_trusted_hops: NO_FORWARDED_ADDRESS,
        // Paths are compared by policies as servers will see them.
        normalize_path: bool_value(true),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        stream_idle_timeout: seconds(0),
        request_timeout: seconds(0),
        ..Default::default()
    }
}

/// The last HTTP filter.
pub fn router() -> HttpFilter {
    let router = Router { suppress_envoy_headers: true, ..Default::default() };
    http_filter(ROUTER, any(&router))
}

/// An HTTP filter.
pub fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.into(), config_type: Some(http_filter::ConfigType::TypedConfig(config)), ..Default::default() }
}

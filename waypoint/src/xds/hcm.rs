//! The HTTP connection manager of an inner filter chain.

mod certificate;
mod order;

use std::{mem::take, sync::Arc, time::Instant};

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier},
    extensions::filters::{
        http::{rbac::v3::Rbac as HttpRbac, router::v3::Router},
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds, http_connection_manager as pb, http_filter::ConfigType,
        },
    },
};
use ambit_model::{
    jwt::JwtAuthentication,
    route::{HeaderMatch, LocalLimit, Rbac},
};

use self::order::Place;
use super::{
    access_log, admission, buffer, chain, cors, ext_authz, ext_proc, fault, jwt, limit, limiter,
    read::{Compiled, Problem, Under, boolean, finish, number, required, type_of, unpack},
    route, session, trace, upgrades,
};
use crate::compiled::{Admission, ExtAuthz, ExtProc, Faults, HttpChain, Limiter, RbacFilter, Routes};

const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Envoy's default, in KiB.
const MAX_HEADERS_KB: u32 = 60;

/// Request by request.
pub fn chain(mut config: HttpConnectionManager) -> Compiled<HttpChain> {
    let tracing = trace::of(&mut config).under("tracing")?;
    cosmetic(&mut config);
    let tells_client = certificate::told(&mut config)?;
    let logs = access_log::logs(take(&mut config.access_log))?;
    let routes = match required(config.route_specifier.take(), "a route configuration")? {
        pb::RouteSpecifier::Rds(rds) => Routes::Named(named(rds).under("rds")?),
        pb::RouteSpecifier::RouteConfig(table) => Routes::Inline(Arc::new(route::table(table).under("route_config")?)),
        pb::RouteSpecifier::ScopedRoutes(_) => return Err(Problem::new("scoped_routes is not implemented")),
    };
    let envoy_headers = config.http_filters.iter().any(tells_of_itself);
    let deadlines = config.http_filters.iter().filter_map(router).any(|router| router.respect_expected_rq_timeout);
    let Filters { jwt, asks, marks: _, rbac, cors, faults, limits, sessions, limiters, bodies, processors, probes: _, admission } =
        filters(take(&mut config.http_filters)).under("http_filters")?;
    let upgrades = take(&mut config.upgrade_configs)
        .into_iter()
        .map(|mut upgrade| {
            let name = upgrades::name(&take(&mut upgrade.upgrade_type))?;
            let on = boolean(upgrade.enabled.take(), true);
            finish(&upgrade).map(|()| on.then_some(name))
        })
        .filter_map(Result::transpose)
        .collect::<Compiled<Vec<_>>>()
        .under("upgrade_configs")?;
    let normalize_path = boolean(config.normalize_path.take(), false);
    let merge_slashes = take(&mut config.merge_slashes);
    let max_header_bytes = number(config.max_request_headers_kb.take()).unwrap_or(MAX_HEADERS_KB) as usize * 1024;
    finish(&config)?;
    Ok(HttpChain {
        routes,
        jwt,
        asks,
        rbac,
        cors,
        faults,
        limits,
        sessions,
        envoy_headers,
        upgrades,
        normalize_path,
        merge_slashes,
        max_header_bytes,
        limiters,
        bodies,
        processors,
        admission,
        tracing,
        logs,
        deadlines,
        tells_client,
    })
}

/// Clears what has no bearing on what happens to a request, and what is set to the value we act by anyway.
fn cosmetic(config: &mut HttpConnectionManager) {
    config.stat_prefix.clear();
    if config.server_header_transformation == pb::ServerHeaderTransformation::PassThrough as i32 {
        config.server_header_transformation = 0;
        // It stands where Envoy writes its own name, and nowhere then.
        config.server_name.clear();
    }
    for flag in [&mut config.generate_request_id, &mut config.use_remote_address] {
        if flag.is_some_and(|v| !v.value) {
            *flag = None;
        }
    }
    // As many hops as no header has: the peer's address is never taken from X-Forwarded-For, which is how we act.
    if config.xff_num_trusted_hops == u32::MAX {
        config.xff_num_trusted_hops = 0;
    }
    // Without spans nobody's ids are changed.
    config.preserve_external_request_id = false;
    for limit in [&mut config.stream_idle_timeout, &mut config.request_timeout] {
        if limit.is_some_and(|t| t.seconds == 0 && t.nanos == 0) {
            *limit = None;
        }
    }
}

/// Routes discovered under a name.
pub fn named(rds: Rds) -> Compiled<Arc<str>> {
    over_ads(rds.config_source).under("config_source")?;
    Ok(rds.route_config_name.into())
}

/// Everything is discovered over the one stream there is.
pub fn over_ads(source: Option<ConfigSource>) -> Compiled<()> {
    let mut source = source.unwrap_or_default();
    let over = source.config_source_specifier.take();
    if !matches!(over, Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))) {
        return Err(Problem::new("only ads is implemented"));
    }
    if source.resource_api_version == ApiVersion::V3 as i32 {
        source.resource_api_version = 0;
    }
    // Nothing waits here for what it names: until that has come, requests are told so.
    source.initial_fetch_timeout = None;
    finish(&source)
}

/// Whether this is the router, and it is not to keep headers of its own to itself.
fn tells_of_itself(filter: &HttpFilter) -> bool {
    router(filter).is_some_and(|router| !router.suppress_envoy_headers)
}

/// The router, if it is that.
fn router(filter: &HttpFilter) -> Option<Router> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => unpack(any, ROUTER).ok(),
        _ => None,
    }
}

/// The filters of requests, in the order in which they are asked.
#[derive(Default)]
struct Filters {
    jwt: Option<Arc<JwtAuthentication>>,
    /// Who is asked, in order.
    asks: Vec<Arc<ExtAuthz>>,
    /// Rule sets that are not enforced and leave their result for others, with the beginning of what it is called.
    marks: Vec<(String, Rbac)>,
    /// The rule sets in order.
    rbac: Vec<RbacFilter>,
    /// Whether what routes say of CORS holds.
    cors: bool,
    /// Whether what they say of sessions does.
    sessions: bool,
    /// What is said of faults, where routes say nothing.
    faults: Option<Faults>,
    /// The limit where routes say nothing.
    limits: Option<Option<Arc<LocalLimit>>>,
    /// Servers that are asked about limits, in order.
    limiters: Vec<Arc<Limiter>>,
    /// The longest body where routes say nothing.
    bodies: Option<u64>,
    /// Who processes what comes past all of them, in order.
    processors: Vec<Arc<ExtProc>>,
    /// The headers of requests that are always let in.
    probes: Vec<Vec<HeaderMatch>>,
    /// How many others are.
    admission: Option<Arc<Admission>>,
}

impl Filters {
    /// Reads a set of rules, and says where it stands: what refuses nothing may be there before authorizers are asked.
    fn rules(&mut self, mut config: HttpRbac) -> Compiled<Place> {
        let prefix = take(&mut config.shadow_rules_stat_prefix);
        let filter = chain::http_rbac(config)?;
        let place = if filter.rules.is_some() { Place::Rules } else { Place::Authorizers };
        match filter {
            RbacFilter { rules: None, shadow: Some(shadow) } if !prefix.is_empty() => self.marks.push((prefix, shadow)),
            filter => self.rbac.push(filter),
        }
        Ok(place)
    }
}

/// Reads the filters; the router must be the last.
fn filters(filters: Vec<HttpFilter>) -> Compiled<Filters> {
    let mut read = Filters::default();
    let (mut there, mut routed) = (Place::default(), false);
    for mut filter in filters {
        let at = take(&mut filter.name);
        let off = take(&mut filter.disabled);
        let optional = take(&mut filter.is_optional);
        let any = match filter.config_type.take() {
            Some(ConfigType::TypedConfig(any)) => any,
            _ => return Err(Problem::new("only typed_config is implemented").under(at)),
        };
        if routed {
            return Err(Problem::new("a filter after the router").under(at));
        }
        let type_name = type_of(&any);
        // Routes turn it on.
        if off && ![ext_proc::FILTER, buffer::FILTER].contains(&type_name) {
            return Err(Problem::new("disabled is not implemented").under(at));
        }
        let mut place = there;
        if let Some(own) = Place::of(type_name) {
            own.after(there).under(&at)?;
            place = own;
        }
        match type_name {
            admission::PROBES => read.probes.push(admission::probes(&any).under(at)?),
            admission::FILTER => {
                let (settings, probes) = (admission::settings(&any).under(at)?, take(&mut read.probes));
                read.admission = settings.map(|settings| Arc::new(Admission::new(settings, probes, Instant::now())));
            }
            jwt::FILTER => read.jwt = Some(Arc::new(jwt::filter(unpack(&any, jwt::FILTER)?).under(at)?)),
            RBAC => place = read.rules(unpack(&any, RBAC)?).under(at)?,
            ext_authz::FILTER => {
                let asked = ext_authz::filter(unpack(&any, ext_authz::FILTER)?, &mut read.marks).under(at)?;
                read.asks.push(Arc::new(asked));
            }
            cors::FILTER => {
                cors::filter(&at, &any).under(&at)?;
                read.cors = true;
            }
            session::FILTER => {
                session::filter(&at, &any).under(&at)?;
                read.sessions = true;
            }
            fault::FILTER => {
                of_name(&at, fault::NAME)?;
                read.faults = Some(Faults::of(fault::fault(&any).under(&at)?));
            }
            limit::FILTER => {
                of_name(&at, limit::NAME)?;
                read.limits = Some(limit::of_filter(&any).under(&at)?);
            }
            buffer::FILTER => {
                of_name(&at, buffer::NAME)?;
                read.bodies = Some(buffer::filter(&any, off).under(&at)?);
            }
            limiter::FILTER => limiter::add(&at, &any, &mut read.limiters).under(&at)?,
            ext_proc::FILTER => {
                let filter = ext_proc::filter(&at, off, unpack(&any, ext_proc::FILTER)?).under(at)?;
                read.processors.push(Arc::new(filter));
            }
            ROUTER => {
                let mut router: Router = unpack(&any, ROUTER)?;
                router.suppress_envoy_headers = false;
                router.respect_expected_rq_timeout = false;
                router.dynamic_stats = None;
                finish(&router).under(at)?;
                routed = true;
            }
            _ if optional => {}
            other => return Err(Problem::new(format!("{other} is not implemented")).under(at)),
        }
        there = there.max(place);
    }
    if !routed {
        return Err(Problem::new("there is no router"));
    }
    // What nobody has asked for the result of is a dry run.
    let unused = read.marks.drain(..).map(|(_, shadow)| RbacFilter { rules: None, shadow: Some(shadow) });
    drop(read.rbac.splice(0..0, unused));
    Ok(read)
}

/// Routes say something for a filter by its name.
fn of_name(name: &str, wanted: &str) -> Compiled<()> {
    match name == wanted {
        true => Ok(()),
        false => Err(Problem::new(format!("this filter under another name than {wanted} is not implemented")).under(name)),
    }
}

#[cfg(test)]
mod tests;

//! The route configuration of the terminating listener: which authorities a tunnel may be opened for.

use std::{mem::take, net::SocketAddr, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::route::v3::{self as pb, route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier},
    extensions::filters::http::rbac::v3::RbacPerRoute,
};

use super::{
    chain,
    read::{Compiled, Problem, Under, finish, required, unpack},
    route::PerFilter,
};
use crate::compiled::{RbacFilter, TerminateHost, TerminateTable};

/// Whether the configuration is for tunnels and not for requests.
pub fn is_for_tunnels(config: &pb::RouteConfiguration) -> bool {
    let connect = |r: &pb::Route| {
        matches!(r.r#match.as_ref().and_then(|m| m.path_specifier.as_ref()), Some(PathSpecifier::ConnectMatcher(_)))
    };
    config.virtual_hosts.iter().flat_map(|host| &host.routes).any(connect)
}

/// The known authorities.
pub fn table(mut config: pb::RouteConfiguration) -> Compiled<TerminateTable> {
    let mut table = TerminateTable::default();
    config.name.clear();
    config.validate_clusters = None;
    for host in take(&mut config.virtual_hosts) {
        let at = format!("virtual_hosts[{}]", host.name);
        add(host, &mut table).under(at)?;
    }
    finish(&config)?;
    Ok(table)
}

fn add(mut host: pb::VirtualHost, table: &mut TerminateTable) -> Compiled<()> {
    let name = take(&mut host.name);
    let domains = take(&mut host.domains);
    let mut filters = take(&mut host.typed_per_filter_config);
    let mut routes = take(&mut host.routes);
    let (Some(mut route), true) = (routes.pop(), routes.is_empty()) else {
        return Err(Problem::new("exactly one route is implemented here"));
    };
    // What a route says about a filter goes before what its virtual host says.
    filters.extend(take(&mut route.typed_per_filter_config));
    connect_route(route)?;
    let rbac = per_filter(filters).under("typed_per_filter_config")?;
    finish(&host)?;
    let host = Arc::new(TerminateHost { name, rbac });
    for domain in domains {
        insert(&domain, &host, table)?;
    }
    Ok(())
}

fn insert(domain: &str, host: &Arc<TerminateHost>, table: &mut TerminateTable) -> Compiled<()> {
    let bad = || Problem::new(format!("domain {domain:?} is neither address:port nor address:* nor *"));
    if domain == "*" {
        table.any = Some(host.clone());
    } else if let Some(ip) = domain.strip_suffix(":*") {
        let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad())?;
        table.any_port.insert(ip, host.clone());
    } else {
        table.exact.insert(domain.parse::<SocketAddr>().map_err(|_| bad())?, host.clone());
    }
    Ok(())
}

/// The one kind of route here: CONNECT to the internal listener.
fn connect_route(mut route: pb::Route) -> Compiled<()> {
    route.name.clear();
    let mut when = required(route.r#match.take(), "match")?;
    if !matches!(when.path_specifier.take(), Some(PathSpecifier::ConnectMatcher(_))) {
        return Err(Problem::new("a route without connect_matcher is not implemented here"));
    }
    finish(&when)?;
    let Some(Action::Route(mut action)) = route.action.take() else {
        return Err(Problem::new("an action other than route is not implemented here"));
    };
    match action.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(cluster)) if cluster == super::MAIN_INTERNAL => {}
        _ => return Err(Problem::new(format!("a cluster other than {} is not implemented here", super::MAIN_INTERNAL))),
    }
    for mut upgrade in take(&mut action.upgrade_configs) {
        let name = take(&mut upgrade.upgrade_type);
        if !name.eq_ignore_ascii_case("CONNECT") {
            return Err(Problem::new(format!("upgrade {name:?} is not implemented here")));
        }
        // What it wraps is told as it comes, and by CONNECT alone.
        finish(&upgrade.connect_config.take().unwrap_or_default()).under("upgrade_configs.connect_config")?;
        finish(&upgrade).under("upgrade_configs")?;
    }
    if action.timeout.take().is_some_and(|t| t.seconds != 0 || t.nanos != 0) {
        return Err(Problem::new("a timeout on a tunnel is not implemented"));
    }
    // Tunnels live as long as they carry something; an idle limit would only cut quiet ones, so 0 and absent are the same.
    if action.idle_timeout.take().is_some_and(|t| t.seconds != 0 || t.nanos != 0) {
        return Err(Problem::new("idle_timeout is not implemented"));
    }
    finish(&action)?;
    finish(&route)
}

fn per_filter(config: PerFilter) -> Compiled<Vec<RbacFilter>> {
    let mut filters = Vec::new();
    for (name, any) in config {
        let per_route: RbacPerRoute = unpack(&any, "envoy.extensions.filters.http.rbac.v3.RBACPerRoute").under(&name)?;
        if let Some(rbac) = per_route.rbac {
            filters.push((name.clone(), chain::http_rbac(rbac).under(&name)?));
        }
    }
    // A map has no order; all of them must let the connection pass, so any order decides the same.
    filters.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(filters.into_iter().map(|(_, filter)| filter).collect())
}

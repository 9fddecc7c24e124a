//! Route configurations (`envoy.config.route.v3.RouteConfiguration`).

mod alike;
pub mod reuse;

use std::{collections::HashMap, mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::config::{
    core::v3::{DataSource, data_source::Specifier},
    route::v3::{
        self as pb, redirect_action,
        route::Action as PbAction,
        route_action,
        route_match::PathSpecifier,
        weighted_cluster::{ClusterWeight as PbWeight, cluster_weight},
    },
};
use ambit_model::route::{
    Action, ClusterWeight, Conditions, DirectResponse, DomainMatch, HeaderMutations, HostRewrite, PathMatch, PathRewrite,
    PathTest, Redirect, Route, RouteFilters, RouteMatch, RouteTable, SizeLimits, StreamTimes, Upstream, VirtualHost,
};

use alike::Alike;

use super::{
    hash, metadata, mirror,
    per_filter::Said,
    read::{Compiled, Problem, Under, boolean, duration, finish, number, port, required},
    retry, text, upgrades,
};

/// What Envoy takes for a route without a timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Takes the four header lists out of a table, virtual host, route or cluster weight.
macro_rules! header_changes {
    ($message:expr) => {{
        let request = text::mutations(take(&mut $message.request_headers_to_add), take(&mut $message.request_headers_to_remove))
            .under("request_headers_to_add")?;
        let response =
            text::mutations(take(&mut $message.response_headers_to_add), take(&mut $message.response_headers_to_remove))
                .under("response_headers_to_add")?;
        (request, response)
    }};
}

/// A route table.
pub fn table(mut config: pb::RouteConfiguration) -> Compiled<RouteTable> {
    let hosts = take(&mut config.virtual_hosts);
    let table = Table::read(config)?;
    let mut compiled = Vec::with_capacity(hosts.len());
    for host in hosts {
        let at = format!("virtual_hosts[{}]", host.name);
        compiled.push(virtual_host(host, &table).under(at)?);
    }
    Ok(table.of(compiled))
}

fn virtual_host(mut host: pb::VirtualHost, table: &Table) -> Compiled<VirtualHost> {
    let routes = take(&mut host.routes);
    let host = Host::read(host)?;
    let mut alike = Alike::default();
    let routes = routes.into_iter().enumerate().map(|(index, route)| host.route(table, index, route, &mut alike));
    let routes = routes.collect::<Compiled<_>>()?;
    Ok(host.of(routes))
}

/// What a table says of all its virtual hosts.
struct Table {
    name: String,
    changes: Changes,
    specific_last: bool,
    ignore_port: bool,
}

impl Table {
    /// Of a message without its virtual hosts.
    fn read(mut config: pb::RouteConfiguration) -> Compiled<Self> {
        let name = take(&mut config.name);
        let changes = header_changes!(config);
        let specific_last = take(&mut config.most_specific_header_mutations_wins);
        let ignore_port = take(&mut config.ignore_port_in_host_matching);
        // Clusters are looked up for each request, so whether they exist now does not matter.
        config.validate_clusters = None;
        finish(&config)?;
        Ok(Self { name, changes, specific_last, ignore_port })
    }

    fn of(self, hosts: Vec<VirtualHost>) -> RouteTable {
        RouteTable::new(self.name, hosts, self.ignore_port)
    }
}

/// What a virtual host says of all its routes.
struct Host {
    name: String,
    domains: Vec<DomainMatch>,
    changes: Changes,
    said: Said,
}

impl Host {
    /// Of a message without its routes.
    fn read(mut host: pb::VirtualHost) -> Compiled<Self> {
        let name = take(&mut host.name);
        let domains = take(&mut host.domains).iter().map(|d| DomainMatch::parse(d)).collect();
        let changes = header_changes!(host);
        let said = Said::read(take(&mut host.typed_per_filter_config)).under("typed_per_filter_config")?;
        finish(&host)?;
        Ok(Self { name, domains, changes, said })
    }

    /// Its route of this number.
    fn route(&self, table: &Table, index: usize, route: pb::Route, alike: &mut Alike) -> Compiled<Arc<Route>> {
        let at = if route.name.is_empty() { format!("routes[{index}]") } else { format!("routes[{}]", route.name) };
        let changes = (&self.changes, &table.changes);
        self::route(route, &self.said, changes, table.specific_last, alike).map(Arc::new).under(at)
    }

    fn of(self, routes: Vec<Arc<Route>>) -> VirtualHost {
        VirtualHost::new(self.name, self.domains, routes)
    }

    /// The same where `before` was there.
    fn after(self, before: &VirtualHost, routes: Vec<Arc<Route>>) -> VirtualHost {
        VirtualHost::after(before, self.name, self.domains, routes)
    }
}

type Changes = (HeaderMutations, HeaderMutations);

fn route(
    mut route: pb::Route,
    of_host: &Said,
    (host, table): (&Changes, &Changes),
    specific_last: bool,
    alike: &mut Alike,
) -> Compiled<Route> {
    let name: Arc<str> = take(&mut route.name).into();
    let chain = |own: HeaderMutations, host: &HeaderMutations, table: &HeaderMutations| -> Arc<[HeaderMutations]> {
        let mut all: Vec<_> = [own, host.clone(), table.clone()].into_iter().filter(|m| !m.is_empty()).collect();
        if specific_last {
            all.reverse();
        }
        all.into()
    };
    let (request_headers, response_headers) = alike.changes(&mut route, |mut said| {
        let (requests, responses) = header_changes!(said);
        Ok((chain(requests, &host.0, &table.0), chain(responses, &host.1, &table.1)))
    })?;
    let when = matches(required(route.r#match.take(), "match")?).under("match")?;
    let said = Said::read(take(&mut route.typed_per_filter_config)).under("typed_per_filter_config")?;
    let Said { cors, fault, limit, session, body, global, processing } = said.or(of_host);
    let action = match required(route.action.take(), "action")? {
        PbAction::Route(action) => Action::Forward(alike.forward(action, upstream).under("route")?),
        PbAction::Redirect(action) => Action::Redirect(Box::new(redirect(action).under("redirect")?)),
        PbAction::DirectResponse(action) => Action::Direct(Box::new(direct(action).under("direct_response")?)),
        PbAction::FilterAction(_) | PbAction::NonForwardingAction(_) => {
            return Err(Problem::new("the action is not implemented"));
        }
    };
    let metadata = metadata::by_filter(route.metadata.take());
    let sizes = SizeLimits { body, headers: metadata::max_header_bytes(&metadata).under("metadata")? };
    // It does not change what happens to a request.
    route.stat_prefix.clear();
    finish(&route)?;
    let session = session.flatten();
    let filters = RouteFilters { cors, session, fault, limit, sizes, metadata, global_limits: global, processing };
    Ok(Route { name, when, action, said: filters.held(), request_headers, response_headers })
}

fn matches(mut m: pb::RouteMatch) -> Compiled<RouteMatch> {
    let case_sensitive = boolean(m.case_sensitive.take(), true);
    let test = match required(m.path_specifier.take(), "a path")? {
        PathSpecifier::Prefix(prefix) => PathTest::Prefix(prefix.into()),
        PathSpecifier::Path(path) => PathTest::Exact(path.into()),
        PathSpecifier::PathSeparatedPrefix(prefix) => PathTest::PathSeparatedPrefix(prefix.into()),
        PathSpecifier::SafeRegex(regex) => PathTest::Regex(text::pattern(&regex).under("safe_regex")?),
        PathSpecifier::ConnectMatcher(_) => return Err(Problem::new("connect_matcher is not implemented here")),
        PathSpecifier::PathMatchPolicy(_) => return Err(Problem::new("path_match_policy is not implemented")),
    };
    let headers = take(&mut m.headers).into_iter().map(text::header).collect::<Compiled<_>>().under("headers")?;
    let query = take(&mut m.query_parameters).into_iter().map(text::query).collect::<Compiled<_>>().under("query_parameters")?;
    let peer = take(&mut m.filter_state)
        .into_iter()
        .map(|state| text::peer(state).map(|test| (test, false)))
        .collect::<Compiled<_>>()
        .under("filter_state")?;
    let grpc = m.grpc.take().is_some();
    finish(&m)?;
    Ok(RouteMatch::new(PathMatch { test, case_sensitive }, Conditions { headers, query, grpc, peer }))
}

fn upstream(mut action: pb::RouteAction) -> Compiled<Upstream> {
    let clusters = match required(action.cluster_specifier.take(), "a cluster")? {
        route_action::ClusterSpecifier::Cluster(name) => vec![Arc::new(ClusterWeight {
            cluster: name.into(),
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host: None,
        })],
        route_action::ClusterSpecifier::WeightedClusters(weighted) => weighted_clusters(weighted).under("weighted_clusters")?,
        _ => return Err(Problem::new("a cluster chosen by header or plugin is not implemented")),
    };
    use route_action::ClusterNotFoundResponseCode as NotFound;
    let cluster_not_found = match NotFound::try_from(take(&mut action.cluster_not_found_response_code)) {
        Ok(NotFound::ServiceUnavailable) => 503,
        Ok(NotFound::NotFound) => 404,
        Ok(NotFound::InternalServerError) => 500,
        Err(_) => return Err(Problem::new("cluster_not_found_response_code is not implemented")),
    };
    let prefix = take(&mut action.prefix_rewrite);
    let path = match (prefix.is_empty(), action.regex_rewrite.take()) {
        (true, None) => None,
        (false, None) => Some(PathRewrite::Prefix(prefix)),
        (true, Some(rewrite)) => {
            text::substitution(rewrite).map(|(p, s)| Some(PathRewrite::Regex(p, s))).under("regex_rewrite")?
        }
        (false, Some(_)) => return Err(Problem::new("both prefix_rewrite and regex_rewrite are set")),
    };
    let host = match action.host_rewrite_specifier.take() {
        None => None,
        Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(HostRewrite(host)),
        Some(_) => return Err(Problem::new("a host rewrite other than host_rewrite_literal is not implemented")),
    };
    let timeout = match action.timeout.take() {
        None => Some(DEFAULT_TIMEOUT),
        Some(timeout) => Some(duration(timeout).under("timeout")?).filter(|t| !t.is_zero()),
    };
    let retry = action.retry_policy.take().map(retry::policy).transpose().under("retry_policy")?;
    let mirrors = take(&mut action.request_mirror_policies)
        .into_iter()
        .map(mirror::policy)
        .collect::<Compiled<_>>()
        .under("request_mirror_policies")?;
    let hash = hash::policies(take(&mut action.hash_policy))?;
    let upgrades = upgrades::rules(take(&mut action.upgrade_configs)).under("upgrade_configs")?;
    // Where this is there, Envoy heeds neither of the others.
    let lasting = action.max_stream_duration.is_some();
    let timeout = timeout.filter(|_| !lasting);
    let calls = calls(&mut action)?.filter(|_| !lasting);
    let stream = stream(&mut action)?;
    finish(&action)?;
    Ok(Upstream { clusters, cluster_not_found, path, host, timeout, mirrors, retry, calls, stream, hash, upgrades })
}

/// How long streams may last and be silent. Zero is no limit, as where nothing is said.
fn stream(action: &mut pb::RouteAction) -> Compiled<Option<Box<StreamTimes>>> {
    let time = |said: Option<_>| said.map(duration).transpose();
    let limit = |said| time(said).map(|time| time.filter(|time| !time.is_zero()));
    let idle = limit(action.idle_timeout.take()).under("idle_timeout")?;
    let mut times = StreamTimes { idle, ..Default::default() };
    if let Some(mut said) = action.max_stream_duration.take() {
        const AT: &str = "max_stream_duration";
        times.longest = limit(said.max_stream_duration.take()).under(AT)?;
        times.calls = time(said.grpc_timeout_header_max.take()).under(AT)?;
        finish(&said).under(AT)?;
    }
    Ok(times.held())
}

/// Up to what the deadlines of calls hold.
#[allow(deprecated)]
fn calls(action: &mut pb::RouteAction) -> Compiled<Option<Duration>> {
    action.max_grpc_timeout.take().map(duration).transpose().under("max_grpc_timeout")
}

fn weighted_clusters(mut weighted: pb::WeightedCluster) -> Compiled<Vec<Arc<ClusterWeight>>> {
    let mut clusters = Vec::new();
    for weight in take(&mut weighted.clusters) {
        let at = format!("clusters[{}]", weight.name);
        clusters.push(Arc::new(cluster_weight(weight).under(at)?));
    }
    #[allow(deprecated)]
    {
        // Only checked by Envoy, never used to choose.
        weighted.total_weight = None;
    }
    finish(&weighted)?;
    Ok(clusters)
}

fn cluster_weight(mut weight: PbWeight) -> Compiled<ClusterWeight> {
    let cluster = take(&mut weight.name).into();
    let share = number(weight.weight.take()).unwrap_or(0);
    let (request_headers, response_headers) = header_changes!(weight);
    let host = weight.host_rewrite_specifier.take();
    let host = host.map(|cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)| HostRewrite(host));
    finish(&weight)?;
    Ok(ClusterWeight { cluster, weight: share, request_headers, response_headers, host })
}

fn redirect(mut action: pb::RedirectAction) -> Compiled<Redirect> {
    use redirect_action::{PathRewriteSpecifier as Path, RedirectResponseCode as Code, SchemeRewriteSpecifier as Scheme};
    let status = match Code::try_from(take(&mut action.response_code)) {
        Ok(Code::MovedPermanently) => 301,
        Ok(Code::Found) => 302,
        Ok(Code::SeeOther) => 303,
        Ok(Code::TemporaryRedirect) => 307,
        Ok(Code::PermanentRedirect) => 308,
        Err(_) => return Err(Problem::new("response_code is not implemented")),
    };
    let scheme = match action.scheme_rewrite_specifier.take() {
        None | Some(Scheme::HttpsRedirect(false)) => None,
        Some(Scheme::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(Scheme::SchemeRedirect(scheme)) => Some(scheme.to_ascii_lowercase()),
    };
    let path = match action.path_rewrite_specifier.take() {
        None => None,
        Some(Path::PathRedirect(path)) => Some(PathRewrite::Full(path)),
        Some(Path::PrefixRewrite(prefix)) => Some(PathRewrite::Prefix(prefix)),
        Some(Path::RegexRewrite(rewrite)) => {
            Some(text::substitution(rewrite).map(|(p, s)| PathRewrite::Regex(p, s)).under("regex_rewrite")?)
        }
        Some(Path::PathRewrite(_)) => return Err(Problem::new("path_rewrite is not implemented")),
    };
    let host = Some(take(&mut action.host_redirect)).filter(|h| !h.is_empty());
    let port = Some(port(take(&mut action.port_redirect)).under("port_redirect")?).filter(|p| *p != 0);
    let strip_query = take(&mut action.strip_query);
    finish(&action)?;
    Ok(Redirect { status, scheme, host, port, path, strip_query })
}

fn direct(mut action: pb::DirectResponseAction) -> Compiled<DirectResponse> {
    let status = u16::try_from(take(&mut action.status))
        .ok()
        .filter(|s| (200..600).contains(s))
        .ok_or_else(|| Problem::new("status is not an HTTP status"))?;
    let body = action.body.take().map(inline).transpose().under("body")?.unwrap_or_default();
    finish(&action)?;
    Ok(DirectResponse { status, body })
}

/// A text given in the resource itself.
pub fn inline(source: DataSource) -> Compiled<String> {
    match source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).map_err(|_| Problem::new("inline_bytes is not text")),
        _ => Err(Problem::new("only inline_string and inline_bytes are implemented")),
    }
}

/// The part of a message that says the same for each filter (`typed_per_filter_config`).
pub type PerFilter = HashMap<String, ambit_api::envoy::pb::google::protobuf::Any>;

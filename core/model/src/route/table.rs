//! Route tables: virtual hosts, their routes, and the first that matches.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::domains::{DomainMatch, Domains};
use super::paths::Paths;
use super::{
    Action, Cors, Fault, GlobalLimit, HeaderMatch, HeaderMutations, LocalLimit, PathMatch, QueryMatch, RequestView, Session,
    StringMatch,
};

/// What a request must be for a route to take it; all parts must hold.
#[derive(Debug, Clone, Serialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Headers, the method (`:method`) among them.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// Only gRPC requests (`content-type: application/grpc…`).
    pub grpc: bool,
    /// Connection facts kept by the terminating listener (`filter_state`), such as the client's identity; turned around when `true`.
    pub peer: Vec<(StringMatch, bool)>,
}

impl RouteMatch {
    /// Whether the request passes. `peer` is the client's SPIFFE id, if it has proven one.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>, peer: Option<&str>) -> bool {
        self.difference(request, peer).is_none()
    }

    /// The first part that the request does not pass; `None` when it passes all.
    #[must_use]
    pub fn difference(&self, request: &RequestView<'_>, peer: Option<&str>) -> Option<Difference<'_>> {
        if !self.path.matches(request.path()) {
            return Some(Difference::Path(&self.path));
        }
        if let Some(header) = self.headers.iter().find(|h| !h.matches(request)) {
            return Some(Difference::Header(header));
        }
        if let Some(query) = self.query.iter().find(|q| !q.matches(request)) {
            return Some(Difference::Query(query));
        }
        if self.grpc && !is_grpc(request) {
            return Some(Difference::Grpc);
        }
        let differs = |(test, invert): &&(StringMatch, bool)| peer.is_some_and(|p| test.matches(p)) == *invert;
        self.peer.iter().find(differs).map(|(test, invert)| Difference::Peer(test, *invert))
    }
}

/// The part of a [`RouteMatch`] that a request does not pass.
#[derive(Debug, Clone, Copy)]
pub enum Difference<'a> {
    /// The path.
    Path(&'a PathMatch),
    /// A header, or the method (`:method`).
    Header(&'a HeaderMatch),
    /// A query parameter.
    Query(&'a QueryMatch),
    /// It is no gRPC request.
    Grpc,
    /// The client; the test is turned around when `true`.
    Peer(&'a StringMatch, bool),
}

/// Whether the request is a gRPC call (`application/grpc` or `application/grpc+…`).
fn is_grpc(request: &RequestView<'_>) -> bool {
    request
        .headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// A route.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// What it takes.
    pub when: RouteMatch,
    /// What it does.
    pub action: Action,
    /// What pages of other origins may do, whatever the route does.
    pub cors: Option<Cors>,
    /// How requests of a session find their endpoint, if they have one.
    pub session: Option<Session>,
    /// What is put in the way of requests, whatever the route does.
    pub fault: Option<Arc<Fault>>,
    /// How often requests may come, whatever the route does. Routes of a virtual host may share one.
    pub limit: Option<Arc<LocalLimit>>,
    /// What the route says of itself, by filter.
    pub metadata: Value,
    /// Changes to requests, in the order they apply: those of the route, of the virtual host, of the table.
    pub request_headers: Vec<HeaderMutations>,
    /// Changes to responses, in the order they apply.
    pub response_headers: Vec<HeaderMutations>,
    /// What servers of limits are asked, by the name of the filter that asks.
    pub global_limits: BTreeMap<String, Arc<GlobalLimit>>,
    /// Whether filters of these names have requests processed outside; of others they say it themselves.
    pub processing: BTreeMap<String, bool>,
}

impl Route {
    /// All changes to a request that goes to `cluster`, in the order they apply: the cluster's before the route's, whatever
    /// `most_specific_header_mutations_wins` says of the others (so does Envoy).
    pub fn request_changes<'a>(&'a self, cluster: &'a HeaderMutations) -> impl Iterator<Item = &'a HeaderMutations> {
        std::iter::once(cluster).chain(&self.request_headers)
    }

    /// All changes to a response that comes from `cluster`, in the order they apply.
    pub fn response_changes<'a>(&'a self, cluster: &'a HeaderMutations) -> impl Iterator<Item = &'a HeaderMutations> {
        std::iter::once(cluster).chain(&self.response_headers)
    }
}

/// Routes for some hosts.
#[derive(Debug, Clone, Serialize)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    /// The hosts.
    pub domains: Vec<DomainMatch>,
    /// The routes; the first that matches takes the request.
    pub routes: Vec<Arc<Route>>,
    #[serde(skip)]
    paths: Paths,
}

impl VirtualHost {
    /// Routes for these hosts.
    #[must_use]
    pub fn new(name: impl Into<String>, domains: Vec<DomainMatch>, routes: Vec<Arc<Route>>) -> Self {
        let paths = Paths::new(&routes);
        Self { name: name.into(), domains, routes, paths }
    }
}

/// All routes of a listener's filter chain (`envoy.config.route.v3.RouteConfiguration`).
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteTable {
    /// Its name.
    pub name: String,
    /// Virtual hosts.
    pub hosts: Vec<VirtualHost>,
    /// The port in the request's host is not looked at.
    pub ignore_port: bool,
    #[serde(skip)]
    domains: Domains,
}

impl RouteTable {
    /// A table of these virtual hosts.
    #[must_use]
    pub fn new(name: impl Into<String>, hosts: Vec<VirtualHost>, ignore_port: bool) -> Self {
        let domains = Domains::new(&hosts);
        Self { name: name.into(), hosts, ignore_port, domains }
    }

    /// The same, with what `before` has counted: limits that are said as they were go on where they are.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for host in &mut self.hosts {
            let Some(held) = before.hosts.iter().find(|held| held.name == host.name) else { continue };
            let of_route = |name: &str| held.routes.iter().find(|route| *route.name == *name)?.limit.as_ref();
            // Routes that share one share it afterwards, too.
            let mut replaced: Vec<(*const LocalLimit, Arc<LocalLimit>)> = Vec::new();
            for route in &host.routes {
                if Arc::strong_count(route) == 1
                    && let (Some(limit), Some(before)) = (&route.limit, of_route(&route.name))
                    && !replaced.iter().any(|(of, _)| *of == Arc::as_ptr(limit))
                {
                    replaced.push((Arc::as_ptr(limit), Arc::new(LocalLimit::clone(limit).after(before))));
                }
            }
            for route in host.routes.iter_mut().filter_map(Arc::get_mut) {
                let Some(limit) = &mut route.limit else { continue };
                if let Some((_, other)) = replaced.iter().find(|(of, _)| *of == Arc::as_ptr(limit)) {
                    *limit = other.clone();
                }
            }
        }
        self
    }

    /// The route for a request: the virtual host that fits best, and there the first route that matches.
    #[must_use]
    pub fn select(&self, request: &RequestView<'_>, peer: Option<&str>) -> Option<&Arc<Route>> {
        let host = self.host(request.authority)?;
        host.paths.first(&host.routes, request.path(), |route| route.when.matches(request, peer))
    }

    /// The virtual host that fits best.
    pub(crate) fn host(&self, authority: &str) -> Option<&VirtualHost> {
        if let [only] = self.hosts.as_slice()
            && only.domains.contains(&DomainMatch::Any)
        {
            return Some(only);
        }
        let host = self.compared(authority);
        self.hosts.get(self.domains.best(&host)?)
    }

    /// The host of a request as domains are compared with it.
    pub(crate) fn compared(&self, authority: &str) -> String {
        let mut host = authority.to_ascii_lowercase();
        if self.ignore_port
            && let Some((name, port)) = host.rsplit_once(':')
            && port.bytes().all(|b| b.is_ascii_digit())
            && (!name.contains(':') || name.ends_with(']'))
        {
            host.truncate(name.len());
        }
        host
    }
}

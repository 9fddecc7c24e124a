//! Route tables: virtual hosts, their routes, and the first that matches.

use std::{cell::LazyCell, collections::HashMap, sync::Arc};

use serde::{Serialize, Serializer};

use super::domains::{DomainMatch, Domains};
use super::filters::{NOTHING, RouteFilters};
use super::paths::Paths;
use super::{Action, HeaderMatch, HeaderMutations, LocalLimit, PathMatch, QueryMatch, RequestView, StringMatch};

/// What a request must be for a route to take it; all parts must hold.
#[derive(Debug, Clone, Serialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// What else it must be, held aside: of thousands of routes most ask for nothing but a path.
    #[serde(flatten, serialize_with = "conditions")]
    more: Option<Box<Conditions>>,
}

/// What a request must be besides its path; all parts must hold.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Conditions {
    /// Headers, the method (`:method`) among them.
    pub headers: Box<[HeaderMatch]>,
    /// Query parameters.
    pub query: Box<[QueryMatch]>,
    /// Only gRPC requests (`content-type: application/grpc…`).
    pub grpc: bool,
    /// Connection facts kept by the terminating listener (`filter_state`), such as the client's identity; turned around when `true`.
    pub peer: Box<[(StringMatch, bool)]>,
}

fn conditions<S: Serializer>(more: &Option<Box<Conditions>>, serializer: S) -> Result<S::Ok, S::Error> {
    match more {
        Some(conditions) => conditions.serialize(serializer),
        None => Conditions::default().serialize(serializer),
    }
}

impl RouteMatch {
    /// Requests for this path that are all of that.
    #[must_use]
    pub fn new(path: PathMatch, conditions: Conditions) -> Self {
        let Conditions { headers, query, grpc, peer } = &conditions;
        let asks = !headers.is_empty() || !query.is_empty() || *grpc || !peer.is_empty();
        Self { path, more: asks.then(|| Box::new(conditions)) }
    }

    /// What it asks for besides the path, if anything.
    #[must_use]
    pub fn conditions(&self) -> Option<&Conditions> {
        self.more.as_deref()
    }

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
        let more = self.conditions()?;
        if let Some(header) = more.headers.iter().find(|h| !h.matches(request)) {
            return Some(Difference::Header(header));
        }
        if let Some(query) = more.query.iter().find(|q| !q.matches(request)) {
            return Some(Difference::Query(query));
        }
        if more.grpc && !is_grpc(request) {
            return Some(Difference::Grpc);
        }
        let differs = |(test, invert): &&(StringMatch, bool)| peer.is_some_and(|p| test.matches(p)) == *invert;
        more.peer.iter().find(differs).map(|(test, invert)| Difference::Peer(test, *invert))
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
    /// What it says for single filters, which [`Self::filters`] reads.
    #[serde(flatten, serialize_with = "filters")]
    pub said: Option<Box<RouteFilters>>,
    /// Changes to requests, in the order they apply: those of the route, of the virtual host, of the table. Routes that make the same ones share
    /// them.
    pub request_headers: Arc<[HeaderMutations]>,
    /// Changes to responses, in the order they apply.
    pub response_headers: Arc<[HeaderMutations]>,
}

fn filters<S: Serializer>(said: &Option<Box<RouteFilters>>, serializer: S) -> Result<S::Ok, S::Error> {
    said.as_deref().unwrap_or(&NOTHING).serialize(serializer)
}

impl Route {
    /// What it says for single filters.
    #[must_use]
    pub fn filters(&self) -> &RouteFilters {
        self.said.as_deref().unwrap_or(&NOTHING)
    }

    /// All changes to a request that goes to `cluster`, in the order they apply: the cluster's before the route's, whatever
    /// `most_specific_header_mutations_wins` says of the others (so does Envoy).
    pub fn request_changes<'a>(&'a self, cluster: &'a HeaderMutations) -> impl Iterator<Item = &'a HeaderMutations> {
        std::iter::once(cluster).chain(self.request_headers.iter())
    }

    /// All changes to a response that comes from `cluster`, in the order they apply.
    pub fn response_changes<'a>(&'a self, cluster: &'a HeaderMutations) -> impl Iterator<Item = &'a HeaderMutations> {
        std::iter::once(cluster).chain(self.response_headers.iter())
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
    paths: Arc<Paths>,
}

impl VirtualHost {
    /// Routes for these hosts.
    #[must_use]
    pub fn new(name: impl Into<String>, domains: Vec<DomainMatch>, routes: Vec<Arc<Route>>) -> Self {
        let paths = Arc::new(Paths::new(&routes));
        Self { name: name.into(), domains, routes, paths }
    }

    /// The same where `before` was there, most of whose routes may be there still: what is known of the paths of all is taken over, if that is
    /// what it was.
    #[must_use]
    pub fn after(before: &Self, name: impl Into<String>, domains: Vec<DomainMatch>, routes: Vec<Arc<Route>>) -> Self {
        let same =
            |(one, other): (&Arc<Route>, &Arc<Route>)| Arc::ptr_eq(one, other) || one.when.path.is_sorted_as(&other.when.path);
        if routes.len() == before.routes.len() && routes.iter().zip(&before.routes).all(same) {
            return Self { name: name.into(), domains, routes, paths: Arc::clone(&before.paths) };
        }
        Self::new(name, domains, routes)
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
            // Of those with the same name the first counts. Mostly no route asks.
            let named = LazyCell::new(|| -> HashMap<&str, &Arc<Route>> {
                held.routes.iter().rev().map(|route| (&*route.name, route)).collect()
            });
            // Most are the very ones that there were, at the same place.
            let kept = |(at, route): (usize, &Arc<Route>)| held.routes.get(at).is_some_and(|held| Arc::ptr_eq(held, route));
            let fresh: Vec<usize> = (0..).zip(&host.routes).filter(|found| !kept(*found)).map(|(at, _)| at).collect();
            // Routes that share one share it afterwards, too.
            let mut replaced: Vec<(*const LocalLimit, Arc<LocalLimit>)> = Vec::new();
            for route in fresh.iter().filter_map(|at| host.routes.get(*at)) {
                if Arc::strong_count(route) == 1
                    && let Some(limit) = &route.filters().limit
                    && !replaced.iter().any(|(of, _)| *of == Arc::as_ptr(limit))
                    && let Some(before) = named.get(&*route.name).and_then(|held| held.filters().limit.as_ref())
                {
                    replaced.push((Arc::as_ptr(limit), Arc::new(LocalLimit::clone(limit).after(before))));
                }
            }
            if replaced.is_empty() {
                continue;
            }
            for at in fresh {
                let route = host.routes.get_mut(at).and_then(Arc::get_mut);
                let Some(limit) = route.and_then(|route| route.said.as_mut()?.limit.as_mut()) else { continue };
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

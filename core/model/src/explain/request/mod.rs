//! Why a request takes its route, and what rules say of it. As for connections nothing is decided here: [`RouteTable::select`] and
//! [`evaluate`](crate::route::evaluate) are asked for their grounds, part by part, by the same tests.

mod rules;
#[cfg(test)]
mod tests;

use std::{ptr, sync::Arc};

use serde::Serialize;

use crate::route::{Difference, HeaderMatch, RequestView, Route, RouteTable, VirtualHost};

pub use rules::{RuleSaid, rulings};

/// How many alternatives of a test are named.
const NAMED: usize = 4;

/// Where a request and what is asked of it differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Differs {
    /// What was looked at: `path`, `method`, `header x-version`.
    pub field: String,
    /// What is asked of it, as the end of a sentence.
    pub wanted: String,
    /// What it is; `None` when it is not there.
    pub seen: Option<String>,
}

impl Differs {
    fn new(field: impl Into<String>, wanted: impl Into<String>, seen: Option<impl Into<String>>) -> Self {
        Self { field: field.into(), wanted: wanted.into(), seen: seen.map(Into::into) }
    }

    fn header(test: &HeaderMatch, request: Option<&RequestView<'_>>, holds: bool) -> Self {
        let field = match test.name.as_str() {
            ":method" => "method".to_owned(),
            ":authority" | "host" => "host".to_owned(),
            ":path" => "path with its query".to_owned(),
            ":scheme" => "scheme".to_owned(),
            name => format!("header {name}"),
        };
        let seen = request.and_then(|request| request.header(&test.name)).map(std::borrow::Cow::into_owned);
        Self::new(field, test.in_words(holds), seen)
    }

    fn of(difference: Difference<'_>, request: &RequestView<'_>, peer: Option<&str>) -> Self {
        match difference {
            Difference::Path(test) => Self::new("path", test.in_words(true), Some(request.path())),
            Difference::Header(test) => Self::header(test, Some(request), true),
            Difference::Query(test) => {
                Self::new(format!("query parameter {}", test.name), test.in_words(), request.query_parameter(&test.name))
            }
            Difference::Grpc => {
                Self::new("header content-type", "is that of gRPC", request.header("content-type").map(String::from))
            }
            Difference::Peer(test, invert) => Self::new("client's identity", test.in_words(!invert), peer),
        }
    }
}

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it asks that the {} {}, and ", self.field, self.wanted)?;
        match &self.seen {
            Some(seen) => write!(f, "it is {seen:?}"),
            None => f.write_str("there is none"),
        }
    }
}

/// A virtual host that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostConsidered {
    /// Its name.
    pub name: String,
    /// It is the one whose routes are for the request.
    pub chosen: bool,
    /// Why it is not for the request; none when it is, or when another one fits the host better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Differs>,
    /// Its routes up to the one that takes the request, when it was chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteConsidered>,
    /// How many routes come after that, which were not looked at.
    pub after: usize,
}

/// A route that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteConsidered {
    /// Its name.
    pub name: Arc<str>,
    /// The first part of it that the request does not pass; none when it takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Differs>,
}

/// How a table chooses.
#[derive(Debug, Clone)]
pub struct Routing<'a> {
    /// Its virtual hosts, in their order.
    pub hosts: Vec<HostConsidered>,
    /// The route that takes the request: what [`RouteTable::select`] answers.
    pub route: Option<&'a Arc<Route>>,
}

/// How `table` chooses for a request of `peer`, the client's SPIFFE id.
#[must_use]
pub fn routing<'a>(table: &'a RouteTable, request: &RequestView<'_>, peer: Option<&str>) -> Routing<'a> {
    let chosen = table.host(request.authority);
    let host = table.compared(request.authority);
    let mut routing = Routing { hosts: Vec::new(), route: None };
    for virtual_host in &table.hosts {
        let mut considered =
            HostConsidered { name: virtual_host.name.clone(), chosen: false, differs: None, routes: Vec::new(), after: 0 };
        if chosen.is_some_and(|chosen| ptr::eq(chosen, virtual_host)) {
            considered.chosen = true;
            routing.route = considered.look(virtual_host, request, peer);
        } else if virtual_host.domains.iter().all(|domain| domain.rank(&host).is_none()) {
            let domains: Vec<String> = virtual_host.domains.iter().map(|domain| domain.in_words()).collect();
            considered.differs = Some(Differs::new("host", format!("is {}", some_of(&domains)), Some(host.as_str())));
        }
        routing.hosts.push(considered);
    }
    routing
}

impl HostConsidered {
    fn look<'a>(&mut self, host: &'a VirtualHost, request: &RequestView<'_>, peer: Option<&str>) -> Option<&'a Arc<Route>> {
        for (at, route) in host.routes.iter().enumerate() {
            let difference = route.when.difference(request, peer);
            let differs = difference.map(|difference| Differs::of(difference, request, peer));
            let takes = differs.is_none();
            self.routes.push(RouteConsidered { name: route.name.clone(), differs });
            if takes {
                self.after = host.routes.len() - at - 1;
                return Some(route);
            }
        }
        None
    }
}

/// The first of several texts, and how many there are besides.
fn some_of(texts: &[String]) -> String {
    let first = texts.iter().take(NAMED).cloned().collect::<Vec<_>>().join(" or ");
    match texts.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} or one of {more} more"),
    }
}

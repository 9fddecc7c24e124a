//! What routes for requests were translated to, kept from one translation of a waypoint to the next. Where thousands of matches are attached to a
//! service, the change of one route then costs what that route takes, and a copy of the bytes of all others.
//!
//! The translation gives the same with a memory and with an empty one. What is kept of a route holds while the route is the same and nothing has
//! changed that routes are translated by ([`RouteContext`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::r#type::matcher::v3::FilterStateMatcher;

use super::super::scope::ServedPort;
use super::matching::Precedence;
use super::table::{Named, finished};
use super::{Backend, RequestRoute, matches_of};
use crate::index::{Index, RouteContext, RouteKey, ServiceRef};
use crate::source::{Kind, NamespacedName};

/// The routes of one waypoint, translated.
#[derive(Debug, Default)]
pub struct RouteMemory {
    context: RouteContext,
    tables: BTreeMap<Place, Table>,
    translated: usize,
}

/// A port of a service, and the namespace of the clients that routes hold for; `None` for all that have none of their own.
type Place = (ServiceRef, u16, Option<String>);

/// The routes of one place.
#[derive(Debug, Default)]
pub struct Table {
    /// The present translation has it.
    used: bool,
    routes: BTreeMap<RouteKey, Translated>,
    /// What the matches of all of them became, encoded as in the virtual host, the first that applies first.
    ordered: BTreeMap<(Precedence, Kind), Box<[u8]>>,
}

/// One route.
#[derive(Debug)]
struct Translated {
    from: RequestRoute,
    /// Mostly one; a set would have room for eleven.
    backends: Box<[Backend]>,
    named: Named,
}

impl RouteMemory {
    /// A translation begins: what is not to be gone by any more is forgotten.
    pub(crate) fn begin(&mut self, index: &Index) {
        if self.context != *index.route_context() {
            self.tables.clear();
            self.context = index.route_context().clone();
        }
        self.tables.values_mut().for_each(|table| table.used = false);
    }

    /// It ends: what it had no need of is forgotten.
    pub(crate) fn end(&mut self) {
        self.tables.retain(|_, table| table.used);
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many routes had to be translated since it is there.
    #[must_use]
    pub fn translated(&self) -> usize {
        self.translated
    }

    /// The table of these routes, all of one kind, for the clients of a namespace, or for all others.
    pub(crate) fn table(
        &mut self,
        index: &Index,
        port: &ServedPort<'_>,
        clients: Option<(&str, &FilterStateMatcher)>,
        routes: &[RequestRoute],
    ) -> &Table {
        let place = (port.service.clone(), port.port.port, clients.map(|(namespace, _)| namespace.to_owned()));
        let table = self.tables.entry(place).or_default();
        table.used = true;
        self.translated += table.update(index, port, clients.map(|(_, matcher)| matcher), routes);
        table
    }
}

impl Table {
    /// Has just these routes in it; how many were translated for that.
    fn update(
        &mut self,
        index: &Index,
        port: &ServedPort<'_>,
        clients: Option<&FilterStateMatcher>,
        routes: &[RequestRoute],
    ) -> usize {
        let routes: BTreeMap<RouteKey, &RequestRoute> = routes.iter().map(|route| (route.key(), route)).collect();
        let is_same = |key: &RouteKey, held: &Translated| routes.get(key).is_some_and(|route| held.from.says_as(route));
        let stale: Vec<RouteKey> =
            self.routes.iter().filter(|(key, held)| !is_same(key, held)).map(|(key, _)| key.clone()).collect();
        self.forget(&stale);
        let mut translated = 0;
        for (key, route) in routes {
            match self.routes.get_mut(&key) {
                Some(held) if Arc::ptr_eq(&held.from.route, &route.route) => {}
                // It says the same, and is another object: the one before is not to be kept for it.
                Some(held) => held.from = route.clone(),
                None => {
                    self.translate(index, port, clients, key, route);
                    translated += 1;
                }
            }
        }
        translated
    }

    fn forget(&mut self, stale: &[RouteKey]) {
        if stale.is_empty() {
            return;
        }
        let stale: BTreeSet<(Kind, &NamespacedName)> = stale.iter().map(|key| (key.kind, &key.name)).collect();
        self.routes.retain(|key, _| !stale.contains(&(key.kind, &key.name)));
        self.ordered.retain(|(precedence, kind), _| !stale.contains(&(*kind, precedence.name())));
    }

    fn translate(
        &mut self,
        index: &Index,
        port: &ServedPort<'_>,
        clients: Option<&FilterStateMatcher>,
        key: RouteKey,
        from: &RequestRoute,
    ) {
        let (mut backends, mut named) = (BTreeSet::new(), Named::default());
        let mut made = Vec::new();
        for (precedence, routes) in matches_of(index, port, from, &mut backends) {
            let mut fields = Vec::new();
            for route in routes {
                fields.extend(finished(index, route, clients, &mut named));
            }
            made.push(((precedence, key.kind), fields.into_boxed_slice()));
        }
        // Not before all of it is there: were it given up in between, nothing would be left of it.
        self.ordered.extend(made);
        self.routes.insert(key, Translated { from: from.clone(), backends: backends.into_iter().collect(), named });
    }

    /// Adds the routes, in their order, to those of a virtual host, and what they lead to and name to what others do.
    pub fn append_to(&self, fields: &mut Vec<u8>, backends: &mut BTreeSet<Backend>, named: &mut Named) {
        fields.reserve(self.ordered.values().map(|field| field.len()).sum());
        self.ordered.values().for_each(|field| fields.extend_from_slice(field));
        for route in self.routes.values() {
            for backend in &route.backends {
                if !backends.contains(backend) {
                    backends.insert(backend.clone());
                }
            }
            named.add(&route.named);
        }
    }
}

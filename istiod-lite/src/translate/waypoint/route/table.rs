//! The route configuration of a service port.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::{FilterStateMatcher, string_matcher::MatchPattern};

use super::super::names::Layer;
use super::super::scope::ServedPort;
use super::super::wire::{self, Any, bool_value, entry, matches, peer_is};
use super::super::{ext_proc, limiter, sizes};
use super::{Backend, RouteMemory, deadline, for_everyone, not_found, requests};
use crate::index::Index;

/// What routes name that others have to have: their virtual host, or the filters before it.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Limits that the virtual host says: of each its kind, and the policy.
    limits: BTreeSet<(String, String)>,
    /// The extension providers that process requests.
    pub processors: BTreeSet<String>,
    /// The extension providers that count them.
    pub limiters: BTreeSet<String>,
    /// Whether one of them says how long bodies may be.
    pub bodies: bool,
}

impl Named {
    fn note(&mut self, route: &Route) {
        self.limits.extend(requests::limits(route).map(|(kind, policy)| (kind.to_owned(), policy.to_owned())));
        self.limiters.extend(limiter::providers(route).map(str::to_owned));
        self.bodies |= sizes::is_named(route);
    }

    /// Adds what other routes name.
    pub fn add(&mut self, other: &Self) {
        self.limits.extend(other.limits.iter().cloned());
        self.processors.extend(other.processors.iter().cloned());
        self.limiters.extend(other.limiters.iter().cloned());
        self.bodies |= other.bodies;
    }
}

/// A route configuration, encoded.
pub struct Configured {
    /// Its name.
    pub name: String,
    /// It.
    pub resource: Any,
    /// What its routes name.
    pub named: Named,
}

/// The route configuration of a service port. The services it sends to are added to `backends`.
pub fn configuration(
    index: &Index,
    port: &ServedPort<'_>,
    backends: &mut BTreeSet<Backend>,
    memory: &mut RouteMemory,
) -> Configured {
    let (mut routes, mut named) = (Vec::new(), Named::default());
    for (namespace, of_namespace) in &port.attached.consumer {
        let domain = &index.config().trust_domain;
        let clients = peer_is(matches(MatchPattern::Prefix(format!("spiffe://{domain}/ns/{namespace}/sa/"))));
        let table = memory.table(index, port, Some((namespace.as_str(), &clients)), of_namespace);
        table.append_to(&mut routes, backends, &mut named);
        // Consumer routes are not merged with the producer's: what they do not match is not found.
        let unmatched = not_found(&format!("{namespace}/unmatched"));
        routes.extend(finished(index, unmatched, Some(&clients), &mut named));
    }
    if port.attached.producer.is_empty() {
        for route in for_everyone(index, port, backends) {
            routes.extend(finished(index, route, None, &mut named));
        }
    } else {
        let table = memory.table(index, port, None, &port.attached.producer);
        table.append_to(&mut routes, backends, &mut named);
    }
    let name = port.chain(Layer::Http);
    let limits = requests::of_host(index, &named.limits);
    let host = VirtualHost {
        name: name.clone(),
        domains: vec!["*".into()],
        typed_per_filter_config: limits.map(|limits| entry(requests::LIMITS, limits)).unwrap_or_default(),
        ..Default::default()
    };
    let configuration = RouteConfiguration {
        name: name.clone(),
        validate_clusters: bool_value(false),
        // A backend's filters run after those of its rule.
        most_specific_header_mutations_wins: true,
        ..Default::default()
    };
    Configured { name, resource: wire::with_routes(&configuration, &host, &routes), named }
}

/// A route as a field of its virtual host, for these clients alone if they are given. What it names is noted.
pub fn finished(index: &Index, route: Route, clients: Option<&FilterStateMatcher>, named: &mut Named) -> Vec<u8> {
    let mut route = deadline::of_calls(route);
    if let (Some(clients), Some(condition)) = (clients, &mut route.r#match) {
        condition.filter_state.push(clients.clone());
    }
    named.processors.extend(ext_proc::settle(index, &mut route));
    named.note(&route);
    wire::route_field(route)
}

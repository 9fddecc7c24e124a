//! Endpoints that go with hashes of requests, as a TrafficPolicy or a DestinationRule asks for it: how a cluster leads from one to the other, and
//! what its routes hash. Connections have no hash, so that those of a port that is no HTTP take turns.

use std::collections::BTreeSet;

use ambit_api::envoy::pb::envoy::config::cluster::v3 as envoy;
use ambit_api::envoy::pb::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig};
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};
use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HashPolicy};
use ambit_api::envoy::pb::envoy::config::route::v3::{Route, route::Action};
use ambit_api::envoy::pb::google::protobuf::UInt64Value;

use super::names::Layer;
use super::route::{Backend, parse_duration};
use super::traffic;
use super::wire;
use crate::index::{Index, ServiceRef};
use crate::source::crd::destination::{DestinationRule, LoadBalancer, RulePolicy};
use crate::source::crd::duration;
use crate::source::crd::hash::{ConsistentHash, HashOn, HttpCookie, as_ring, as_table, is_name, is_said};
use crate::source::crd::traffic::{LoadBalancing, LoadBalancingPolicy, TrafficPolicy};

/// How endpoints go with hashes, and of what these are.
#[derive(Debug, Clone, PartialEq)]
pub struct Hashing {
    kind: Kind,
    by: Vec<HashPolicy>,
}

/// Each with its size, where that is not Envoy's default.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Ring(Option<u64>),
    Maglev(Option<u64>),
}

impl Hashing {
    /// What a TrafficPolicy asks for.
    pub fn of_policy(said: &LoadBalancing) -> Option<Self> {
        let kind = match said.policy {
            LoadBalancingPolicy::RingHash => Kind::Ring(None),
            LoadBalancingPolicy::Maglev => Kind::Maglev(None),
            _ => return None,
        };
        Some(Self { kind, by: said.hash_on.iter().filter_map(of_one).map(policy).collect() })
    }

    /// What a DestinationRule asks for, as far as it can be. Without anything to hash there is nothing that it could mean.
    pub fn of_rule(said: &LoadBalancer) -> Option<Self> {
        let said = said.consistent_hash.as_ref()?;
        let by = vec![policy(of_hash(said)?)];
        let kind = match (&said.maglev, &said.ring_hash) {
            (Some(maglev), _) => Kind::Maglev(maglev.table_size.and_then(as_table)),
            (None, Some(ring)) => Kind::Ring(ring.minimum_ring_size.and_then(as_ring)),
            (None, None) => Kind::Ring(said.minimum_ring_size.and_then(as_ring)),
        };
        Some(Self { kind, by })
    }

    /// Puts it into a cluster of requests.
    pub fn apply_to(&self, cluster: &mut envoy::Cluster) {
        let (policy, config) = match self.kind {
            Kind::Ring(least) => {
                let config = |value| RingHashLbConfig { minimum_ring_size: Some(UInt64Value { value }), ..Default::default() };
                (LbPolicy::RingHash, least.map(config).map(LbConfig::RingHashLbConfig))
            }
            Kind::Maglev(size) => {
                let config = |value| MaglevLbConfig { table_size: Some(UInt64Value { value }) };
                (LbPolicy::Maglev, size.map(config).map(LbConfig::MaglevLbConfig))
            }
        };
        cluster.lb_policy = policy.into();
        cluster.lb_config = config;
    }

    /// What its requests are told apart by.
    pub fn into_policies(self) -> Vec<HashPolicy> {
        self.by
    }
}

/// Has the requests of a route hashed as the clusters ask for that it leads to, which are among the `backends`; for several of them by all that
/// they ask for together (so does Istio), as a route hashes its requests before one of them is chosen.
pub fn on_route(index: &Index, route: &mut Route, backends: &BTreeSet<Backend>) {
    let Some(Action::Route(action)) = &mut route.action else { return };
    if !is_asked(index) {
        return;
    }
    let names: Vec<&str> = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name.as_str()],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted.clusters.iter().map(|share| share.name.as_str()).collect(),
        _ => return,
    };
    let mut found = Vec::new();
    for name in names {
        let is_it = |backend: &&Backend| may_be_of(&backend.service, name) && backend.cluster(index, Layer::Http) == name;
        let Some(backend) = backends.iter().find(is_it) else { continue };
        let asked = traffic::hashing(index, &backend.service, backend.port, backend.subset.as_deref());
        for policy in asked.into_iter().flat_map(Hashing::into_policies) {
            if !found.contains(&policy) {
                found.push(policy);
            }
        }
    }
    action.hash_policy = found;
}

/// Whether this can be the name of a cluster of a service. There may be thousands of backends, whose names nobody has to make.
fn may_be_of(service: &ServiceRef, cluster: &str) -> bool {
    let (ServiceRef::Kubernetes(known) | ServiceRef::Host(known)) = service;
    cluster.contains(&*known.name)
}

/// Takes out again what [`on_route`] adds, for clients that choose endpoints themselves, in turn.
pub fn without(mut route: Route) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        action.hash_policy.clear();
    }
    route
}

/// Whether anybody asks for it: most meshes have no such thing, and are not to pay for it.
fn is_asked(index: &Index) -> bool {
    let objects = index.objects();
    let by_policy = |policy: &TrafficPolicy| policy.spec.load_balancing.as_ref().is_some_and(|said| said.policy.hashes());
    let hashes = |balancer: &Option<LoadBalancer>| balancer.as_ref().is_some_and(|said| said.consistent_hash.is_some());
    let one = |policy: &RulePolicy| {
        hashes(&policy.load_balancer) || policy.port_level_settings.iter().any(|settings| hashes(&settings.load_balancer))
    };
    let by_rule = |rule: &DestinationRule| {
        let of_subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
        rule.spec.traffic_policy.iter().chain(of_subsets).any(one)
    };
    objects.traffic_policies.values().any(|policy| by_policy(policy))
        || objects.destination_rules.values().any(|rule| by_rule(rule))
}

fn policy(by: PolicySpecifier) -> HashPolicy {
    HashPolicy { policy_specifier: Some(by), terminal: false }
}

fn of_one(said: &HashOn) -> Option<PolicySpecifier> {
    if let Some(name) = &said.header {
        return Some(by_header(name));
    }
    if let Some(said) = &said.cookie {
        // For all paths, as a session's.
        let (name, path) = (said.name.clone(), "/".to_owned());
        let ttl = said.ttl.as_deref().and_then(parse_duration).and_then(wire::duration);
        return Some(PolicySpecifier::Cookie(Cookie { name, path, ttl, ..Default::default() }));
    }
    if let Some(name) = &said.query_parameter {
        return Some(PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }));
    }
    by_source(said.source_ip)
}

/// What of a rule can be hashed by.
fn of_hash(said: &ConsistentHash) -> Option<PolicySpecifier> {
    if let Some(name) = said.http_header_name.as_deref().filter(|name| is_name(name)) {
        return Some(by_header(name));
    }
    if let Some(cookie) = said.http_cookie.as_ref().filter(|cookie| is_name(&cookie.name)) {
        return Some(PolicySpecifier::Cookie(of_cookie(cookie)));
    }
    if let Some(name) = said.http_query_parameter_name.as_ref().filter(|name| !name.is_empty()) {
        return Some(PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }));
    }
    by_source(said.use_source_ip)
}

fn of_cookie(said: &HttpCookie) -> Cookie {
    let attribute =
        |name: &str, value: Option<&str>| CookieAttribute { name: name.to_owned(), value: value.unwrap_or_default().to_owned() };
    let attributes = said.attributes.iter().map(|said| (said.name.as_str(), said.value.as_deref()));
    let good = |(name, value): &(&str, Option<&str>)| !name.is_empty() && is_said(name) && value.is_none_or(is_said);
    Cookie {
        name: said.name.clone(),
        ttl: said.ttl.as_deref().and_then(duration::parse).and_then(wire::duration),
        path: said.path.clone().filter(|path| is_said(path)).unwrap_or_default(),
        attributes: attributes.filter(good).map(|(name, value)| attribute(name, value)).collect(),
    }
}

fn by_header(name: &str) -> PolicySpecifier {
    PolicySpecifier::Header(Header { header_name: name.to_owned(), regex_rewrite: None })
}

fn by_source(asked: Option<bool>) -> Option<PolicySpecifier> {
    asked.filter(|asked| *asked).map(|source_ip| PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip }))
}

//! The internal listener that sees the connections inside the tunnels.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ambit_api::envoy::pb::envoy::config::accesslog::v3::AccessLog;
use ambit_api::envoy::pb::envoy::config::core::v3::Metadata;
use ambit_api::envoy::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use ambit_api::envoy::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, ListenerFilterChainMatchPredicate};
use ambit_api::envoy::pb::envoy::config::route::v3::{
    Route, RouteConfiguration, RouteMatch, VirtualHost, route::Action, route_match::PathSpecifier,
};
use ambit_api::envoy::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream;
use ambit_api::envoy::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use ambit_api::envoy::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use ambit_api::envoy::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use ambit_api::envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use ambit_api::envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use ambit_api::envoy::pb::envoy::r#type::v3::Int32Range;
use ambit_api::envoy::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use ambit_identity::SpiffeId;

use super::super::access_log::or_own;
use super::super::connection::{Named, leads as leads_by_name};
use super::super::metrics;
use super::super::names::{
    AMBIT_METADATA, BLOCKED, DIRECT, Layer, MAIN_INTERNAL, ORIGINAL_DESTINATION, UPSTREAM_IDENTITY, direct,
};
use super::super::rbac::{Enforcement, OfAction, nothing_allowed};
use super::super::route;
use super::super::scope::{ServedPort, Spoken};
use super::super::wire::ordered::NetworkRbac;
use super::super::wire::{any_as, bool_value, entry, seconds, string_kind};
use super::http::{self, Routes};
use super::matcher::{Lead, by_address};
use super::{
    access_log, filter_state, internal_listener, listener_filter, network_filter, network_filter_any, original_destination,
};

/// Connections of the mesh may be idle in a waypoint for as long as in the node proxies at their ends, which end them (in seconds, 0 is no limit).
const ENDLESS: u64 = 0;

/// What the filter chains of a service port are made of.
pub struct ServicePortChains<'a> {
    /// The port.
    pub port: &'a ServedPort<'a>,
    /// Policies for requests.
    pub for_requests: Enforcement,
    /// Policies for connections.
    pub for_connections: Enforcement,
    /// The clusters that connections are spread over, with their weights; never empty.
    pub targets: Vec<(String, u32)>,
    /// The chains that connections take by server name, in place of one for all of them.
    pub named: Vec<Named>,
}

/// The filter chains with what leads to them.
#[derive(Default)]
pub struct Chains {
    chains: Vec<FilterChain>,
    leads: Vec<(Vec<IpAddr>, Lead)>,
    /// Destination ports where the client's first bytes have to be looked at.
    sniffed: BTreeSet<u16>,
    sniff_all: bool,
    /// Destination ports where the server name decides that a TLS client says first.
    named: BTreeSet<u16>,
}

impl Chains {
    /// Adds the chains of all ports of one service.
    pub fn service(&mut self, ports: &[ServicePortChains<'_>]) {
        let Some(first) = ports.first() else { return };
        let addresses = first.port.addresses.clone();
        let mut leads = Vec::new();
        for ServicePortChains { port, for_requests, for_connections, targets, named } in ports {
            for layer in port.layers() {
                match layer {
                    Layer::Http => self.chains.push(http_chain(port, for_requests)),
                    Layer::Tcp if named.is_empty() => {
                        self.chains.push(tcp_chain(port.chain(Layer::Tcp), &port.host, for_connections, targets));
                    }
                    Layer::Tcp => {
                        let chain = |of: &Named| tcp_chain(of.chain.clone(), &port.host, for_connections, &of.targets);
                        self.chains.extend(named.iter().map(chain));
                    }
                }
            }
            let (http, tcp) = (port.chain(Layer::Http), port.chain(Layer::Tcp));
            let lead = match port.spoken() {
                Spoken::Http => Lead::Chain(http),
                Spoken::Tcp if !named.is_empty() => {
                    self.named.insert(port.port.port);
                    Lead::ServerName { names: leads_by_name(port), otherwise: BLOCKED.to_owned() }
                }
                Spoken::Tcp => Lead::Chain(tcp),
                Spoken::Unknown => {
                    self.sniffed.insert(port.port.port);
                    Lead::Protocol { http, tcp }
                }
            };
            leads.push((port.port.port, lead));
        }
        self.leads.push((addresses, Lead::Port(leads)));
    }

    /// Adds the chains of the pods of one identity.
    pub fn pods(&mut self, identity: &str, addresses: Vec<IpAddr>, for_requests: &Enforcement, for_connections: &Enforcement) {
        self.sniff_all = true;
        let (http, tcp) = (direct(Layer::Http, identity), direct(Layer::Tcp, identity));
        self.chains.push(direct_http(&http, identity, for_requests));
        self.chains.push(direct_tcp(&tcp, identity, for_connections));
        self.leads.push((addresses, Lead::Protocol { http, tcp }));
    }
}

/// The listener. A destination that no chain is for is refused by a chain of its own, so that it is seen in the log. The administrators are for
/// our own waypoint alone; a change of them has Envoy drain its connections.
pub fn inner(mut chains: Chains, administrators: &BTreeSet<SpiffeId>) -> Listener {
    chains.chains.push(blocked());
    let mut inspector = listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default());
    inspector.filter_disabled = (!chains.sniff_all).then(|| none_of(&chains.sniffed));
    let mut listener_filters = vec![original_destination(), inspector];
    if !chains.named.is_empty() {
        let mut inspector = listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default());
        inspector.filter_disabled = Some(none_of(&chains.named));
        listener_filters.push(inspector);
    }
    Listener {
        listener_filters,
        // A client that waits for the server to speak is told from one that speaks HTTP, or TLS, by its silence.
        listener_filters_timeout: seconds(1),
        continue_on_listener_filters_timeout: true,
        // An address matcher without ranges is invalid.
        filter_chain_matcher: (!chains.leads.is_empty()).then(|| by_address(chains.leads, BLOCKED)),
        filter_chains: chains.chains,
        metadata: (!administrators.is_empty()).then(|| explains_to(administrators)),
        ..internal_listener(MAIN_INTERNAL)
    }
}

/// Who is told what becomes of requests of theirs.
fn explains_to(administrators: &BTreeSet<SpiffeId>) -> Metadata {
    let values = administrators.iter().map(|identity| string_kind(identity.to_string())).collect();
    let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
    let own = Struct { fields: entry("explain_administrators", list) };
    Metadata { filter_metadata: entry(AMBIT_METADATA, own), ..Default::default() }
}

/// Destination ports other than these.
fn none_of(ports: &BTreeSet<u16>) -> ListenerFilterChainMatchPredicate {
    let predicate = |rule| ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let one = |port: &u16| {
        let start = i32::from(*port);
        predicate(Rule::DestinationPortRange(Int32Range { start, end: start + 1 }))
    };
    let mut ranges: Vec<_> = ports.iter().map(one).collect();
    match (ranges.len(), ranges.pop()) {
        (_, None) => predicate(Rule::AnyMatch(true)),
        (1, Some(only)) => predicate(Rule::NotMatch(Box::new(only))),
        (_, Some(last)) => {
            ranges.push(last);
            predicate(Rule::NotMatch(Box::new(predicate(Rule::OrMatch(MatchSet { rules: ranges })))))
        }
    }
}

fn http_chain(port: &ServedPort<'_>, enforcement: &Enforcement) -> FilterChain {
    let name = port.chain(Layer::Http);
    let logs = or_own(enforcement.logs.as_ref(), || access_log::requests(&port.host));
    let filter = http::requests(&name, Routes::Discovered(name.clone()), enforcement, logs, port.outside);
    let metadata = metrics::metadata(enforcement.metrics.as_ref());
    FilterChain { name, filters: vec![filter], metadata, ..Default::default() }
}

fn tcp_chain(name: String, host: &str, enforcement: &Enforcement, targets: &[(String, u32)]) -> FilterChain {
    let mut filters = network_rbac(&name, enforcement);
    let logs = or_own(enforcement.logs.as_ref(), || access_log::connections(host));
    filters.push(tcp_proxy(&name, targets, logs, ENDLESS));
    let metadata = metrics::metadata(enforcement.metrics.as_ref());
    FilterChain { name, filters, metadata, ..Default::default() }
}

fn direct_http(name: &str, identity: &str, enforcement: &Enforcement) -> FilterChain {
    let everything = Route {
        name: "default".into(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }),
        action: Some(Action::Route(route::to_cluster(DIRECT.into()))),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: name.into(),
            domains: vec!["*".into()],
            routes: vec![route::deadline::of_calls(everything)],
            ..Default::default()
        }],
        validate_clusters: bool_value(false),
        ..Default::default()
    };
    let logs = or_own(enforcement.logs.as_ref(), || access_log::requests("-"));
    let manager = http::requests(name, Routes::Inline(Box::new(routes)), enforcement, logs, false);
    let metadata = metrics::metadata(enforcement.metrics.as_ref());
    FilterChain { name: name.into(), filters: vec![upstream_is(identity), manager], metadata, ..Default::default() }
}

fn direct_tcp(name: &str, identity: &str, enforcement: &Enforcement) -> FilterChain {
    let mut filters = vec![upstream_is(identity)];
    filters.extend(network_rbac(name, enforcement));
    let logs = or_own(enforcement.logs.as_ref(), || access_log::connections("-"));
    filters.push(tcp_proxy(name, &[(DIRECT.to_owned(), 1)], logs, ENDLESS));
    let metadata = metrics::metadata(enforcement.metrics.as_ref());
    FilterChain { name: name.into(), filters, metadata, ..Default::default() }
}

fn blocked() -> FilterChain {
    let refuse_all = Enforcement { allow: Some(nothing_allowed()), ..Default::default() };
    let mut filters = network_rbac(BLOCKED, &refuse_all);
    filters.push(tcp_proxy(BLOCKED, &[(BLOCKED.to_owned(), 1)], access_log::connections("-"), ENDLESS));
    FilterChain { name: BLOCKED.into(), filters, ..Default::default() }
}

/// Tells the originating listener where the connection goes and whom to expect there.
fn upstream_is(identity: &str) -> Filter {
    let once = SharedWithUpstream::Once;
    let state = SetFilterState {
        on_new_connection: vec![
            filter_state(ORIGINAL_DESTINATION, "", "%DOWNSTREAM_LOCAL_ADDRESS%", once),
            filter_state(UPSTREAM_IDENTITY, "envoy.string", identity, once),
        ],
        ..Default::default()
    };
    network_filter("envoy.filters.network.set_filter_state", &state)
}

pub(super) fn network_rbac(stat_prefix: &str, enforcement: &Enforcement) -> Vec<Filter> {
    let filter = |of: OfAction<'_>| {
        let rbac = NetworkRbac {
            rules: of.enforced.cloned(),
            shadow_rules: of.dry_run.cloned(),
            stat_prefix: format!("{stat_prefix}."),
            shadow_rules_stat_prefix: of.prefix(),
        };
        network_filter_any("envoy.filters.network.rbac", any_as("envoy.extensions.filters.network.rbac.v3.RBAC", &rbac))
    };
    enforcement.of_actions().map(filter).collect()
}

pub(super) fn tcp_proxy(name: &str, clusters: &[(String, u32)], access_log: Vec<AccessLog>, idle: u64) -> Filter {
    let weight = |(name, weight): &(String, u32)| ClusterWeight { name: name.clone(), weight: *weight, ..Default::default() };
    let cluster_specifier = match clusters {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: several.iter().map(weight).collect() }),
    };
    let proxy = TcpProxy {
        stat_prefix: name.into(),
        cluster_specifier: Some(cluster_specifier),
        idle_timeout: seconds(idle),
        access_log,
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

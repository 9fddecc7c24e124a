//! Which filter chain a connection gets: by destination address, then port, then protocol.

use std::net::IpAddr;

use ambit_api::envoy::pb::envoy::extensions::matching::common_inputs::network::v3::{
    ApplicationProtocolInput, DestinationIpInput, DestinationPortInput, ServerNameInput,
};
use ambit_api::envoy::pb::google::protobuf::{StringValue, UInt32Value};
use ambit_api::envoy::pb::xds::core::v3::{CidrRange, TypedExtensionConfig};
use ambit_api::envoy::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use ambit_api::envoy::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use ambit_api::envoy::pb::xds::r#type::matcher::v3::matcher::matcher_tree::TreeType;
use ambit_api::envoy::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherTree, MatcherType, OnMatch, on_match};
use ambit_api::envoy::pb::xds::r#type::matcher::v3::{Matcher, StringMatcher, string_matcher};
use ambit_api::matcher::{IpMatcher, IpRangeMatcher};
use prost::{Message, Name};

use super::super::wire::{Any, any};

/// Where a decision leads.
pub enum Lead {
    /// To a filter chain.
    Chain(String),
    /// By the first of the ports that is the destination's; to no chain when none is.
    Port(Vec<(u16, Lead)>),
    /// By what the client speaks.
    Protocol {
        /// The chain for HTTP/1.1 and HTTP/2.
        http: String,
        /// The chain for all else, silence included.
        tcp: String,
    },
    /// By the server name that a TLS client says first.
    ServerName {
        /// Names, which may begin with `*.`, each with its chain; the first that fits counts.
        names: Vec<(String, String)>,
        /// The chain for all else, silence included.
        otherwise: String,
    },
}

/// Matches the destination address; `otherwise` is the chain of those that nothing matches.
pub fn by_address(leads: Vec<(Vec<IpAddr>, Lead)>, otherwise: &str) -> Matcher {
    let range = |address: IpAddr| CidrRange {
        prefix_len: Some(UInt32Value { value: if address.is_ipv4() { 32 } else { 128 } }),
        address_prefix: address.to_string(),
    };
    let range_matchers = leads.into_iter().map(|(addresses, lead)| IpRangeMatcher {
        ranges: addresses.into_iter().map(range).collect(),
        on_match: Some(on_match(lead)),
        exclusive: false,
    });
    let matcher = IpMatcher { range_matchers: range_matchers.collect() };
    let config = Any { type_url: ambit_api::matcher::TYPE_URL.into(), value: matcher.encode_to_vec() };
    let custom = TypedExtensionConfig { name: "ip".into(), typed_config: Some(config) };
    Matcher {
        on_no_match: Some(Box::new(on_match(Lead::Chain(otherwise.into())))),
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree {
            input: Some(input("destination-ip", &DestinationIpInput {})),
            tree_type: Some(TreeType::CustomMatch(custom)),
        })),
    }
}

fn on_match(lead: Lead) -> OnMatch {
    let on_match = match lead {
        Lead::Chain(name) => on_match::OnMatch::Action(action(name)),
        Lead::Port(ports) => {
            let matchers = ports.into_iter().map(|(port, lead)| FieldMatcher {
                predicate: Some(is("destination-port", &DestinationPortInput {}, &port.to_string())),
                on_match: Some(on_match(lead)),
            });
            on_match::OnMatch::Matcher(Box::new(first_of(matchers.collect(), None)))
        }
        Lead::Protocol { http, tcp } => {
            let speaks = |protocol| is("application-protocol", &ApplicationProtocolInput {}, protocol);
            let any_http = PredicateList { predicate: vec![speaks("'http/1.1'"), speaks("'h2c'")] };
            let matcher = FieldMatcher {
                predicate: Some(Predicate { match_type: Some(MatchType::OrMatcher(any_http)) }),
                on_match: Some(on_match(Lead::Chain(http))),
            };
            on_match::OnMatch::Matcher(Box::new(first_of(vec![matcher], Some(Lead::Chain(tcp)))))
        }
        Lead::ServerName { names, otherwise } => {
            let matchers = names.into_iter().map(|(name, chain)| FieldMatcher {
                predicate: Some(is_named(&name)),
                on_match: Some(on_match(Lead::Chain(chain))),
            });
            on_match::OnMatch::Matcher(Box::new(first_of(matchers.collect(), Some(Lead::Chain(otherwise)))))
        }
    };
    OnMatch { on_match: Some(on_match), ..Default::default() }
}

/// A list is in order where a map of the generated types would not be; see [`super::super::wire`].
fn first_of(matchers: Vec<FieldMatcher>, otherwise: Option<Lead>) -> Matcher {
    Matcher {
        on_no_match: otherwise.map(|lead| Box::new(on_match(lead))),
        matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })),
    }
}

fn is<T: Message + Name>(name: &str, of: &T, value: &str) -> Predicate {
    compares(name, of, string_matcher::MatchPattern::Exact(value.into()))
}

/// A wildcard stands for one label or more (Gateway API, `TLSRoute.spec.hostnames`).
fn is_named(name: &str) -> Predicate {
    let pattern = match name.strip_prefix('*') {
        Some(suffix) => string_matcher::MatchPattern::Suffix(suffix.into()),
        None => string_matcher::MatchPattern::Exact(name.into()),
    };
    compares("server-name", &ServerNameInput {}, pattern)
}

fn compares<T: Message + Name>(name: &str, of: &T, pattern: string_matcher::MatchPattern) -> Predicate {
    let matcher = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    let single = SinglePredicate { input: Some(input(name, of)), matcher: Some(single_predicate::Matcher::ValueMatch(matcher)) };
    Predicate { match_type: Some(MatchType::SinglePredicate(single)) }
}

fn input<T: Message + Name>(name: &str, input: &T) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.into(), typed_config: Some(any(input)) }
}

fn action(chain: String) -> TypedExtensionConfig {
    let typed_config = Some(any(&StringValue { value: chain.clone() }));
    TypedExtensionConfig { name: chain, typed_config }
}

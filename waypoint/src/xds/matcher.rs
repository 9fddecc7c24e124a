//! The tree that leads from a destination to a filter chain (`xds.type.matcher.v3.Matcher`).

use std::sync::Arc;

use ambit_api::{
    envoy::pb::{
        google::protobuf::StringValue,
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher,
                matcher::{
                    MatcherList, MatcherTree, MatcherType, OnMatch,
                    matcher_list::{
                        Predicate,
                        predicate::{MatchType, SinglePredicate, single_predicate},
                    },
                    matcher_tree::TreeType,
                    on_match,
                },
                string_matcher::MatchPattern,
            },
        },
    },
    matcher::IpMatcher,
};

use super::{
    rbac::range,
    read::{Compiled, Problem, Under, finish, number, required, type_of, unpack},
};
use crate::compiled::{AppProtocol, Map, MatchNode, NameTest};

const INPUTS: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const IP_MATCHER: &str = "xds.type.matcher.v3.IPMatcher";
const STRING_VALUE: &str = "google.protobuf.StringValue";

/// A matcher and all below it.
pub fn node(matcher: Matcher) -> Compiled<MatchNode> {
    let otherwise = matcher.on_no_match.map(|m| on_match(*m)).transpose().under("on_no_match")?;
    match required(matcher.matcher_type, "a matcher")? {
        MatcherType::MatcherTree(tree) => self::tree(tree, otherwise).under("matcher_tree"),
        MatcherType::MatcherList(list) => self::list(list, otherwise).under("matcher_list"),
    }
}

fn on_match(m: OnMatch) -> Compiled<Arc<MatchNode>> {
    if m.keep_matching {
        return Err(Problem::new("keep_matching is not implemented"));
    }
    Ok(Arc::new(match required(m.on_match, "on_match")? {
        on_match::OnMatch::Matcher(matcher) => node(*matcher)?,
        on_match::OnMatch::Action(action) => {
            let name: StringValue = unpack(&required(action.typed_config, "typed_config")?, STRING_VALUE).under("action")?;
            MatchNode::Chain(name.value.into())
        }
    }))
}

/// What a matcher looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Address,
    Port,
    Protocol,
    ServerName,
}

/// What a value is compared with.
#[derive(Debug, Clone)]
enum Test {
    Exact(String),
    Suffix(String),
}

fn input(config: Option<TypedExtensionConfig>) -> Compiled<Input> {
    let any = required(required(config, "input")?.typed_config, "input.typed_config")?;
    match type_of(&any).strip_prefix(INPUTS) {
        Some("DestinationIPInput") => Ok(Input::Address),
        Some("DestinationPortInput") => Ok(Input::Port),
        Some("ApplicationProtocolInput") => Ok(Input::Protocol),
        Some("ServerNameInput") => Ok(Input::ServerName),
        _ => Err(Problem::new(format!("{} is not implemented", type_of(&any)))),
    }
}

/// Values of one input with where each leads; of equal values the first counts.
fn exact(input: Input, values: Vec<(String, Arc<MatchNode>)>, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    match input {
        Input::Address => {
            let parse = |text: &str| text.parse().map_err(|_| Problem::new(format!("{text:?} is not an address")));
            Ok(MatchNode::Address { hosts: keyed(values, parse)?, ranges: Vec::new(), otherwise })
        }
        Input::Port => {
            let parse = |text: &str| text.parse().map_err(|_| Problem::new(format!("{text:?} is not a port")));
            Ok(MatchNode::Port { ports: keyed(values, parse)?, otherwise })
        }
        Input::Protocol => Ok(MatchNode::Protocol { protocols: keyed(values, protocol)?, otherwise }),
        Input::ServerName => {
            let names = values.into_iter().map(|(name, node)| (NameTest::Exact(name), node)).collect();
            Ok(MatchNode::ServerName { names, otherwise })
        }
    }
}

/// Tests of a list, in its order, with where each leads.
fn tests(input: Input, tests: Vec<(Test, Arc<MatchNode>)>, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    if input == Input::ServerName {
        let named = |test| match test {
            Test::Exact(name) => NameTest::Exact(name),
            Test::Suffix(suffix) => NameTest::Suffix(suffix),
        };
        let names = tests.into_iter().map(|(test, node)| (named(test), node)).collect();
        return Ok(MatchNode::ServerName { names, otherwise });
    }
    let mut values = Vec::new();
    for (test, node) in tests {
        match test {
            Test::Exact(text) => values.push((text, node)),
            Test::Suffix(_) => return Err(Problem::new("only exact is implemented, but for server names")),
        }
    }
    exact(input, values, otherwise)
}

fn keyed<K: Eq + std::hash::Hash>(
    values: Vec<(String, Arc<MatchNode>)>,
    parse: impl Fn(&str) -> Compiled<K>,
) -> Compiled<Map<K, Arc<MatchNode>>> {
    let mut map = Map::default();
    for (text, node) in values {
        map.entry(parse(&text)?).or_insert(node);
    }
    Ok(map)
}

/// Envoy writes the detected protocols in single quotes.
fn protocol(text: &str) -> Compiled<AppProtocol> {
    match text {
        "'http/1.1'" | "'http/1.0'" => Ok(AppProtocol::Http1),
        "'h2c'" => Ok(AppProtocol::Http2),
        other => Err(Problem::new(format!("protocol {other} is not implemented"))),
    }
}

fn tree(tree: MatcherTree, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    match (input(tree.input)?, required(tree.tree_type, "a tree")?) {
        (Input::Address, TreeType::CustomMatch(custom)) => ranges(custom, otherwise).under("custom_match"),
        (input, TreeType::ExactMatchMap(map)) => {
            let mut values = Vec::new();
            for (text, m) in map.map {
                let node = on_match(m).under(&text)?;
                values.push((text, node));
            }
            exact(input, values, otherwise).under("exact_match_map")
        }
        (input, _) => Err(Problem::new(format!("this kind of tree over {input:?} is not implemented"))),
    }
}

/// A list whose predicates all compare the same input with texts, which is a map written another way, or a list of server names.
fn list(list: MatcherList, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    let mut common = None;
    let mut values = Vec::new();
    for matcher in list.matchers {
        let node = on_match(required(matcher.on_match, "on_match")?)?;
        let mut compared = Vec::new();
        comparisons(required(matcher.predicate, "predicate")?, &mut compared).under("predicate")?;
        for (input, test) in compared {
            if *common.get_or_insert(input) != input {
                return Err(Problem::new("a list over several inputs is not implemented"));
            }
            values.push((test, node.clone()));
        }
    }
    tests(required(common, "matchers")?, values, otherwise)
}

fn comparisons(predicate: Predicate, into: &mut Vec<(Input, Test)>) -> Compiled<()> {
    match required(predicate.match_type, "match_type")? {
        MatchType::SinglePredicate(SinglePredicate { input: config, matcher }) => {
            let Some(single_predicate::Matcher::ValueMatch(value)) = matcher else {
                return Err(Problem::new("only value_match is implemented"));
            };
            match (value.ignore_case, value.match_pattern) {
                (false, Some(MatchPattern::Exact(text))) => into.push((input(config)?, Test::Exact(text))),
                (false, Some(MatchPattern::Suffix(text))) => into.push((input(config)?, Test::Suffix(text))),
                _ => return Err(Problem::new("only exact and suffix are implemented").under("value_match")),
            }
            Ok(())
        }
        MatchType::OrMatcher(any) => any.predicate.into_iter().try_for_each(|p| comparisons(p, into)),
        MatchType::AndMatcher(_) => Err(Problem::new("and_matcher is not implemented")),
        MatchType::NotMatcher(_) => Err(Problem::new("not_matcher is not implemented")),
    }
}

fn ranges(custom: TypedExtensionConfig, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    let matcher: IpMatcher = unpack(&required(custom.typed_config, "typed_config")?, IP_MATCHER)?;
    let mut hosts = Map::default();
    let mut ranges = Vec::new();
    for mut entry in matcher.range_matchers {
        let node = on_match(required(entry.on_match.take(), "on_match")?)?;
        for prefix in std::mem::take(&mut entry.ranges) {
            let net = range(&prefix.address_prefix, number(prefix.prefix_len).unwrap_or(0))?;
            match net.prefix_len() == net.max_prefix_len() {
                true => drop(hosts.insert(net.addr(), node.clone())),
                false => ranges.push((net, node.clone())),
            }
        }
        finish(&entry)?;
    }
    ranges.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    Ok(MatchNode::Address { hosts, ranges, otherwise })
}

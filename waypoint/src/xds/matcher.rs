//! The tree that leads from a destination to a filter chain (`xds.type.matcher.v3.Matcher`).

use std::{collections::HashMap, sync::Arc};

use ambit_api::{
    envoy::pb::{
        google::protobuf::StringValue,
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher,
                matcher::{MatcherTree, MatcherType, OnMatch, matcher_tree::TreeType, on_match},
            },
        },
    },
    matcher::IpMatcher,
};

use super::{
    rbac::range,
    read::{Compiled, Problem, Under, finish, number, required, type_of, unpack},
};
use crate::compiled::{AppProtocol, MatchNode};

const INPUTS: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const IP_MATCHER: &str = "xds.type.matcher.v3.IPMatcher";
const STRING_VALUE: &str = "google.protobuf.StringValue";

/// A matcher and all below it.
pub fn node(matcher: Matcher) -> Compiled<MatchNode> {
    let otherwise = matcher.on_no_match.map(|m| on_match(*m)).transpose().under("on_no_match")?;
    match required(matcher.matcher_type, "a matcher")? {
        MatcherType::MatcherTree(tree) => self::tree(tree, otherwise).under("matcher_tree"),
        MatcherType::MatcherList(_) => Err(Problem::new("matcher_list is not implemented")),
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

fn tree(tree: MatcherTree, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    let input = required(tree.input, "input")?;
    let any = required(input.typed_config, "input.typed_config")?;
    let kind = type_of(&any).strip_prefix(INPUTS).unwrap_or_default().to_owned();
    match (kind.as_str(), required(tree.tree_type, "a tree")?) {
        ("DestinationIPInput", TreeType::CustomMatch(custom)) => ranges(custom, otherwise).under("custom_match"),
        ("DestinationIPInput", TreeType::ExactMatchMap(map)) => {
            let mut hosts = HashMap::new();
            for (text, m) in map.map {
                let ip = text.parse().map_err(|_| Problem::new(format!("{text:?} is not an address")))?;
                hosts.insert(ip, on_match(m).under(text)?);
            }
            Ok(MatchNode::Address { hosts, ranges: Vec::new(), otherwise })
        }
        ("DestinationPortInput", TreeType::ExactMatchMap(map)) => {
            let mut ports = HashMap::new();
            for (text, m) in map.map {
                let port = text.parse().map_err(|_| Problem::new(format!("{text:?} is not a port")))?;
                ports.insert(port, on_match(m).under(text)?);
            }
            Ok(MatchNode::Port { ports, otherwise })
        }
        ("ApplicationProtocolInput", TreeType::ExactMatchMap(map)) => {
            let mut protocols = HashMap::new();
            for (text, m) in map.map {
                // Envoy writes the detected protocols in single quotes.
                let protocol = match text.as_str() {
                    "'http/1.1'" | "'http/1.0'" => AppProtocol::Http1,
                    "'h2c'" => AppProtocol::Http2,
                    other => return Err(Problem::new(format!("protocol {other} is not implemented"))),
                };
                protocols.insert(protocol, on_match(m).under(text)?);
            }
            Ok(MatchNode::Protocol { protocols, otherwise })
        }
        _ => Err(Problem::new(format!("this tree over {} is not implemented", type_of(&any)))),
    }
}

fn ranges(custom: TypedExtensionConfig, otherwise: Option<Arc<MatchNode>>) -> Compiled<MatchNode> {
    let matcher: IpMatcher = unpack(&required(custom.typed_config, "typed_config")?, IP_MATCHER)?;
    let mut hosts = HashMap::new();
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

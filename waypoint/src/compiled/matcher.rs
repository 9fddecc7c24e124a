//! The tree that leads from a destination to a filter chain.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::Serialize;

use super::Map;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppProtocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What was found in the first bytes of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstBytes {
    /// What they are; `None` when they are not HTTP.
    pub protocol: Option<AppProtocol>,
    /// The server name in a ClientHello, in small letters.
    pub server_name: Option<String>,
}

impl From<AppProtocol> for FirstBytes {
    fn from(protocol: AppProtocol) -> Self {
        Self { protocol: Some(protocol), server_name: None }
    }
}

/// A test on a server name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NameTest {
    /// It is this.
    Exact(String),
    /// It ends in this.
    Suffix(String),
}

impl NameTest {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Suffix(suffix) => name.ends_with(suffix),
        }
    }
}

/// A node of the tree. A `None` leads nowhere.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchNode {
    /// The end: a filter chain's name.
    Chain(Arc<str>),
    /// By destination address; of several ranges the most specific wins.
    Address {
        /// Single addresses.
        hosts: Map<IpAddr, Arc<MatchNode>>,
        /// Ranges, the most specific first.
        ranges: Vec<(IpNet, Arc<MatchNode>)>,
        /// Any other address.
        otherwise: Option<Arc<MatchNode>>,
    },
    /// By destination port.
    Port {
        /// The ports.
        ports: Map<u16, Arc<MatchNode>>,
        /// Any other port.
        otherwise: Option<Arc<MatchNode>>,
    },
    /// By the protocol of the first bytes.
    Protocol {
        /// The protocols.
        protocols: Map<AppProtocol, Arc<MatchNode>>,
        /// Any other one.
        otherwise: Option<Arc<MatchNode>>,
    },
    /// By the server name that a TLS client begins with.
    ServerName {
        /// The tests; the first that matches counts.
        names: Vec<(NameTest, Arc<MatchNode>)>,
        /// Any other name, or none.
        otherwise: Option<Arc<MatchNode>>,
    },
}

/// Where a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection<'a> {
    /// To this filter chain.
    Chain(&'a Arc<str>),
    /// It depends on the protocol of the first bytes.
    NeedsProtocol,
    /// It depends on the server name in them.
    NeedsServerName,
    /// Nowhere.
    Nothing,
}

impl MatchNode {
    /// The filter chain for a destination. `seen` is `None` before the first bytes were looked at.
    #[must_use]
    pub fn select(&self, destination: SocketAddr, seen: Option<&FirstBytes>) -> Selection<'_> {
        let (next, otherwise) = match self {
            Self::Chain(name) => return Selection::Chain(name),
            Self::Address { hosts, ranges, otherwise } => {
                let ip = destination.ip().to_canonical();
                (hosts.get(&ip).or_else(|| ranges.iter().find(|(net, _)| net.contains(&ip)).map(|(_, node)| node)), otherwise)
            }
            Self::Port { ports, otherwise } => (ports.get(&destination.port()), otherwise),
            Self::Protocol { protocols, otherwise } => match seen {
                None => return Selection::NeedsProtocol,
                Some(seen) => (seen.protocol.and_then(|p| protocols.get(&p)), otherwise),
            },
            Self::ServerName { names, otherwise } => match seen {
                None => return Selection::NeedsServerName,
                Some(FirstBytes { server_name: None, .. }) => (None, otherwise),
                Some(FirstBytes { server_name: Some(name), .. }) => {
                    (names.iter().find(|(test, _)| test.matches(name)).map(|(_, node)| node), otherwise)
                }
            },
        };
        match next.map(|node| node.select(destination, seen)) {
            Some(Selection::Nothing) | None => {
                otherwise.as_ref().map_or(Selection::Nothing, |node| node.select(destination, seen))
            }
            Some(found) => found,
        }
    }
}

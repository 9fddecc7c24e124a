//! Who calls: `from.source` and the `source.*` conditions.

use std::net::IpAddr;

use ambit_api::envoy::pb::envoy::config::core::v3::CidrRange;
use ambit_api::envoy::pb::envoy::config::rbac::v3::{Principal, principal::Identifier};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use ipnet::{IpNet, Ipv4Net};

use super::super::wire::{matches, peer_is, regex, u32_value};
use super::term::{Term, all_of, field};
use super::{Context, claim};
use crate::source::crd::Source;

pub fn boxed(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

impl Context<'_> {
    /// All that one `source` asks.
    pub(super) fn source(&self, source: &Source) -> Term<Identifier> {
        all_of([
            field(self.effect, &source.principals, &source.not_principals, |value| self.principal(value)),
            field(self.effect, &source.namespaces, &source.not_namespaces, |value| self.namespace_is(value)),
            field(self.effect, &source.service_accounts, &source.not_service_accounts, |value| self.account_is(value)),
            field(self.effect, &source.ip_blocks, &source.not_ip_blocks, address_in),
            field(self.effect, &source.remote_ip_blocks, &source.not_remote_ip_blocks, address_in),
            self.of_request(&source.request_principals, &source.not_request_principals, claim::principal),
        ])
    }

    /// An identity without `spiffe://`, with a star at either end.
    pub(super) fn principal(&self, value: &str) -> Option<Term<Identifier>> {
        Some(peer(match super::term::pattern(value) {
            None => MatchPattern::Prefix("spiffe://".into()),
            Some(MatchPattern::Exact(exact)) => MatchPattern::Exact(format!("spiffe://{exact}")),
            Some(MatchPattern::Prefix(prefix)) => MatchPattern::Prefix(format!("spiffe://{prefix}")),
            Some(suffix) => suffix,
        }))
    }

    /// The namespace of the identity. Only identities of the mesh's trust domain get as far as this.
    pub(super) fn namespace_is(&self, value: &str) -> Option<Term<Identifier>> {
        let domain = self.place.trust_domain;
        Some(peer(match super::term::pattern(value) {
            None => MatchPattern::Prefix(format!("spiffe://{domain}/ns/")),
            Some(MatchPattern::Exact(exact)) => MatchPattern::Prefix(format!("spiffe://{domain}/ns/{exact}/sa/")),
            Some(MatchPattern::Prefix(prefix)) => MatchPattern::Prefix(format!("spiffe://{domain}/ns/{prefix}")),
            Some(MatchPattern::Suffix(suffix)) => {
                let (domain, suffix) = (escape(domain), escape(&suffix));
                MatchPattern::SafeRegex(regex(format!("spiffe://{domain}/ns/[^/]*{suffix}/sa/[^/]*")))
            }
            Some(_) => return None,
        }))
    }

    /// `account` of the policy's namespace, or `namespace/account`. Stars have no meaning here.
    pub(super) fn account_is(&self, value: &str) -> Option<Term<Identifier>> {
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        if value.contains('*') || namespace.is_empty() || account.is_empty() || account.contains('/') {
            return None;
        }
        let domain = self.place.trust_domain;
        Some(peer(MatchPattern::Exact(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))))
    }
}

/// The address of the client of the tunnel is in a CIDR, or is the one given. (Envoy's `direct_remote_ip` is that of the
/// internal connection, which has none; that `X-Forwarded-For` is not believed is the connection manager's part.) So `ipBlocks` and
/// `remoteIpBlocks` come to the same: no proxy whose word counts is between the client and the tunnel, nor before the edge of the mesh.
pub fn address_in(value: &str) -> Option<Term<Identifier>> {
    network(value).map(|net| Term::Is(Identifier::RemoteIp(range(net))))
}

/// An address or a network, as policies write them.
pub fn network(value: &str) -> Option<IpNet> {
    value.parse::<IpNet>().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from)).map(canonical)
}

/// A network as Envoy knows it.
pub fn range(net: IpNet) -> CidrRange {
    CidrRange { address_prefix: net.network().to_string(), prefix_len: u32_value(net.prefix_len().into()) }
}

/// An IPv4 network that is written as one of IPv6 (`::ffff:10.0.0.0/104`) as what it is, as node proxies take it: no client has an address of the
/// other form, so a DENY would match nobody and what is negated everybody.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

fn peer(pattern: MatchPattern) -> Term<Identifier> {
    Term::Is(Identifier::FilterState(peer_is(matches(pattern))))
}

/// A literal as a regular expression (RE2).
pub fn escape(literal: &str) -> String {
    let mut escaped = String::with_capacity(literal.len());
    for character in literal.chars() {
        if character.is_ascii_punctuation() && !matches!(character, '/' | '-' | '_') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

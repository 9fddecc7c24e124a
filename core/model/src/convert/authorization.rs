//! Authorization policies from the wire.
//!
//! A value that cannot be read makes the whole policy an error. A condition that this version does not know (an extension, a field of a
//! later version) is not left out, which would widen an ALLOW: the policy is kept, and says that it was not understood in full.

use ambit_api::security as wire;

use super::{
    ConvertError,
    address::{port_number, prefix},
};
use crate::policy::{Action, Clause, Group, Match, Policy, PolicyKey, Scope, ServiceAccountMatch, StringMatch};

mod later;

/// Reads a policy, with the bytes that it was decoded from.
///
/// # Errors
/// When it says something that cannot be enforced.
pub(super) fn policy(wire: wire::Authorization, bytes: &[u8]) -> Result<Policy, ConvertError> {
    let unknown = later::unknown(bytes).unwrap_or(later::Unknown { around: true, matches: Vec::new() });
    let mut not_understood = unknown.matches.into_iter();
    if wire.name.is_empty() {
        return Err(ConvertError::Missing("name"));
    }
    let scope = scope(wire.scope)?;
    let action = match wire::Action::try_from(wire.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Err(_) => return Err(ConvertError::Enumeration { field: "action", value: wire.action }),
    };
    let mut groups = Vec::with_capacity(wire.groups.len());
    for group in wire.groups {
        let mut clauses = Vec::with_capacity(group.rules.len());
        for rules in group.rules {
            let mut matches = Vec::with_capacity(rules.matches.len());
            for m in rules.matches {
                let mut m = Match::try_from(m)?;
                m.not_understood |= not_understood.next().unwrap_or(true);
                matches.push(m);
            }
            clauses.push(Clause { matches });
        }
        groups.push(Group { clauses });
    }
    let not_understood = unknown.around || !wire.extensions.is_empty();
    if not_understood && action == Action::Deny && groups.is_empty() {
        // Whom it denies is said in a way that is not known.
        groups.push(Group { clauses: Vec::new() });
    }
    let key = PolicyKey::new(wire.namespace, wire.name);
    Ok(Policy { key, scope, action, dry_run: wire.dry_run, not_understood, groups })
}

/// The scope of a policy of which nothing else can be read. One of a later version holds within its namespace; where not even that is to
/// be told, it may hold for everyone.
pub(super) fn scope_of_unreadable(bytes: &[u8]) -> Scope {
    later::scope(bytes).map_or(Scope::Global, |value| scope(value).unwrap_or(Scope::Namespace))
}

/// The scope of a policy, when it is one that is known.
///
/// # Errors
/// When the number is none of the contract's.
pub(super) fn scope(value: i32) -> Result<Scope, ConvertError> {
    match wire::Scope::try_from(value) {
        Ok(wire::Scope::Global) => Ok(Scope::Global),
        Ok(wire::Scope::Namespace) => Ok(Scope::Namespace),
        Ok(wire::Scope::WorkloadSelector) => Ok(Scope::Selector),
        Err(_) => Err(ConvertError::Enumeration { field: "scope", value }),
    }
}

impl TryFrom<wire::Match> for Match {
    type Error = ConvertError;
    fn try_from(wire: wire::Match) -> Result<Self, ConvertError> {
        let nets = |field: &'static str, list: Vec<wire::Address>| {
            list.into_iter().map(|a| prefix(field, &a.address, a.length)).collect::<Result<Vec<_>, _>>()
        };
        let ports = |field: &'static str, list: Vec<u32>| {
            list.into_iter().map(|port| port_number(field, port)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            namespaces: strings("namespaces", wire.namespaces)?,
            not_namespaces: strings("not_namespaces", wire.not_namespaces)?,
            service_accounts: accounts(wire.service_accounts),
            not_service_accounts: accounts(wire.not_service_accounts),
            principals: strings("principals", wire.principals)?,
            not_principals: strings("not_principals", wire.not_principals)?,
            source_ips: nets("source_ips", wire.source_ips)?,
            not_source_ips: nets("not_source_ips", wire.not_source_ips)?,
            destination_ips: nets("destination_ips", wire.destination_ips)?,
            not_destination_ips: nets("not_destination_ips", wire.not_destination_ips)?,
            destination_ports: ports("destination_ports", wire.destination_ports)?,
            not_destination_ports: ports("not_destination_ports", wire.not_destination_ports)?,
            not_understood: !wire.extensions.is_empty(),
        })
    }
}

fn strings(field: &'static str, list: Vec<wire::StringMatch>) -> Result<Vec<StringMatch>, ConvertError> {
    use wire::string_match::MatchType;
    list.into_iter()
        .map(|text| match text.match_type {
            Some(MatchType::Exact(exact)) => Ok(StringMatch::Exact(exact.into())),
            Some(MatchType::Prefix(prefix)) => Ok(StringMatch::Prefix(prefix.into())),
            Some(MatchType::Suffix(suffix)) => Ok(StringMatch::Suffix(suffix.into())),
            Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
            None => Err(ConvertError::Missing(field)),
        })
        .collect()
}

fn accounts(list: Vec<wire::ServiceAccountMatch>) -> Vec<ServiceAccountMatch> {
    list.into_iter()
        .map(|a| ServiceAccountMatch { namespace: a.namespace.into(), service_account: a.service_account.into() })
        .collect()
}

//! What policies ask of a connection, field by field.

use std::{cell::Cell, net::IpAddr};

use ambit_identity::SpiffeId;
use ipnet::IpNet;

use super::Connection;
use crate::policy::{Match, ServiceAccountMatch, StringMatch};

/// What is compared, taken apart once for all policies.
pub(crate) struct Facts<'a> {
    pub(crate) principal: Option<String>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) service_account: Option<&'a str>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
    /// How many rules have been asked so far.
    pub(crate) asked: Cell<usize>,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(connection: &'a Connection) -> Self {
        let id = connection.source.as_ref();
        Self {
            principal: id.map(SpiffeId::principal),
            namespace: id.map(|id| id.namespace().as_str()),
            service_account: id.map(|id| id.service_account().as_str()),
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination.ip().to_canonical(),
            destination_port: connection.destination.port(),
            asked: Cell::new(0),
        }
    }

    fn text(&self, list: &[StringMatch], value: Option<&str>) -> bool {
        value.is_some_and(|value| list.iter().any(|text| text.matches(value)))
    }

    fn account(&self, list: &[ServiceAccountMatch]) -> bool {
        let same =
            |a: &ServiceAccountMatch| self.namespace == Some(&*a.namespace) && self.service_account == Some(&*a.service_account);
        list.iter().any(same)
    }
}

fn net(list: &[IpNet], ip: &IpAddr) -> bool {
    list.iter().any(|net| net.contains(ip))
}

/// Whether everything that `m` asks for holds. What it asks for and is not understood is not looked at here.
pub(crate) fn holds(m: &Match, facts: &Facts<'_>) -> bool {
    first_that_fails(m, facts).is_none()
}

/// The first field that asks for something that does not hold, by its name in the wire contract. Without an identity no positive match
/// of one holds, and every negative one does.
pub(super) fn first_that_fails(m: &Match, facts: &Facts<'_>) -> Option<&'static str> {
    let principal = facts.principal.as_deref();
    let (source, destination) = (&facts.source_ip, &facts.destination_ip);
    let port = |list: &[u16]| list.contains(&facts.destination_port);
    match m {
        _ if !m.namespaces.is_empty() && !facts.text(&m.namespaces, facts.namespace) => Some("namespaces"),
        _ if facts.text(&m.not_namespaces, facts.namespace) => Some("not_namespaces"),
        _ if !m.service_accounts.is_empty() && !facts.account(&m.service_accounts) => Some("service_accounts"),
        _ if facts.account(&m.not_service_accounts) => Some("not_service_accounts"),
        _ if !m.principals.is_empty() && !facts.text(&m.principals, principal) => Some("principals"),
        _ if facts.text(&m.not_principals, principal) => Some("not_principals"),
        _ if !m.source_ips.is_empty() && !net(&m.source_ips, source) => Some("source_ips"),
        _ if net(&m.not_source_ips, source) => Some("not_source_ips"),
        _ if !m.destination_ips.is_empty() && !net(&m.destination_ips, destination) => Some("destination_ips"),
        _ if net(&m.not_destination_ips, destination) => Some("not_destination_ips"),
        _ if !m.destination_ports.is_empty() && !port(&m.destination_ports) => Some("destination_ports"),
        _ if port(&m.not_destination_ports) => Some("not_destination_ports"),
        _ => None,
    }
}

/// How many of the fields that ask for something hold, to say how near a match came.
pub(super) fn how_many_hold(m: &Match, facts: &Facts<'_>) -> usize {
    let principal = facts.principal.as_deref();
    [
        !m.namespaces.is_empty() && facts.text(&m.namespaces, facts.namespace),
        !m.not_namespaces.is_empty() && !facts.text(&m.not_namespaces, facts.namespace),
        !m.service_accounts.is_empty() && facts.account(&m.service_accounts),
        !m.not_service_accounts.is_empty() && !facts.account(&m.not_service_accounts),
        !m.principals.is_empty() && facts.text(&m.principals, principal),
        !m.not_principals.is_empty() && !facts.text(&m.not_principals, principal),
        !m.source_ips.is_empty() && net(&m.source_ips, &facts.source_ip),
        !m.not_source_ips.is_empty() && !net(&m.not_source_ips, &facts.source_ip),
        !m.destination_ips.is_empty() && net(&m.destination_ips, &facts.destination_ip),
        !m.not_destination_ips.is_empty() && !net(&m.not_destination_ips, &facts.destination_ip),
        !m.destination_ports.is_empty() && m.destination_ports.contains(&facts.destination_port),
        !m.not_destination_ports.is_empty() && !m.not_destination_ports.contains(&facts.destination_port),
    ]
    .into_iter()
    .filter(|holds| *holds)
    .count()
}

//! Policies, as `istioctl ztunnel-config` reads them.

use std::sync::Arc;

use ambit_model::policy::{Action, Match as HeldMatch, Policy as Held, Scope, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;
use serde::Serialize;

/// A policy. What `istioctl` does not read comes last.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    name: Arc<str>,
    namespace: Arc<str>,
    scope: &'static str,
    action: &'static str,
    /// Rules are OR, the clauses of a rule AND, the matches of a clause OR.
    rules: Vec<Vec<Vec<Match>>>,
    key: String,
    dry_run: bool,
    not_understood: bool,
}

impl Policy {
    pub(super) fn of(held: &Held) -> Self {
        let clause = |matches: &Vec<HeldMatch>| matches.iter().map(Match::of).collect();
        Self {
            name: Arc::clone(&held.key.name),
            namespace: Arc::clone(&held.key.namespace),
            scope: match held.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::Selector => "WorkloadSelector",
            },
            action: match held.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            rules: held.groups.iter().map(|rule| rule.clauses.iter().map(|held| clause(&held.matches)).collect()).collect(),
            key: held.key.to_string(),
            dry_run: held.dry_run,
            not_understood: held.not_understood,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<Account>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<Account>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    not_understood: bool,
}

impl Match {
    fn of(held: &HeldMatch) -> Self {
        let texts = |list: &[StringMatch]| list.iter().cloned().map(Text::from).collect();
        let accounts = |list: &[ServiceAccountMatch]| list.iter().map(Account::of).collect();
        Self {
            namespaces: texts(&held.namespaces),
            not_namespaces: texts(&held.not_namespaces),
            principals: texts(&held.principals),
            not_principals: texts(&held.not_principals),
            source_ips: held.source_ips.clone(),
            not_source_ips: held.not_source_ips.clone(),
            destination_ips: held.destination_ips.clone(),
            not_destination_ips: held.not_destination_ips.clone(),
            destination_ports: held.destination_ports.clone(),
            not_destination_ports: held.not_destination_ports.clone(),
            service_accounts: accounts(&held.service_accounts),
            not_service_accounts: accounts(&held.not_service_accounts),
            not_understood: held.not_understood,
        }
    }
}

#[derive(Debug, Serialize)]
enum Text {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Presence {},
}

impl From<StringMatch> for Text {
    fn from(held: StringMatch) -> Self {
        match held {
            StringMatch::Exact(text) => Self::Exact(text),
            StringMatch::Prefix(text) => Self::Prefix(text),
            StringMatch::Suffix(text) => Self::Suffix(text),
            StringMatch::Presence => Self::Presence {},
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    namespace: Box<str>,
    service_account: Box<str>,
}

impl Account {
    fn of(held: &ServiceAccountMatch) -> Self {
        Self { namespace: held.namespace.clone(), service_account: held.service_account.clone() }
    }
}

//! L4 authorization (wire contract, section 2): any DENY that matches denies; else, when an ALLOW applies, one must match; else allow.
//! A policy that should hold and is not known denies.

use std::net::{IpAddr, SocketAddr};

use ambit_identity::SpiffeId;
use serde::Serialize;

use crate::{
    policy::{Action, Clause, Group, Match, Policy, PolicyKey, StringMatch},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::Workload,
};

/// A connection to be authorized.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who the peer proved to be; nothing for plain text.
    pub source: Option<SpiffeId>,
    /// Where it comes from.
    pub source_ip: IpAddr,
    /// Where it goes: an address of the pod and the port of the application.
    pub destination: SocketAddr,
}

/// That a connection may pass, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Allowed {
    /// The ALLOW policy that matched; nothing when none applies.
    pub policy: Option<PolicyKey>,
    /// What dry-run policies would have refused.
    pub dry_run: Vec<Refusal>,
}

/// Decides whether `connection` may reach `destination`.
///
/// # Errors
/// The refusal names the policy and the rule that denied, the policy that is not known, or the ALLOW policy that came closest.
pub fn authorize(state: &MeshState, destination: &Workload, connection: &Connection) -> Result<Allowed, Refusal> {
    if let Some(key) = state.unreadable_policy_for(destination) {
        let detail = "it was delivered in a form this proxy cannot read";
        return Err(Refusal::new(Reason::PolicyUnknown, detail).by(key.clone(), None));
    }
    let facts = Facts::of(connection);
    let mut allowed = Allowed::default();
    let mut applicable = Vec::new();
    for (key, policy) in state.policies_for(destination) {
        let Some(policy) = policy else {
            let detail = format!("{} names it and it was not delivered", destination.uid);
            return Err(Refusal::new(Reason::PolicyUnknown, detail).by(key.clone(), None));
        };
        applicable.push(&**policy);
    }
    for policy in applicable.iter().filter(|policy| policy.action == Action::Deny) {
        if let Some(rule) = matching_rule(policy, &facts) {
            let refusal = denied(policy, rule, &facts);
            if !policy.dry_run {
                return Err(refusal);
            }
            allowed.dry_run.push(refusal);
        }
    }
    for dry_run in [true, false] {
        let allows = || applicable.iter().filter(|policy| policy.action == Action::Allow && policy.dry_run == dry_run);
        if allows().next().is_none() {
            continue;
        }
        match allows().find(|policy| matching_rule(policy, &facts).is_some()) {
            Some(policy) if !dry_run => allowed.policy = Some(policy.key.clone()),
            Some(_) => {}
            None if dry_run => allowed.dry_run.push(closest(allows().copied(), &facts)),
            None => return Err(closest(allows().copied(), &facts)),
        }
    }
    Ok(allowed)
}

/// The number of the first rule of `policy` that matches `connection`.
#[must_use]
pub fn matching_rule_of(policy: &Policy, connection: &Connection) -> Option<usize> {
    matching_rule(policy, &Facts::of(connection))
}

/// What is compared, taken apart once for all policies.
struct Facts<'a> {
    principal: Option<String>,
    namespace: Option<&'a str>,
    service_account: Option<&'a str>,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    destination_port: u16,
}

impl<'a> Facts<'a> {
    fn of(connection: &'a Connection) -> Self {
        let id = connection.source.as_ref();
        Self {
            principal: id.map(SpiffeId::principal),
            namespace: id.map(|id| id.namespace().as_str()),
            service_account: id.map(|id| id.service_account().as_str()),
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination.ip().to_canonical(),
            destination_port: connection.destination.port(),
        }
    }
}

fn denied(policy: &Policy, rule: usize, facts: &Facts<'_>) -> Refusal {
    let asks_for_identity = |m: &Match| m.not_principals.contains(&StringMatch::Presence);
    let strict = facts.principal.is_none()
        && policy
            .groups
            .get(rule)
            .is_some_and(|group| group.clauses.iter().any(|clause| clause.matches.iter().any(asks_for_identity)));
    let reason = if strict { Reason::StrictMtlsRequired } else { Reason::PolicyDeniedExplicit };
    Refusal::new(reason, "").by(policy.key.clone(), Some(rule))
}

fn matching_rule(policy: &Policy, facts: &Facts<'_>) -> Option<usize> {
    policy.groups.iter().position(|group| group.clauses.iter().all(|clause| clause_matches(clause, facts)))
}

fn clause_matches(clause: &Clause, facts: &Facts<'_>) -> bool {
    clause.matches.is_empty()
        || clause.matches.iter().any(|m| !is_empty(m) && fields(m, facts).all(|(_, asked, holds)| !asked || holds))
}

fn is_empty(m: &Match) -> bool {
    *m == Match::default()
}

/// Every field of a match: its name, whether it says anything, and whether what it says holds.
fn fields<'a>(m: &'a Match, facts: &'a Facts<'_>) -> impl Iterator<Item = (&'static str, bool, bool)> {
    let text = |list: &[StringMatch], value: Option<&str>| value.is_some_and(|value| list.iter().any(|s| s.matches(value)));
    let account = |list: &[crate::policy::ServiceAccountMatch]| {
        list.iter().any(|a| facts.namespace == Some(&*a.namespace) && facts.service_account == Some(&*a.service_account))
    };
    let net = |list: &[ipnet::IpNet], ip: &IpAddr| list.iter().any(|net| net.contains(ip));
    let principal = facts.principal.as_deref();
    [
        ("namespaces", !m.namespaces.is_empty(), text(&m.namespaces, facts.namespace)),
        ("not_namespaces", !m.not_namespaces.is_empty(), !text(&m.not_namespaces, facts.namespace)),
        ("service_accounts", !m.service_accounts.is_empty(), account(&m.service_accounts)),
        ("not_service_accounts", !m.not_service_accounts.is_empty(), !account(&m.not_service_accounts)),
        ("principals", !m.principals.is_empty(), text(&m.principals, principal)),
        ("not_principals", !m.not_principals.is_empty(), !text(&m.not_principals, principal)),
        ("source_ips", !m.source_ips.is_empty(), net(&m.source_ips, &facts.source_ip)),
        ("not_source_ips", !m.not_source_ips.is_empty(), !net(&m.not_source_ips, &facts.source_ip)),
        ("destination_ips", !m.destination_ips.is_empty(), net(&m.destination_ips, &facts.destination_ip)),
        ("not_destination_ips", !m.not_destination_ips.is_empty(), !net(&m.not_destination_ips, &facts.destination_ip)),
        ("destination_ports", !m.destination_ports.is_empty(), m.destination_ports.contains(&facts.destination_port)),
        (
            "not_destination_ports",
            !m.not_destination_ports.is_empty(),
            !m.not_destination_ports.contains(&facts.destination_port),
        ),
    ]
    .into_iter()
}

/// The rule of an ALLOW policy of which the most held.
struct Closest<'a> {
    score: (usize, usize),
    policy: &'a PolicyKey,
    rule: Option<usize>,
    detail: String,
}

/// The refusal when no ALLOW matched: it names the rule of which the most held, and the first field that did not.
fn closest<'a>(policies: impl Iterator<Item = &'a Policy>, facts: &Facts<'_>) -> Refusal {
    let mut best: Option<Closest<'a>> = None;
    for policy in policies {
        let mut offer = |score, rule, detail: String| {
            if best.as_ref().is_none_or(|best| score > best.score) {
                best = Some(Closest { score, policy: &policy.key, rule, detail });
            }
        };
        if policy.groups.is_empty() {
            offer((0, 0), None, "it has no rules, so it allows nothing".to_owned());
        }
        for (rule, group) in policy.groups.iter().enumerate() {
            let (score, detail) = distance(group, facts);
            // A rule always beats a policy without rules, which is scored 0.
            offer((score.0, score.1 + 1), Some(rule), detail);
        }
    }
    match best {
        Some(best) => Refusal::new(Reason::PolicyDeniedNoAllowMatch, best.detail).by(best.policy.clone(), best.rule),
        None => Refusal::new(Reason::PolicyDeniedNoAllowMatch, ""),
    }
}

/// How near `group` came: clauses that matched, then fields that held in the first clause that did not; and what failed there.
fn distance(group: &Group, facts: &Facts<'_>) -> ((usize, usize), String) {
    let matched = group.clauses.iter().filter(|clause| clause_matches(clause, facts)).count();
    let Some(failing) = group.clauses.iter().find(|clause| !clause_matches(clause, facts)) else {
        return ((matched, 0), String::new());
    };
    let best = failing
        .matches
        .iter()
        .filter(|m| !is_empty(m))
        .map(|m| {
            let held = fields(m, facts).filter(|(_, asked, holds)| *asked && *holds).count();
            let failed = fields(m, facts).find(|(_, asked, holds)| *asked && !*holds).map_or("", |(name, ..)| name);
            (held, failed)
        })
        .max_by_key(|(held, _)| *held);
    match best {
        Some((held, failed)) => ((matched, held), format!("{failed} did not match {}", actual(failed, facts))),
        None => ((matched, 0), "it has an empty match, which matches nothing".to_owned()),
    }
}

fn actual(field: &str, facts: &Facts<'_>) -> String {
    let or_none = |text: Option<&str>| text.unwrap_or("a peer without identity").to_owned();
    match field.trim_start_matches("not_") {
        "namespaces" => or_none(facts.namespace),
        "source_ips" => facts.source_ip.to_string(),
        "destination_ips" => facts.destination_ip.to_string(),
        "destination_ports" => facts.destination_port.to_string(),
        _ => or_none(facts.principal.as_deref()),
    }
}

#[cfg(test)]
mod tests;

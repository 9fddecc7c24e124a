//! L4 authorization (wire contract, section 2): any DENY that matches denies; else, when an ALLOW applies, one must match; else allow.
//! A policy that should hold and is not known denies.

use std::net::{IpAddr, SocketAddr};

use ambit_identity::SpiffeId;
use serde::Serialize;

use crate::{
    policy::{Match, Policy, PolicyKey, StringMatch, index::PolicySet},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::Workload,
};

mod closest;
mod facts;

pub(crate) use facts::{Facts, holds};

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
    /// What dry-run policies would have decided if they were enforced: a refusal each, or with the reason `ok` the ALLOW that matched.
    pub dry_run: Vec<Refusal>,
}

/// Decides whether `connection` may reach `destination`. What it costs depends on the policies that hold for `destination` and of these
/// mostly on those that are about this connection.
///
/// # Errors
/// The refusal names the policy and the rule that denied, the policy that is not known, or the ALLOW policy that came closest.
pub fn authorize(state: &MeshState, destination: &Workload, connection: &Connection) -> Result<Allowed, Refusal> {
    decide(state, destination, &Facts::of(connection))
}

fn decide(state: &MeshState, destination: &Workload, facts: &Facts<'_>) -> Result<Allowed, Refusal> {
    if let Some(key) = state.unreadable_policy_for(destination) {
        return Err(unknown(key, "it was delivered in a form this proxy cannot read".to_owned()));
    }
    let named = state.policies_named_by(destination);
    if let Some(key) = named.as_ref().and_then(|named| named.undelivered.as_ref()) {
        return Err(unknown(key, format!("{} names it and it was not delivered", destination.uid)));
    }
    let [global, namespace] = state.policies_around(destination);
    let sets = [global.as_deref(), namespace.as_deref(), named.as_deref().map(|named| &named.set)];
    let sets: Vec<&PolicySet> = sets.into_iter().flatten().collect();

    if let Some((policy, rule)) = sets.iter().find_map(|set| set.deny.matching(facts).next()) {
        return Err(denied(policy, rule, facts));
    }
    let mut allowed = Allowed::default();
    if sets.iter().any(|set| !set.allow.is_empty()) {
        match sets.iter().find_map(|set| set.allow.matching(facts).next()) {
            Some((policy, _)) => allowed.policy = Some(policy.key.clone()),
            None => return Err(closest::closest(sets.iter().map(|set| &set.allow), facts)),
        }
    }
    for (policy, rule) in sets.iter().flat_map(|set| set.dry_deny.matching(facts)) {
        allowed.dry_run.push(denied(policy, rule, facts));
    }
    if sets.iter().any(|set| !set.dry_allow.is_empty()) {
        let matched = sets.iter().find_map(|set| set.dry_allow.matching(facts).next());
        allowed.dry_run.push(match matched {
            Some((policy, rule)) => Refusal::new(Reason::Ok, "").by(policy.key.clone(), Some(rule)),
            None => closest::closest(sets.iter().map(|set| &set.dry_allow), facts),
        });
    }
    Ok(allowed)
}

fn unknown(key: &PolicyKey, detail: String) -> Refusal {
    Refusal::new(Reason::PolicyUnknown, detail).by(key.clone(), None)
}

/// The number of the first rule of `policy` that matches `connection`.
#[must_use]
pub fn matching_rule_of(policy: &Policy, connection: &Connection) -> Option<usize> {
    let facts = Facts::of(connection);
    policy.groups.iter().position(|group| crate::policy::index::rule_matches(policy, group, &facts))
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

#[cfg(test)]
mod cost;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod property;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

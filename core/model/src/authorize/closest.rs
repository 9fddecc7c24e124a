//! Which ALLOW rule came closest, for a refusal that a person can understand.

use super::facts::{Facts, first_that_fails, how_many_hold};
use crate::{
    policy::{
        Action, Group, Policy, PolicyKey,
        index::{RuleSet, can_hold, clause_matches},
    },
    reason::{Reason, Refusal},
};

/// How many rules of each scope are compared: those that are about this connection, and as many others. Who is refused all day long
/// must not cost what all policies together cost.
const COMPARED: usize = 64;

const NOT_UNDERSTOOD: &str = "it asks for something that this proxy does not know, so it allows nothing";

/// The rule of an ALLOW policy of which the most held.
struct Closest<'a> {
    score: (usize, usize),
    policy: &'a PolicyKey,
    rule: Option<usize>,
    detail: String,
}

/// The refusal when no ALLOW matched: it names the rule of which the most held, and the first field that did not.
pub(super) fn closest<'a>(sets: impl Iterator<Item = &'a RuleSet>, facts: &Facts<'_>) -> Refusal {
    let mut best: Option<Closest<'a>> = None;
    let mut offer = |score, policy: &'a Policy, rule, detail: String| {
        if best.as_ref().is_none_or(|best| score > best.score) {
            best = Some(Closest { score, policy: &policy.key, rule, detail });
        }
    };
    for set in sets {
        if let Some(policy) = set.policies().find(|policy| policy.groups.is_empty()) {
            offer((0, 0), policy, None, "it has no rules, so it allows nothing".to_owned());
        }
        for (policy, rule) in set.near(facts, COMPARED) {
            let Some(group) = policy.groups.get(rule) else { continue };
            let (score, detail) = distance(policy, group, facts);
            // A rule always beats a policy without rules, which is scored 0.
            offer((score.0, score.1 + 1), policy, Some(rule), detail);
        }
    }
    match best {
        Some(best) => Refusal::new(Reason::PolicyDeniedNoAllowMatch, best.detail).by(best.policy.clone(), best.rule),
        None => Refusal::new(Reason::PolicyDeniedNoAllowMatch, ""),
    }
}

/// How near `group` came: clauses that matched, then fields that held in the first clause that did not; and what failed there.
fn distance(policy: &Policy, group: &Group, facts: &Facts<'_>) -> ((usize, usize), String) {
    facts.asked.set(facts.asked.get() + 1);
    if policy.not_understood {
        return ((0, 0), NOT_UNDERSTOOD.to_owned());
    }
    let matches = |clause| clause_matches(Action::Allow, clause, facts);
    let matched = group.clauses.iter().filter(|clause| matches(clause)).count();
    let Some(failing) = group.clauses.iter().find(|clause| !matches(clause)) else {
        return ((matched, 0), String::new());
    };
    let can_hold = failing.matches.iter().filter(|m| can_hold(Action::Allow, m));
    let best = can_hold.map(|m| (how_many_hold(m, facts), first_that_fails(m, facts).unwrap_or_default()));
    match best.max_by_key(|(held, _)| *held) {
        Some((held, failed)) => ((matched, held), format!("{failed} did not match {}", actual(failed, facts))),
        None if failing.matches.iter().any(|m| m.not_understood) => ((matched, 0), NOT_UNDERSTOOD.to_owned()),
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

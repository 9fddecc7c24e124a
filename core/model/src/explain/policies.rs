//! What policies say of a connection: the decision of `authorize`, and what each of them does.

use ambit_identity::SpiffeId;

use super::{Stage, Step};
use crate::{
    authorize::{Allowed, Connection, authorize, matching_rule_of},
    policy::{Action, Policy, Scope},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::Workload,
};

/// How many policies that do not match are named.
const NAMED: usize = 12;

/// The decision of the proxy of `workload`.
pub(super) fn step(state: &MeshState, stage: Stage, workload: &Workload, connection: &Connection) -> Step {
    let who = connection.source.as_ref().map_or("a peer without identity".to_owned(), SpiffeId::to_string);
    let whose = format!("{}/{}", workload.namespace, workload.name);
    match authorize(state, workload, connection) {
        Ok(allowed) => grounds(state, workload, connection, Step::new(stage, format!("{whose} lets {who} in")), Ok(&allowed)),
        Err(refusal) => {
            let step = Step::new(stage, format!("{whose} refuses {who}"));
            grounds(state, workload, connection, step, Err(&refusal)).refused(refusal)
        }
    }
}

fn grounds(
    state: &MeshState,
    workload: &Workload,
    connection: &Connection,
    mut step: Step,
    decided: Result<&Allowed, &Refusal>,
) -> Step {
    match decided {
        Ok(Allowed { policy: Some(policy), .. }) => {
            let rule = state.policy(policy).and_then(|policy| matching_rule_of(policy, connection));
            step = step
                .because(format!("the ALLOW policy {policy} matches{}", rule.map_or(String::new(), |n| format!(", rules[{n}]"))));
        }
        Ok(_) => step = step.because("no ALLOW policy applies, so what no DENY matches is allowed"),
        Err(refusal) => step = step.because(refusal.to_string()),
    }
    let mut silent = 0;
    for policy in holding_for(state, workload) {
        let key = Some(&policy.key);
        let decisive = matches!(decided, Ok(allowed) if allowed.policy.as_ref() == key)
            || matches!(decided, Err(refusal) if refusal.policy.as_ref() == key && refusal.rule.is_some());
        if decisive && !policy.dry_run {
            continue;
        }
        let matches = matching_rule_of(policy, connection);
        if matches.is_none() && silent >= NAMED {
            silent += 1;
            continue;
        }
        silent += usize::from(matches.is_none());
        step = step.because(describe(policy, matches));
    }
    if silent > NAMED {
        step = step.because(format!("{} more policies do not match", silent - NAMED));
    }
    let unenforced = decided.map_or(&[][..], |allowed| &allowed.dry_run);
    unenforced.iter().fold(step, |step, outcome| step.because(if_enforced(outcome)))
}

/// What dry-run policies would have made of it.
fn if_enforced(outcome: &Refusal) -> String {
    match (outcome.reason, &outcome.policy) {
        (Reason::Ok, Some(policy)) => format!("if dry-run policies were enforced, the ALLOW policy {policy} would let it pass"),
        _ => format!("if dry-run policies were enforced, it would be refused: {outcome}"),
    }
}

/// The policies that hold for `workload`, in the order of their names. Linear in all policies: nothing waits for an explanation.
fn holding_for<'a>(state: &'a MeshState, workload: &Workload) -> Vec<&'a Policy> {
    let holds = |policy: &&Policy| policy.holds_by_scope(workload) || workload.policies.contains(&policy.key);
    let mut holding: Vec<&Policy> = state.policies().map(|policy| &**policy).filter(holds).collect();
    holding.sort_by(|a, b| a.key.cmp(&b.key));
    holding
}

fn describe(policy: &Policy, matches: Option<usize>) -> String {
    let action = match policy.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    };
    let scope = match policy.scope {
        Scope::Global => "of the whole mesh",
        Scope::Namespace => "of the namespace",
        Scope::Selector => "by selector",
    };
    let dry = if policy.dry_run { ", dry run" } else { "" };
    let unknown = if policy.not_understood { ", part of it not understood" } else { "" };
    match matches {
        Some(rule) => format!("the {action} policy {} ({scope}{dry}{unknown}) matches, rules[{rule}]", policy.key),
        None => format!("the {action} policy {} ({scope}{dry}{unknown}) does not match", policy.key),
    }
}

//! What policies say of a request: each rule set by the decision that is made for requests, and each of its rules.

use ambit_model::{
    explain::{
        Step,
        request::{Differs, rulings},
    },
    route::{Rbac, RbacAction, Subject},
};
use serde::Serialize;

use crate::{authz, compiled::RbacFilter};

/// How many rules that do not match are named; the document has all.
const NAMED: usize = 12;

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicySaid {
    /// What its rule set does with what matches.
    pub action: RbacAction,
    /// `namespace/name, rules[index]`, or the name that another control plane gave it.
    pub rule: String,
    /// It is not enforced.
    pub dry_run: bool,
    /// It matches.
    pub matches: bool,
    /// It is the one that decided for its rule set: the first that matches.
    pub decides: bool,
    /// Where the request differs from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Differs>,
}

/// What the rules of `filters` say of `subject`, up to the rule set that refuses.
pub(super) fn told(filters: &[RbacFilter], subject: &Subject<'_>) -> Vec<PolicySaid> {
    let mut said = Vec::new();
    for filter in filters {
        if let Some(shadow) = &filter.shadow {
            said.extend(of(shadow, subject, true));
        }
        if let Some(rules) = &filter.rules {
            said.extend(of(rules, subject, false));
            if authz::ask(rules, subject).is_err() {
                break;
            }
        }
    }
    said
}

/// Whether none of `filters` refuses `subject`.
pub(super) fn let_pass(filters: &[RbacFilter], subject: &Subject<'_>) -> bool {
    filters.iter().filter_map(|filter| filter.rules.as_ref()).all(|rules| authz::ask(rules, subject).is_ok())
}

fn of(rules: &Rbac, subject: &Subject<'_>, dry_run: bool) -> Vec<PolicySaid> {
    let mut decided = false;
    let said = rulings(rules, subject).into_iter().map(|said| {
        let decides = said.matches && !decided;
        decided |= said.matches;
        let rule = match authz::named(&said.rule) {
            Some((policy, Some(index))) => format!("{policy}, rules[{index}]"),
            Some((policy, None)) => policy.to_string(),
            None => said.rule,
        };
        PolicySaid { action: rules.action, rule, dry_run, matches: said.matches, decides, differs: said.differs }
    });
    said.collect()
}

/// `step` with what was said as its grounds.
pub(super) fn grounds(mut step: Step, said: &[PolicySaid]) -> Step {
    let mut silent = 0;
    for rule in said {
        silent += usize::from(!rule.matches);
        if rule.matches || silent <= NAMED {
            step = step.because(describe(rule));
        }
    }
    match silent.saturating_sub(NAMED) {
        0 => step,
        more => step.because(format!("{more} more rules do not match (--json has them all)")),
    }
}

fn describe(said: &PolicySaid) -> String {
    let action = match said.action {
        RbacAction::Allow => "ALLOW",
        RbacAction::Deny => "DENY",
    };
    let dry = if said.dry_run { " (dry run)" } else { "" };
    let decides = match (said.matches, said.decides) {
        (true, false) => ", after another of them did",
        _ => "",
    };
    match &said.differs {
        None => format!("the {action} rule {}{dry} matches{decides}", said.rule),
        Some(differs) => format!("the {action} rule {}{dry} does not match: {differs}", said.rule),
    }
}

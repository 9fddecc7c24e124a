//! What policies say of a request: each rule set by the decision that is made for requests, and each of its rules.

use std::sync::Arc;

use ambit_model::{
    explain::{
        Stage, Step,
        request::{Differs, rulings},
    },
    route::{Rbac, RbacAction, Subject},
};
use serde::Serialize;

use crate::{
    authz,
    compiled::{ExtAuthz, RbacFilter},
};

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

/// The rules of `filters` that decide about `subject`, up to the rule set that refuses.
pub(crate) fn decided(filters: &[RbacFilter], subject: &Subject<'_>) -> Vec<String> {
    let deciding = told(filters, subject).into_iter().filter(|said| said.decides);
    deciding
        .map(|said| format!("{} {}{}", action(said.action), said.rule, if said.dry_run { " (dry run)" } else { "" }))
        .collect()
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
        let rule = named(&said.rule);
        PolicySaid { action: rules.action, rule, dry_run, matches: said.matches, decides, differs: said.differs }
    });
    said.collect()
}

fn named(rule: &str) -> String {
    match authz::named(rule) {
        Some((policy, Some(index))) => format!("{policy}, rules[{index}]"),
        Some((policy, None)) => policy.to_string(),
        None => rule.to_owned(),
    }
}

/// The authorizers that would be asked about `subject`.
pub(super) fn asked(asks: &[Arc<ExtAuthz>], subject: &Subject<'_>) -> Vec<Step> {
    let asked = asks.iter().filter_map(|ask| {
        let rule = authz::marked(ask.when.as_ref(), subject)?;
        let step = Step::new(Stage::Policy, format!("an external authorizer is asked, by the cluster {}", ask.cluster));
        let step = match rule {
            Some(rule) => step.because(format!("the CUSTOM rule {} matches", named(rule))),
            None => step,
        };
        let otherwise = if ask.failure_mode_allow { "passes" } else { "is refused" };
        let step = step.because(format!("without an answer within {:?} the request {otherwise}", ask.timeout));
        Some(step.because("what it answers is not known here; the rest holds if it lets the request pass as it is"))
    });
    asked.collect()
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

fn action(action: RbacAction) -> &'static str {
    match action {
        RbacAction::Allow => "ALLOW",
        RbacAction::Deny => "DENY",
    }
}

fn describe(said: &PolicySaid) -> String {
    let action = action(said.action);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ambit_model::route::{Permission, Principal, RbacPolicy, StringMatch};
    use http::StatusCode;

    use super::*;
    use crate::compiled::{AuthorizerService, Mark, Marked};

    #[test]
    fn an_authorizer_is_named_with_the_rule_by_which_it_is_asked_and_only_then() {
        let policy = RbacPolicy {
            name: "ns[shop]-policy[asks]-rule[1]".into(),
            permissions: vec![Permission::DestinationPort(80)],
            principals: vec![Principal::Any],
        };
        let rules = Rbac { action: RbacAction::Deny, policies: vec![policy] };
        let when = Marked { rules, of: Mark::Result, is: StringMatch::exact("denied"), invert: false };
        let asks = [Arc::new(ExtAuthz {
            when: Some(when),
            cluster: "guard".into(),
            service: AuthorizerService::Grpc { authority: "guard".into() },
            timeout: Duration::from_secs(2),
            failure_mode_allow: false,
            status_on_error: StatusCode::FORBIDDEN,
            allowed_headers: None,
            body: None,
        })];
        let said = |destination_port| {
            let subject = Subject {
                principal: None,
                remote_ip: None,
                direct_remote_ip: None,
                destination_ip: None,
                destination_port,
                request: None,
                metadata: None,
            };
            asked(&asks, &subject)
        };
        let steps = said(80);
        let [step] = steps.as_slice() else { panic!("{steps:?}") };
        let told = format!("{step:?}");
        for part in ["by the cluster guard", "the CUSTOM rule shop/asks, rules[1] matches", "within 2s the request is refused"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(said(81), []);
    }
}

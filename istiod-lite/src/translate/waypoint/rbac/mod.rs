//! AuthorizationPolicies that target a service or the waypoint, as Envoy RBAC rules.
//!
//! DENY is asked first, then ALLOW, each as one filter with one policy per rule, keyed
//! `ns[<namespace>]-policy[<name>]-rule[<i>]` so that a refusal names the rule. What cannot be expressed never lets
//! more through: an unknown field makes an ALLOW rule match nothing and drops out of a DENY rule, which then matches
//! more. An ALLOW policy that can match nothing is sent as one such rule, keyed without a rule, so that a refusal can
//! name it. Of a policy of action CUSTOM these are the rules by which it denies where nobody can be asked ([`super::ext_authz`]).
//!
//! Policies in dry run (`istio.io/dry-run`) are compiled in the same way, into rule sets of their own, which stand as `shadow_rules`
//! beside those that are enforced. Of CUSTOM there is none: whoever is asked would count it.

mod claim;
#[cfg(test)]
mod claim_tests;
mod permission;
mod principal;
mod term;
#[cfg(test)]
mod tests;
mod token;
#[cfg(test)]
mod token_tests;
mod unknown;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::rbac::v3::rbac::Action;
use ambit_api::envoy::pb::envoy::config::rbac::v3::{Policy, permission::Rule as PermissionRule, principal::Identifier};
use ambit_model::measure::MetricChanges;

use super::access_log::Log;
use super::ext_authz::Ask;
use super::ext_proc::Process;
use super::limiter::Limiter;
use super::names::Layer;
use super::traces::Traces;
use super::wire::ordered::{JwtAuthentication, Rules};
use crate::index::is_dry_run;
use crate::source::crd::traffic::Admission;
use crate::source::crd::{AuthorizationPolicy, PolicyAction, Rule};
pub use principal::escape;
use term::{Effect, Term, all_of, any_of};
pub use token::{refuse_all as refuse_connections, verify as verify_tokens};
pub use unknown::{of_services_at_waypoints, unknown_at_waypoints};

/// Where rules are going to be evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Requests, or connections: HTTP attributes are unknown on a connection.
    pub layer: Layer,
    /// The service port, known beforehand; `None` for traffic to pod addresses.
    pub port: Option<u16>,
    /// The addresses at which clients ask for the service, known beforehand as well, where they are; `None` for traffic to pod addresses.
    pub addresses: Option<&'a [IpAddr]>,
    /// The mesh's own trust domain.
    pub trust_domain: &'a str,
}

/// The rules in force at one place; `None` where no policy of that action holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Enforcement {
    /// Refuse requests whose token is not believed.
    pub tokens: Option<JwtAuthentication>,
    /// Have these asked, of whom each may refuse.
    pub asks: Vec<Ask>,
    /// Refuse what any of these matches.
    pub deny: Option<Rules>,
    /// Refuse what none of these matches.
    pub allow: Option<Rules>,
    /// Refuse nothing by these, and say what they would refuse.
    pub dry_run: DryRun,
    /// Have these count what is left, once the routes are known that name them.
    pub limiters: Vec<Limiter>,
    /// Have bodies no longer than routes say, where one of them says so.
    pub bodies: bool,
    /// Have what is left processed by these, where routes say so.
    pub processes: Vec<Process>,
    /// Let in so many at once of what is not refused.
    pub admission: Option<Admission>,
    /// Tell somebody of all of them.
    pub traces: Option<Traces>,
    /// Log these, and not the mesh's own line.
    pub logs: Option<Vec<Log>>,
    /// Count some of it in another way.
    pub metrics: Option<MetricChanges>,
}

/// The rules of policies in dry run at one place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DryRun {
    /// Would refuse what any of these matches.
    pub deny: Option<Rules>,
    /// Would refuse what none of these matches.
    pub allow: Option<Rules>,
}

/// The rule sets of one action at one place, of which there is at least one.
#[derive(Debug, Clone, Copy)]
pub struct OfAction<'a> {
    /// What is enforced.
    pub enforced: Option<&'a Rules>,
    /// What is in dry run.
    pub dry_run: Option<&'a Rules>,
    /// The beginning of what the result of the latter is called in Envoy's statistics and metadata: that of Istio's waypoints.
    prefix: &'static str,
}

impl OfAction<'_> {
    /// That beginning, where something is in dry run.
    pub fn prefix(&self) -> String {
        self.dry_run.map(|_| self.prefix.to_owned()).unwrap_or_default()
    }
}

impl Enforcement {
    /// The rule sets in the order in which they are asked: DENY, then ALLOW.
    pub fn of_actions(&self) -> impl Iterator<Item = OfAction<'_>> {
        let deny = (&self.deny, &self.dry_run.deny, "istio_dry_run_deny_");
        let allow = (&self.allow, &self.dry_run.allow, "istio_dry_run_allow_");
        let all = [deny, allow].into_iter();
        all.filter(|(enforced, dry_run, _)| enforced.is_some() || dry_run.is_some()).map(|(enforced, dry_run, prefix)| OfAction {
            enforced: enforced.as_ref(),
            dry_run: dry_run.as_ref(),
            prefix,
        })
    }
}

/// Compiles the policies that hold at a place.
pub fn compile(policies: &[&Arc<AuthorizationPolicy>], place: Place<'_>) -> Enforcement {
    let mut enforcement = Enforcement::default();
    for policy in policies {
        let Enforcement { deny, allow, dry_run, .. } = &mut enforcement;
        let (effect, action, rules) = match (policy.spec.action, is_dry_run(policy)) {
            (PolicyAction::Allow, false) => (Effect::Allow, Action::Allow, allow),
            (PolicyAction::Allow, true) => (Effect::Allow, Action::Allow, &mut dry_run.allow),
            (PolicyAction::Deny | PolicyAction::Custom, false) => (Effect::Deny, Action::Deny, deny),
            (PolicyAction::Deny, true) => (Effect::Deny, Action::Deny, &mut dry_run.deny),
            (PolicyAction::Custom, true) | (PolicyAction::Audit, _) => continue,
        };
        let rules = rules.get_or_insert_with(|| empty(action));
        let context = Context { effect, place, namespace: policy.metadata.namespace.as_deref().unwrap_or_default() };
        let mut can_match = false;
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            if let Some(compiled) = context.rule(rule) {
                can_match = true;
                rules.policies.insert(format!("{}-rule[{index}]", policy_key(policy)), compiled);
            }
        }
        if effect == Effect::Allow && !can_match {
            rules.policies.insert(policy_key(policy), allows_nothing());
        }
    }
    // A DENY filter without rules refuses nothing; an ALLOW filter without rules refuses everything, as it should.
    for deny in [&mut enforcement.deny, &mut enforcement.dry_run.deny] {
        drop(deny.take_if(|rules| rules.policies.is_empty()));
    }
    enforcement
}

/// Rules that refuse everything.
pub fn nothing_allowed() -> Rules {
    empty(Action::Allow)
}

fn empty(action: Action) -> Rules {
    Rules { action: action.into(), policies: BTreeMap::new() }
}

/// What stands for an ALLOW policy of which no rule can match: it changes no decision, but a refusal can name the policy.
fn allows_nothing() -> Policy {
    let never = PermissionRule::NotRule(Box::new(permission::boxed(PermissionRule::Any(true))));
    let anybody = Identifier::Any(true);
    Policy { permissions: vec![permission::boxed(never)], principals: vec![principal::boxed(anybody)], ..Default::default() }
}

fn policy_key(policy: &AuthorizationPolicy) -> String {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    format!("ns[{namespace}]-policy[{name}]")
}

/// What a rule is compiled for.
struct Context<'a> {
    effect: Effect,
    place: Place<'a>,
    namespace: &'a str,
}

impl Context<'_> {
    /// One rule; `None` when it can never match here.
    fn rule(&self, rule: &Rule) -> Option<Policy> {
        let from =
            if rule.from.is_empty() { Term::Always } else { any_of(rule.from.iter().map(|from| self.source(&from.source))) };
        let to = if rule.to.is_empty() { Term::Always } else { any_of(rule.to.iter().map(|to| self.operation(&to.operation))) };
        let (mut principals, mut permissions) = (vec![from], vec![to]);
        for when in &rule.when {
            match self.condition(when) {
                Condition::Principal(term) => principals.push(term),
                Condition::Permission(term) => permissions.push(term),
            }
        }
        let principal = match all_of(principals) {
            Term::Never => return None,
            Term::Always => Identifier::Any(true),
            Term::Is(identifier) => identifier,
        };
        let permission = match all_of(permissions) {
            Term::Never => return None,
            Term::Always => PermissionRule::Any(true),
            Term::Is(rule) => rule,
        };
        Some(Policy {
            permissions: vec![permission::boxed(permission)],
            principals: vec![principal::boxed(principal)],
            ..Default::default()
        })
    }
}

/// A `when` condition speaks of the caller or of the request.
enum Condition {
    Principal(Term<Identifier>),
    Permission(Term<PermissionRule>),
}

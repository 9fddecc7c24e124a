use super::*;
use crate::{
    authorize::{Connection, authorize},
    policy::{Action, Group},
    reason::Reason,
    state::MeshState,
    test_support::workload,
};

fn deny_all(key: &str, scope: Scope) -> Policy {
    let groups = vec![Group { clauses: Vec::new() }];
    Policy { key: key.parse().unwrap(), scope, action: Action::Deny, dry_run: false, not_understood: false, groups }
}

fn key(text: &str) -> PolicyKey {
    text.parse().unwrap()
}

/// What happens to a connection to this workload.
fn outcome(state: &MeshState, uid: &str) -> Option<Reason> {
    let (source_ip, destination) = ("10.0.0.9".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let connection = Connection { source: None, source_ip, destination };
    authorize(state, state.workload(uid).unwrap(), &connection).err().map(|refusal| refusal.reason)
}

const WEB: &str = "Kubernetes//Pod/shop/web";
const DENIED: Option<Reason> = Some(Reason::PolicyDeniedExplicit);
const UNKNOWN: Option<Reason> = Some(Reason::PolicyUnknown);

#[test]
fn a_policy_that_changes_its_scope_holds_in_the_new_one_only() {
    let mut state = MeshState::new();
    state.insert_workload(workload("web", "10.0.0.1"));
    for (scope, holds) in [(Scope::Global, DENIED), (Scope::Selector, None), (Scope::Namespace, DENIED), (Scope::Selector, None)]
    {
        state.insert_policy(deny_all("shop/p", scope));
        assert_eq!((outcome(&state, WEB), state.scope_of_policy(&key("shop/p"))), (holds, Some(scope)));
    }
    state.insert_policy(deny_all("shop/p", Scope::Namespace));
    state.remove_policy(&key("shop/p"));
    assert_eq!((outcome(&state, WEB), state.scope_of_policy(&key("shop/p"))), (None, None));
    let mut policies = Policies::default();
    policies.insert(deny_all("shop/p", Scope::Namespace));
    policies.remove(&key("shop/p"));
    assert!(policies.all.is_empty() && policies.by_namespace.is_empty() && policies.global.is_empty());
}

#[test]
fn what_was_decided_before_is_forgotten_with_each_change_of_what_the_workload_names() {
    let mut state = MeshState::new();
    let naming = |names: &[&str]| {
        let policies = names.iter().map(|name| key(name)).collect();
        Workload { policies, ..workload("web", "10.0.0.1") }
    };
    state.insert_workload(naming(&["shop/p", "other/q"]));
    assert_eq!(outcome(&state, WEB), UNKNOWN);
    state.insert_policy(Policy { groups: Vec::new(), ..deny_all("shop/p", Scope::Selector) });
    assert_eq!(outcome(&state, WEB), UNKNOWN);
    state.insert_policy(Policy { groups: Vec::new(), ..deny_all("other/q", Scope::Selector) });
    assert_eq!(outcome(&state, WEB), None);
    state.insert_policy(deny_all("other/q", Scope::Selector));
    assert_eq!(outcome(&state, WEB), DENIED);
    state.insert_workload(naming(&["shop/p"]));
    assert_eq!(outcome(&state, WEB), None);
    state.remove_policy(&key("shop/p"));
    assert_eq!(outcome(&state, WEB), UNKNOWN);
    state.insert_unreadable_policy(key("shop/p"), Scope::Selector);
    assert_eq!(outcome(&state, WEB), UNKNOWN);
    state.insert_policy(deny_all("shop/p", Scope::Selector));
    assert_eq!(outcome(&state, WEB), DENIED);
    state.remove_policy(&key("shop/p"));
    state.insert_workload(naming(&[]));
    assert_eq!(outcome(&state, WEB), None);
    let copy = state.clone();
    state.insert_policy(deny_all("shop/all", Scope::Namespace));
    assert_eq!((outcome(&copy, WEB), outcome(&state, WEB)), (None, DENIED));
}

#[test]
fn an_unreadable_policy_that_comes_again_with_another_scope_holds_in_that_one_only() {
    let mut state = MeshState::new();
    state.insert_workload(workload("web", "10.0.0.1"));
    state.insert_unreadable_policy(key("other/p"), Scope::Global);
    assert_eq!(outcome(&state, WEB), UNKNOWN);
    state.insert_unreadable_policy(key("other/p"), Scope::Namespace);
    assert_eq!(outcome(&state, WEB), None);
    state.insert_unreadable_policy(key("other/p"), Scope::Global);
    state.insert_policy(deny_all("other/p", Scope::Namespace));
    assert_eq!(outcome(&state, WEB), None);
}

use std::sync::Arc;

use super::*;
use crate::{
    policy::{Action, Clause, Group, Scope, ServiceAccountMatch},
    test_support::workload,
};

pub(super) fn peer() -> Connection {
    Connection {
        source: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        source_ip: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2:8080".parse().unwrap(),
    }
}

fn plain() -> Connection {
    Connection { source: None, ..peer() }
}

pub(super) fn policy(name: &str, action: Action, groups: Vec<Vec<Vec<Match>>>) -> Policy {
    let clauses = |clauses: Vec<Vec<Match>>| clauses.into_iter().map(|matches| Clause { matches }).collect();
    let groups = groups.into_iter().map(|group| Group { clauses: clauses(group) }).collect();
    Policy { key: PolicyKey::new("shop", name), scope: Scope::Namespace, action, dry_run: false, not_understood: false, groups }
}

fn decide(policies: Vec<Policy>, connection: &Connection) -> Result<Allowed, Refusal> {
    let mut state = MeshState::new();
    policies.into_iter().for_each(|policy| state.insert_policy(policy));
    authorize(&state, &workload("api", "10.0.0.2"), connection)
}

pub(super) fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

pub(super) fn account(namespace: &str, name: &str) -> Vec<ServiceAccountMatch> {
    vec![ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }]
}

pub(super) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Says of one field whether it matches a peer with an identity, and one without.
#[track_caller]
fn check(m: Match, with_identity: bool, without_identity: bool) {
    let policy = policy("p", Action::Deny, vec![vec![vec![m.clone()]]]);
    assert_eq!(matching_rule_of(&policy, &peer()).is_some(), with_identity, "with identity: {m:?}");
    assert_eq!(matching_rule_of(&policy, &plain()).is_some(), without_identity, "without identity: {m:?}");
}

#[test]
fn principals_match_with_their_negation() {
    let ours = "cluster.local/ns/shop/sa/web";
    for (text, matches) in [
        (StringMatch::Exact(ours.into()), true),
        (StringMatch::Exact("cluster.local/ns/shop/sa/we".into()), false),
        (StringMatch::Exact(format!("spiffe://{ours}").into()), false),
        (StringMatch::Prefix("cluster.local/ns/shop/".into()), true),
        (StringMatch::Prefix("other/".into()), false),
        (StringMatch::Suffix("/sa/web".into()), true),
        (StringMatch::Suffix("/sa/api".into()), false),
        (StringMatch::Presence, true),
    ] {
        check(Match { principals: vec![text.clone()], ..Match::default() }, matches, false);
        check(Match { not_principals: vec![text], ..Match::default() }, !matches, true);
    }
}

#[test]
fn namespaces_match_with_their_negation() {
    for (text, matches) in [
        (StringMatch::Exact("shop".into()), true),
        (StringMatch::Exact("sho".into()), false),
        (StringMatch::Prefix("sh".into()), true),
        (StringMatch::Suffix("op".into()), true),
        (StringMatch::Suffix("sh".into()), false),
        (StringMatch::Presence, true),
    ] {
        check(Match { namespaces: vec![text.clone()], ..Match::default() }, matches, false);
        check(Match { not_namespaces: vec![text], ..Match::default() }, !matches, true);
    }
}

#[test]
fn service_accounts_match_with_their_negation() {
    for (accounts, matches) in [
        (account("shop", "web"), true),
        (account("shop", "api"), false),
        (account("other", "web"), false),
        ([account("other", "web"), account("shop", "web")].concat(), true),
    ] {
        check(Match { service_accounts: accounts.clone(), ..Match::default() }, matches, false);
        check(Match { not_service_accounts: accounts, ..Match::default() }, !matches, true);
    }
}

#[test]
fn addresses_and_ports_match_with_their_negation() {
    for (list, matches) in
        [(nets(&["10.0.0.1/32"]), true), (nets(&["10.0.0.2/32"]), false), (nets(&["fd00::/8", "10.0.0.0/24"]), true)]
    {
        check(Match { source_ips: list.clone(), ..Match::default() }, matches, matches);
        check(Match { not_source_ips: list, ..Match::default() }, !matches, !matches);
    }
    for (list, matches) in
        [(nets(&["10.0.0.2/32"]), true), (nets(&["10.0.0.1/32"]), false), (nets(&["0.0.0.0/0"]), true), (nets(&["::/0"]), false)]
    {
        check(Match { destination_ips: list.clone(), ..Match::default() }, matches, matches);
        check(Match { not_destination_ips: list, ..Match::default() }, !matches, !matches);
    }
    for (list, matches) in [(vec![8080], true), (vec![80], false), (vec![80, 8080], true)] {
        check(Match { destination_ports: list.clone(), ..Match::default() }, matches, matches);
        check(Match { not_destination_ports: list, ..Match::default() }, !matches, !matches);
    }
}

#[test]
fn an_ipv4_address_written_as_ipv6_is_the_ipv4_address() {
    let mapped = Connection {
        source_ip: "::ffff:10.0.0.1".parse().unwrap(),
        destination: "[::ffff:10.0.0.2]:8080".parse().unwrap(),
        ..peer()
    };
    let m = Match { source_ips: nets(&["10.0.0.1/32"]), destination_ips: nets(&["10.0.0.2/32"]), ..Match::default() };
    assert_eq!(matching_rule_of(&policy("p", Action::Deny, vec![vec![vec![m]]]), &mapped), Some(0));
}

#[test]
fn fields_are_and_values_or_matches_or_clauses_and_groups_or() {
    let yes = || Match { namespaces: exact("shop"), ..Match::default() };
    let no = || Match { namespaces: exact("other"), ..Match::default() };
    let both = Match { namespaces: exact("shop"), destination_ports: vec![80], ..Match::default() };
    for (groups, matched) in [
        (vec![vec![vec![both]]], None),
        (vec![vec![vec![no(), yes()]]], Some(0)),
        (vec![vec![vec![no(), no()]]], None),
        (vec![vec![vec![yes()], vec![no()]]], None),
        (vec![vec![vec![yes()], vec![yes()]]], Some(0)),
        (vec![vec![vec![no()]], vec![vec![yes()]]], Some(1)),
        (vec![vec![vec![no()]], vec![vec![no()]]], None),
    ] {
        let policy = policy("p", Action::Deny, groups);
        assert_eq!(matching_rule_of(&policy, &peer()), matched, "{policy:?}");
    }
}

#[test]
fn empty_parts_mean_what_the_contract_says() {
    let yes = || Match { namespaces: exact("shop"), ..Match::default() };
    for (groups, matches) in [
        (vec![], false),
        (vec![vec![]], true),
        (vec![vec![vec![]]], true),
        (vec![vec![vec![Match::default()]]], false),
        (vec![vec![vec![Match::default(), yes()]]], true),
        (vec![vec![vec![yes()], vec![Match::default()]]], false),
    ] {
        let policy = policy("p", Action::Deny, groups);
        assert_eq!(
            matching_rule_of(&policy, &plain()).is_some() || matching_rule_of(&policy, &peer()).is_some(),
            matches,
            "{policy:?}"
        );
    }
}

#[test]
fn without_policies_everything_is_allowed() {
    assert_eq!(decide(vec![], &plain()), Ok(Allowed::default()));
}

#[test]
fn a_deny_wins_over_an_allow_and_names_its_rule() {
    let all = vec![vec![]];
    let no = Match { namespaces: exact("other"), ..Match::default() };
    let deny =
        policy("deny", Action::Deny, vec![vec![vec![no]], vec![vec![Match { namespaces: exact("shop"), ..Match::default() }]]]);
    let refusal = decide(vec![policy("allow", Action::Allow, all), deny], &peer()).unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.policy, refusal.rule),
        (Reason::PolicyDeniedExplicit, Some(PolicyKey::new("shop", "deny")), Some(1))
    );
}

#[test]
fn when_an_allow_applies_one_must_match() {
    let only = |name: &str, namespace: &str| {
        policy(name, Action::Allow, vec![vec![vec![Match { namespaces: exact(namespace), ..Match::default() }]]])
    };
    let allowed = decide(vec![only("a", "other"), only("b", "shop")], &peer()).unwrap();
    assert_eq!(allowed.policy, Some(PolicyKey::new("shop", "b")));
    let refusal = decide(vec![only("a", "other")], &peer()).unwrap_err();
    assert_eq!((refusal.reason, refusal.rule), (Reason::PolicyDeniedNoAllowMatch, Some(0)));
    assert_eq!(refusal.detail, "namespaces did not match shop");
    assert_eq!(decide(vec![only("a", "shop")], &plain()).unwrap_err().detail, "namespaces did not match a peer without identity");
}

#[test]
fn the_allow_that_came_closest_is_named() {
    let far = policy(
        "far",
        Action::Allow,
        vec![vec![
            vec![Match { namespaces: exact("other"), ..Match::default() }],
            vec![Match { destination_ports: vec![1], ..Match::default() }],
        ]],
    );
    let near = policy(
        "near",
        Action::Allow,
        vec![vec![
            vec![Match { namespaces: exact("shop"), ..Match::default() }],
            vec![Match { destination_ports: vec![1], ..Match::default() }],
        ]],
    );
    for order in [vec![far.clone(), near.clone()], vec![near, far]] {
        let refusal = decide(order, &peer()).unwrap_err();
        assert_eq!(refusal.policy, Some(PolicyKey::new("shop", "near")));
        assert_eq!(refusal.detail, "destination_ports did not match 8080");
    }
    let refusal = decide(vec![policy("nothing", Action::Allow, vec![])], &peer()).unwrap_err();
    assert_eq!((refusal.policy, refusal.rule), (Some(PolicyKey::new("shop", "nothing")), None));
}

#[test]
fn plain_text_against_a_policy_that_asks_for_an_identity_is_called_so() {
    let strict = policy(
        "strict",
        Action::Deny,
        vec![vec![vec![Match { not_principals: vec![StringMatch::Presence], ..Match::default() }]]],
    );
    assert_eq!(decide(vec![strict.clone()], &plain()).unwrap_err().reason, Reason::StrictMtlsRequired);
    assert!(decide(vec![strict], &peer()).is_ok());
}

#[test]
fn a_policy_that_the_workload_names_and_that_is_not_known_denies() {
    let mut target = workload("api", "10.0.0.2");
    target.policies = vec![PolicyKey::new("shop", "missing")];
    let mut state = MeshState::new();
    state.insert_policy(policy("allow", Action::Allow, vec![vec![]]));
    let refusal = authorize(&state, &target, &peer()).unwrap_err();
    assert_eq!((refusal.reason, refusal.policy), (Reason::PolicyUnknown, Some(PolicyKey::new("shop", "missing"))));
    state.insert_policy(Policy { scope: Scope::Selector, ..policy("missing", Action::Allow, vec![vec![]]) });
    assert!(authorize(&state, &target, &peer()).is_ok());
}

#[test]
fn a_policy_that_could_not_be_read_denies_in_its_scope_only() {
    let target = workload("api", "10.0.0.2");
    let denied = |key: PolicyKey, scope| {
        let mut state = MeshState::new();
        state.insert_unreadable_policy(key, scope);
        authorize(&state, &target, &peer()).err().map(|refusal| refusal.reason)
    };
    assert_eq!(denied(PolicyKey::new("root", "p"), Scope::Global), Some(Reason::PolicyUnknown));
    assert_eq!(denied(PolicyKey::new("shop", "p"), Scope::Namespace), Some(Reason::PolicyUnknown));
    assert_eq!(denied(PolicyKey::new("other", "p"), Scope::Namespace), None);
    assert_eq!(denied(PolicyKey::new("shop", "p"), Scope::Selector), None);
}

#[test]
fn an_earlier_version_of_a_policy_that_can_no_longer_be_read_stays_in_force() {
    let mut state = MeshState::new();
    state.insert_policy(policy("p", Action::Allow, vec![vec![]]));
    state.insert_unreadable_policy(PolicyKey::new("shop", "p"), Scope::Namespace);
    assert!(authorize(&state, &workload("api", "10.0.0.2"), &peer()).is_ok());
}

#[test]
fn policies_hold_by_scope() {
    let deny = |key: PolicyKey, scope| Policy { key, scope, ..policy("p", Action::Deny, vec![vec![]]) };
    let check = |policy: Policy, named: bool, denied: bool| {
        let mut target = workload("api", "10.0.0.2");
        if named {
            target.policies = vec![policy.key.clone()];
        }
        let mut state = MeshState::new();
        state.insert_policy(policy.clone());
        assert_eq!(authorize(&state, &target, &peer()).is_err(), denied, "{policy:?}");
    };
    check(deny(PolicyKey::new("root", "p"), Scope::Global), false, true);
    check(deny(PolicyKey::new("shop", "p"), Scope::Namespace), false, true);
    check(deny(PolicyKey::new("other", "p"), Scope::Namespace), false, false);
    check(deny(PolicyKey::new("shop", "p"), Scope::Selector), false, false);
    check(deny(PolicyKey::new("shop", "p"), Scope::Selector), true, true);
}

#[test]
fn a_dry_run_policy_is_reported_and_not_enforced() {
    let dry = |policy: Policy| Policy { dry_run: true, ..policy };
    let allowed =
        decide(vec![dry(policy("deny", Action::Deny, vec![vec![]])), dry(policy("allow", Action::Allow, vec![]))], &peer())
            .unwrap();
    let reported: Vec<_> = allowed.dry_run.iter().map(|refusal| refusal.reason).collect();
    assert_eq!(reported, [Reason::PolicyDeniedExplicit, Reason::PolicyDeniedNoAllowMatch]);
    assert_eq!(allowed.policy, None);
    // A dry-run ALLOW does not allow what an enforced ALLOW would refuse.
    let refused = decide(vec![dry(policy("all", Action::Allow, vec![vec![]])), policy("none", Action::Allow, vec![])], &peer());
    assert_eq!(refused.unwrap_err().reason, Reason::PolicyDeniedNoAllowMatch);
}

#[test]
fn the_state_gives_out_shared_values() {
    let mut state = MeshState::new();
    state.insert_policy(policy("p", Action::Allow, vec![]));
    let held = || state.policy(&PolicyKey::new("shop", "p")).cloned().unwrap();
    assert!(Arc::ptr_eq(&held(), &held()));
}

#[test]
fn what_is_not_understood_never_allows_and_denies_what_is_known_of_it() {
    let unknown = |m: Match| vec![vec![vec![Match { not_understood: true, ..m }]]];
    let shop = || Match { namespaces: exact("shop"), ..Match::default() };
    let other = || Match { namespaces: exact("other"), ..Match::default() };
    for (m, denied) in [(shop(), true), (other(), false), (Match::default(), true)] {
        let refusal = decide(vec![policy("a", Action::Allow, unknown(m.clone()))], &peer()).unwrap_err();
        assert_eq!(refusal.reason, Reason::PolicyDeniedNoAllowMatch);
        assert!(refusal.detail.contains("does not know"), "{refusal}");
        assert_eq!(decide(vec![policy("d", Action::Deny, unknown(m.clone()))], &peer()).is_err(), denied, "{m:?}");
    }
    let whole = |action| Policy { not_understood: true, ..policy("p", action, vec![vec![vec![shop()]]]) };
    assert!(decide(vec![whole(Action::Allow)], &peer()).is_err() && decide(vec![whole(Action::Deny)], &peer()).is_err());
    let elsewhere = Policy { not_understood: true, ..policy("p", Action::Deny, vec![vec![vec![other()]]]) };
    assert!(decide(vec![elsewhere], &peer()).is_ok());
}

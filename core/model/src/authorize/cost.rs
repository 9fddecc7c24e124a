//! What a decision costs: rules that are asked, and time.

use std::time::{Duration, Instant};

use super::{
    tests::{account, exact, nets, peer, policy},
    *,
};
use crate::{
    policy::{Action, Scope},
    test_support::workload,
};

/// How many rules are asked to decide about the peer.
fn asked(state: &MeshState) -> usize {
    let target = state.workload("Kubernetes//Pod/shop/api").unwrap();
    let connection = peer();
    let facts = Facts::of(&connection);
    let _either_way = decide(state, target, &facts);
    facts.asked.get()
}

#[test]
fn policies_that_cannot_apply_cost_nothing() {
    let mut target = workload("api", "10.0.0.2");
    target.policies = vec![PolicyKey::new("shop", "named")];
    let mut state = MeshState::new();
    state.insert_workload(target);
    let any = || vec![vec![vec![Match { not_destination_ports: vec![1], ..Match::default() }]]];
    let named = Policy { scope: Scope::Selector, ..policy("named", Action::Allow, any()) };
    state.insert_policy(named.clone());
    let few = asked(&state);
    for number in 0..5_000 {
        let key = |namespace: &str| PolicyKey::new(namespace, format!("p{number}"));
        state.insert_policy(Policy { key: key("elsewhere"), ..policy("", Action::Deny, any()) });
        state.insert_policy(Policy { key: key("shop"), scope: Scope::Selector, ..policy("", Action::Deny, any()) });
        state.insert_unreadable_policy(PolicyKey::new("afar", format!("p{number}")), Scope::Namespace);
    }
    assert_eq!((asked(&state), few), (1, 1));
}

#[test]
fn among_many_policies_that_apply_only_those_about_the_connection_are_asked() {
    let texts = |number: usize| exact(&format!("cluster.local/ns/shop/sa/a{number}"));
    let about: [fn(usize) -> Match; 5] = [
        |number| Match { source_ips: nets(&[&format!("10.1.{}.{}/32", number / 250, number % 250)]), ..Match::default() },
        |number| Match { source_ips: nets(&[&format!("fd00:{number:x}::/32")]), ..Match::default() },
        |number| Match { service_accounts: account("shop", &format!("a{number}")), ..Match::default() },
        |number| Match { namespaces: exact(&format!("n{number}")), ..Match::default() },
        |number| Match { destination_ports: vec![u16::try_from(number).unwrap() + 10_000], ..Match::default() },
    ];
    for action in [Action::Deny, Action::Allow] {
        let mut state = MeshState::new();
        state.insert_workload(workload("api", "10.0.0.2"));
        for number in 0..1_000 {
            let mut add = |kind: &str, m: Match| {
                // Beside a clause that says nothing of whom it is about.
                let also = Match { not_destination_ports: vec![1], ..Match::default() };
                state.insert_policy(policy(&format!("{kind}-{number}"), action, vec![vec![vec![also], vec![m]]]));
            };
            add("principal", Match { principals: texts(number), ..Match::default() });
            about.iter().enumerate().for_each(|(kind, m)| add(&format!("{kind}"), m(number)));
        }
        let yes = Match { principals: exact("cluster.local/ns/shop/sa/web"), ..Match::default() };
        state.insert_policy(policy("yes", action, vec![vec![vec![yes]]]));
        assert_eq!(asked(&state), 1);
        state.remove_policy(&PolicyKey::new("shop", "yes"));
        // Who is not allowed is told what came closest, of a few.
        assert!(asked(&state) <= 128, "{} rules", asked(&state));
    }
}

/// The time of one decision, of the fastest of a few hundred, and of the first one, which files the policies.
fn time(state: &MeshState) -> (Duration, Duration) {
    let target = state.workload("Kubernetes//Pod/shop/api").unwrap();
    let connection = peer();
    let one = || {
        let begun = Instant::now();
        authorize(state, target, &connection).unwrap();
        begun.elapsed()
    };
    let first = one();
    ((0..300).map(|_| one()).min().unwrap(), first)
}

#[test]
fn ten_thousand_policies_that_hold_for_a_workload_cost_as_little_as_one() {
    let mut state = MeshState::new();
    state.insert_workload(workload("api", "10.0.0.2"));
    let allow = |number: usize| {
        let m = Match { principals: exact(&format!("cluster.local/ns/shop/sa/a{number}")), ..Match::default() };
        policy(&format!("p{number}"), Action::Allow, vec![vec![vec![m]]])
    };
    let web = Match { principals: exact("cluster.local/ns/shop/sa/web"), ..Match::default() };
    state.insert_policy(policy("web", Action::Allow, vec![vec![vec![web]]]));
    let alone = time(&state);
    (0..10_000).for_each(|number| state.insert_policy(allow(number)));
    let (among, filed) = time(&state);
    println!("one policy {alone:?}; among ten thousand others {among:?}, the first decision after a change {filed:?}");
    // The counts above are exact; this would notice only what grows with the policies.
    assert!(among < 50 * alone.0.max(Duration::from_micros(1)), "{among:?} and {alone:?}");
}

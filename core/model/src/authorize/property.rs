//! A million random connections to random policies: the real evaluator answers what the slow one holds to be right.
//!
//! A failure prints a seed and the smallest world with which it still fails; `AUTHORIZE_SEED` runs that seed alone.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ambit_api::security::Authorization;
use prost::Message as _;

use super::{
    Connection, authorize,
    oracle::{Answer, Peer, Target, answer},
    random::{Dice, peer, world},
};
use crate::{
    convert::decode_policy,
    reason::{Reason, Refusal},
    state::MeshState,
    test_support::workload,
    workload::Workload,
};

const CASES: u64 = 1_000_000;
/// Connections to each world: making it costs more than deciding on it.
const PEERS: u64 = 25;
const THREADS: u64 = 2;

/// How often each kind of outcome was seen.
type Seen = BTreeMap<&'static str, u64>;

#[test]
fn a_million_random_connections_are_decided_as_the_contract_says() {
    if let Some(seed) = std::env::var("AUTHORIZE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed, &mut Seen::new());
    }
    let worlds = CASES / PEERS;
    let ran: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut seen = Seen::new();
                    (thread..worlds).step_by(THREADS as usize).for_each(|seed| run(seed, &mut seen));
                    seen
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))).collect()
    });
    let mut seen = Seen::new();
    ran.into_iter().flatten().for_each(|(kind, count)| *seen.entry(kind).or_default() += count);
    assert_eq!(seen.get("cases"), Some(&CASES));
    let kinds = [
        "allowed by a policy",
        "allowed by none",
        "denied",
        "denied for plain text",
        "not allowed",
        "not delivered",
        "denied by a later rule",
        "one of several policies decides",
        "dry run: denied",
        "dry run: not allowed",
        "dry run: allowed",
        "dry run: none",
    ];
    for kind in kinds {
        assert!(seen.get(kind).is_some_and(|count| *count > CASES / 1000), "{kind} was hardly seen: {seen:?}");
    }
}

/// Decides one world of policies for many connections.
fn run(seed: u64, seen: &mut Seen) {
    let mut dice = Dice(seed);
    let (policies, target) = world(&mut dice);
    let (state, server) = real(&policies, &target);
    for _ in 0..PEERS {
        let peer = peer(&mut dice);
        *seen.entry("cases").or_default() += 1;
        if let Err(wrong) = compare(&state, &server, &policies, &target, &peer, seen) {
            let smallest = shrink(policies, &target, &peer);
            panic!("AUTHORIZE_SEED={seed}: {wrong}\n{}", dump(&smallest, &target, &peer));
        }
    }
}

fn real(policies: &[Authorization], target: &Target) -> (MeshState, std::sync::Arc<Workload>) {
    let mut state = MeshState::new();
    for policy in policies {
        let name = format!("{}/{}", policy.namespace, policy.name);
        state.insert_policy(decode_policy(&name, &policy.encode_to_vec()).unwrap());
    }
    let names = target.names.iter().map(|name| name.parse().unwrap()).collect();
    let server = Workload { policies: names, namespace: target.namespace.parse().unwrap(), ..workload("server", "10.0.0.2") };
    let uid = server.uid.clone();
    state.insert_workload(server);
    let server = std::sync::Arc::clone(state.workload(uid.as_str()).unwrap());
    (state, server)
}

fn connection(peer: &Peer) -> Connection {
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    let id = |(domain, namespace, account): &(String, String, String)| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
    Connection {
        source: peer.identity.as_ref().map(|identity| id(identity).parse().unwrap()),
        source_ip: ip(&peer.source),
        destination: SocketAddr::new(ip(&peer.destination), peer.port as u16),
    }
}

fn compare(
    state: &MeshState,
    server: &Workload,
    policies: &[Authorization],
    target: &Target,
    peer: &Peer,
    seen: &mut Seen,
) -> Result<(), String> {
    let (right, right_dry) = answer(policies, target, peer);
    let real = authorize(state, server, &connection(peer));
    let same = match (&right, &real) {
        (Answer::Unknown(names), Err(refusal)) => refusal.reason == Reason::PolicyUnknown && names.contains(&by(refusal)),
        (Answer::Denied(rules), Err(refusal)) => {
            let denies = matches!(refusal.reason, Reason::PolicyDeniedExplicit | Reason::StrictMtlsRequired);
            denies && refusal.rule.is_some_and(|rule| rules.contains(&(by(refusal), rule)))
        }
        (Answer::NotAllowed(names), Err(refusal)) => {
            refusal.reason == Reason::PolicyDeniedNoAllowMatch && names.contains(&by(refusal))
        }
        (Answer::Allowed(names), Ok(allowed)) => match &allowed.policy {
            Some(policy) => names.contains(&policy.to_string()),
            None => names.is_empty(),
        },
        _ => false,
    };
    if !same {
        return Err(format!("right is {right:?}, but it is {real:?}"));
    }
    note(&right, real.as_ref().err(), seen);
    match real {
        Ok(allowed) if !dry_runs_alike(&right_dry, &allowed.dry_run, seen) => {
            Err(format!("right in dry run is {right_dry:?}, but it is {:?}", allowed.dry_run))
        }
        _ => Ok(()),
    }
}

/// Every dry-run DENY that matches is reported, and what the dry-run ALLOWs come to; each as if the other were not there.
fn dry_runs_alike(right: &Answer, reported: &[Refusal], seen: &mut Seen) -> bool {
    let denies = |refusal: &&Refusal| matches!(refusal.reason, Reason::PolicyDeniedExplicit | Reason::StrictMtlsRequired);
    let mut denied: Vec<_> = reported.iter().filter(denies).map(|refusal| (by(refusal), refusal.rule.unwrap())).collect();
    let allows: Vec<&Refusal> = reported.iter().filter(|refusal| !denies(refusal)).collect();
    denied.sort();
    let (kind, same) = match right {
        Answer::Denied(rules) => {
            let mut rules = rules.clone();
            rules.sort();
            ("dry run: denied", denied == rules)
        }
        Answer::NotAllowed(names) => {
            let said = |refusal: &&Refusal| refusal.reason == Reason::PolicyDeniedNoAllowMatch && names.contains(&by(refusal));
            ("dry run: not allowed", denied.is_empty() && allows.len() == 1 && allows.iter().all(said))
        }
        Answer::Allowed(names) if names.is_empty() => ("dry run: none", reported.is_empty()),
        Answer::Allowed(names) => {
            let said = |refusal: &&Refusal| refusal.reason == Reason::Ok && names.contains(&by(refusal));
            ("dry run: allowed", denied.is_empty() && allows.len() == 1 && allows.iter().all(said))
        }
        Answer::Unknown(_) => ("", false),
    };
    *seen.entry(kind).or_default() += 1;
    same
}

fn by(refusal: &Refusal) -> String {
    refusal.policy.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn note(right: &Answer, refusal: Option<&Refusal>, seen: &mut Seen) {
    let kind = match right {
        Answer::Unknown(_) => "not delivered",
        Answer::Denied(_) if refusal.is_some_and(|refusal| refusal.reason == Reason::StrictMtlsRequired) => {
            "denied for plain text"
        }
        Answer::Denied(_) => "denied",
        Answer::NotAllowed(_) => "not allowed",
        Answer::Allowed(names) if names.is_empty() => "allowed by none",
        Answer::Allowed(_) => "allowed by a policy",
    };
    *seen.entry(kind).or_default() += 1;
    if refusal.and_then(|refusal| refusal.rule).is_some_and(|rule| rule > 0) {
        *seen.entry("denied by a later rule").or_default() += 1;
    }
    let several = match right {
        Answer::Denied(rules) => rules.len() > 1,
        Answer::Unknown(names) | Answer::NotAllowed(names) | Answer::Allowed(names) => names.len() > 1,
    };
    *seen.entry("one of several policies decides").or_default() += u64::from(several);
}

/// Leaves out what the failure does not need.
fn shrink(mut policies: Vec<Authorization>, target: &Target, peer: &Peer) -> Vec<Authorization> {
    let fails = |policies: &[Authorization]| {
        let (state, server) = real(policies, target);
        compare(&state, &server, policies, target, peer, &mut Seen::new()).is_err()
    };
    loop {
        let smaller = (0..policies.len()).find_map(|number| {
            let mut without = policies.clone();
            without.remove(number);
            let groups = (0..policies[number].groups.len()).map(|group| {
                let mut without = policies.clone();
                without[number].groups.remove(group);
                without
            });
            std::iter::once(without).chain(groups).find(|policies| fails(policies))
        });
        match smaller {
            Some(smaller) => policies = smaller,
            None => return policies,
        }
    }
}

fn dump(policies: &[Authorization], target: &Target, peer: &Peer) -> String {
    let policies: String = policies.iter().map(|policy| format!("{policy:#?}\n")).collect();
    let server = format!("to a workload of {} that names {:?}", target.namespace, target.names);
    format!("{policies}{server}\nfrom {:?} {:?} to {:?}:{}", peer.identity, peer.source, peer.destination, peer.port)
}

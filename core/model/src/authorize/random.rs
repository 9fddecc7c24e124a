//! Random policies and connections out of few values, so that they meet often.

use ambit_api::security::string_match::MatchType;
use ambit_api::security::{Address, Authorization, Extension, Group, Match, Rules, ServiceAccountMatch, StringMatch};

use super::oracle::{Peer, Target};

/// Random numbers that one seed says (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in so many times.
    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn some<T>(&mut self, most: u64, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..=self.below(most)).map(|_| make(self)).collect()
    }
}

const DOMAINS: &[&str] = &["cluster.local", "old"];
const NAMESPACES: &[&str] = &["shop", "shop-2", "op"];
const ACCOUNTS: &[&str] = &["web", "w", "api"];
const PORTS: &[u32] = &[80, 8080, 443];
const ADDRESSES: &[&[u8]] = &[
    &[10, 0, 0, 1],
    &[10, 0, 0, 2],
    &[10, 128, 0, 1],
    &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
    &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 1],
];

/// Policies, and the workload that they may hold for.
pub(super) fn world(dice: &mut Dice) -> (Vec<Authorization>, Target) {
    let mut policies: Vec<Authorization> = Vec::new();
    for number in 0..dice.below(7) {
        let policy = policy(dice, number);
        policies.push(policy);
    }
    let mut names = Vec::new();
    for policy in &policies {
        if dice.one_in(if policy.scope == 2 { 2 } else { 12 }) {
            names.push(format!("{}/{}", policy.namespace, policy.name));
        }
    }
    if dice.one_in(24) {
        names.push("shop/never-sent".to_owned());
    }
    (policies, Target { namespace: "shop".to_owned(), names })
}

fn policy(dice: &mut Dice, number: u64) -> Authorization {
    let groups = match dice.below(12) {
        0 => Vec::new(),
        _ => dice.some(3, |dice| Group { rules: if dice.one_in(16) { Vec::new() } else { dice.some(2, rules) } }),
    };
    Authorization {
        name: format!("p{number}"),
        namespace: dice.of(&["shop", "shop", "root"]).to_owned(),
        scope: dice.of(&[0, 1, 1, 2, 2]),
        action: dice.of(&[0, 1]),
        groups,
        dry_run: dice.one_in(4),
        extensions: if dice.one_in(24) { vec![Extension::default()] } else { Vec::new() },
    }
}

fn rules(dice: &mut Dice) -> Rules {
    let matches = if dice.one_in(24) { Vec::new() } else { dice.some(3, matching) };
    Rules { matches }
}

/// Mostly one or two fields, so that many hold.
fn matching(dice: &mut Dice) -> Match {
    let mut m = Match::default();
    if dice.one_in(16) {
        return m;
    }
    for _ in 0..=dice.below(2) {
        match dice.below(25) {
            0..=1 => m.namespaces = dice.some(2, namespace),
            2 => m.not_namespaces = dice.some(2, namespace),
            3..=6 => m.principals = dice.some(3, principal),
            7..=8 => m.not_principals = dice.some(2, principal),
            9..=10 => m.service_accounts = dice.some(2, account),
            11 => m.not_service_accounts = dice.some(2, account),
            12..=14 => m.source_ips = dice.some(2, net),
            15 => m.not_source_ips = dice.some(2, net),
            16..=17 => m.destination_ips = dice.some(2, net),
            18 => m.not_destination_ips = dice.some(2, net),
            19..=21 => m.destination_ports = dice.some(2, |dice| dice.of(PORTS)),
            22..=23 => m.not_destination_ports = dice.some(1, |dice| dice.of(PORTS)),
            _ => m.extensions = vec![Extension::default()],
        }
    }
    m
}

fn text(dice: &mut Dice, whole: &str) -> StringMatch {
    // Cut at any place: the texts are ASCII.
    let at = dice.below(whole.len() as u64 + 1) as usize;
    StringMatch {
        match_type: Some(match dice.below(8) {
            0..=4 => MatchType::Exact(whole.to_owned()),
            5 => MatchType::Prefix(whole[..at].to_owned()),
            6 => MatchType::Suffix(whole[at..].to_owned()),
            _ => MatchType::Presence(()),
        }),
    }
}

fn namespace(dice: &mut Dice) -> StringMatch {
    let namespace = dice.of(NAMESPACES);
    text(dice, namespace)
}

fn identity(dice: &mut Dice) -> (String, String, String) {
    let domain = if dice.one_in(8) { DOMAINS[1] } else { DOMAINS[0] };
    (domain.to_owned(), dice.of(NAMESPACES).to_owned(), dice.of(ACCOUNTS).to_owned())
}

fn principal(dice: &mut Dice) -> StringMatch {
    let (domain, namespace, account) = identity(dice);
    text(dice, &format!("{domain}/ns/{namespace}/sa/{account}"))
}

fn account(dice: &mut Dice) -> ServiceAccountMatch {
    let (_, namespace, service_account) = identity(dice);
    ServiceAccountMatch { namespace, service_account }
}

fn net(dice: &mut Dice) -> Address {
    let address = dice.of(ADDRESSES);
    let bits = 8 * address.len() as u64;
    let length = match dice.below(4) {
        0 => dice.below(bits + 1),
        1 => dice.of(&[0, 8, 9, 31]),
        _ => bits,
    };
    Address { address: address.to_vec().into(), length: length as u32 }
}

/// A connection.
pub(super) fn peer(dice: &mut Dice) -> Peer {
    let identity = if dice.one_in(5) { None } else { Some(identity(dice)) };
    Peer { identity, source: dice.of(ADDRESSES).to_vec(), destination: dice.of(ADDRESSES).to_vec(), port: dice.of(PORTS) }
}

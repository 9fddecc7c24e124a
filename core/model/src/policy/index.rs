//! Rules found by what they ask for: a decision looks at those that can match, however many there are.
//!
//! Each rule is filed under one of its clauses, all of whose matches name something exactly: principals, service accounts, namespaces,
//! networks of the source, or ports. Since clauses are AND, a connection that is none of these cannot match the rule. A rule without
//! such a clause is looked at every time.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Action, Clause, Group, Match, Policy, StringMatch};
use crate::authorize::{Facts, holds};

/// A rule by its place: the policy's in its set, and its own in the policy. The order is that in which they are asked.
type Place = (u32, u32);

/// The policies that hold for the same workloads, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicySet {
    pub(crate) deny: RuleSet,
    pub(crate) allow: RuleSet,
    pub(crate) dry_deny: RuleSet,
    pub(crate) dry_allow: RuleSet,
}

impl PolicySet {
    pub(crate) fn of<'a>(policies: impl IntoIterator<Item = &'a Arc<Policy>>) -> Self {
        let mut set = Self::default();
        for policy in policies {
            let rules = match (policy.action, policy.dry_run) {
                (Action::Deny, false) => &mut set.deny,
                (Action::Allow, false) => &mut set.allow,
                (Action::Deny, true) => &mut set.dry_deny,
                (Action::Allow, true) => &mut set.dry_allow,
            };
            rules.add(policy);
        }
        set
    }
}

/// Policies of one action, all enforced or none.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleSet {
    policies: Vec<Arc<Policy>>,
    principals: HashMap<Box<str>, Vec<Place>>,
    /// By namespace, then by name.
    accounts: HashMap<Box<str>, HashMap<Box<str>, Vec<Place>>>,
    namespaces: HashMap<Box<str>, Vec<Place>>,
    sources: HashMap<IpNet, Vec<Place>>,
    /// The lengths of the prefixes in `sources`, apart for both families.
    lengths: [BTreeSet<u8>; 2],
    ports: HashMap<u16, Vec<Place>>,
    /// What can only be found out by asking.
    others: Vec<Place>,
}

/// What a rule is filed under; the first that a match has is taken, since the fewest connections share it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Principal(&'a str),
    Account(&'a str, &'a str),
    Source(IpNet),
    Namespace(&'a str),
    Port(u16),
}

impl RuleSet {
    fn add(&mut self, policy: &Arc<Policy>) {
        let Ok(number) = u32::try_from(self.policies.len()) else { return };
        for (rule, group) in (0..).zip(&policy.groups) {
            if policy.action == Action::Allow && policy.not_understood {
                break;
            }
            let keys = group.clauses.iter().filter_map(|clause| keys(policy.action, clause));
            // The clause of which even the least telling key tells most.
            match keys.min_by(|a, b| a.last().map(rank).cmp(&b.last().map(rank))) {
                Some(keys) => keys.into_iter().for_each(|key| self.file(key, (number, rule))),
                None => self.others.push((number, rule)),
            }
        }
        self.policies.push(Arc::clone(policy));
    }

    fn file(&mut self, key: Key<'_>, place: Place) {
        let places = match key {
            Key::Principal(principal) => self.principals.entry(principal.into()).or_default(),
            Key::Account(namespace, name) => self.accounts.entry(namespace.into()).or_default().entry(name.into()).or_default(),
            Key::Source(net) => {
                if let Some(lengths) = self.lengths.get_mut(usize::from(net.addr().is_ipv6())) {
                    lengths.insert(net.prefix_len());
                }
                self.sources.entry(net).or_default()
            }
            Key::Namespace(namespace) => self.namespaces.entry(namespace.into()).or_default(),
            Key::Port(port) => self.ports.entry(port).or_default(),
        };
        places.push(place);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// All policies in it.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter()
    }

    /// The rules that may match, in their order, each once.
    fn candidates(&self, facts: &Facts<'_>) -> Vec<Place> {
        let mut found = Vec::new();
        let mut take = |places: Option<&Vec<Place>>| found.extend(places.into_iter().flatten());
        if let (Some(principal), Some(namespace), Some(account)) = (&facts.principal, facts.namespace, facts.service_account) {
            take(self.principals.get(&**principal));
            take(self.accounts.get(namespace).and_then(|accounts| accounts.get(account)));
            take(self.namespaces.get(namespace));
        }
        for length in self.lengths.get(usize::from(facts.source_ip.is_ipv6())).into_iter().flatten() {
            take(network(facts.source_ip, *length).and_then(|net| self.sources.get(&net)));
        }
        take(self.ports.get(&facts.destination_port));
        take(Some(&self.others));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The policies that match, with the first rule of each that does.
    pub(crate) fn matching<'a>(&'a self, facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a Policy, usize)> {
        let mut last = None;
        self.candidates(facts).into_iter().filter_map(move |(number, rule)| {
            if last == Some(number) {
                return None;
            }
            let (policy, rule) = (self.policies.get(number as usize)?, rule as usize);
            let matches = rule_matches(policy, policy.groups.get(rule)?, facts);
            matches.then(|| {
                last = Some(number);
                (&**policy, rule)
            })
        })
    }

    /// At most so many rules to explain a refusal with: those that are about this connection before others.
    pub(crate) fn near<'a>(&'a self, facts: &Facts<'_>, most: usize) -> impl Iterator<Item = (&'a Policy, usize)> {
        let filed = self.candidates(facts).into_iter().filter_map(move |(number, rule)| {
            let policy = self.policies.get(number as usize)?;
            Some((&**policy, rule as usize))
        });
        let all = self.policies.iter().flat_map(|policy| (0..policy.groups.len()).map(move |rule| (&**policy, rule)));
        filed.take(most).chain(all.take(most))
    }
}

/// Whether this rule of `policy` matches.
pub(crate) fn rule_matches(policy: &Policy, group: &Group, facts: &Facts<'_>) -> bool {
    facts.asked.set(facts.asked.get() + 1);
    let understood = policy.action == Action::Deny || !policy.not_understood;
    understood && group.clauses.iter().all(|clause| clause_matches(policy.action, clause, facts))
}

/// Whether one of the matches holds, or there is none.
pub(crate) fn clause_matches(action: Action, clause: &Clause, facts: &Facts<'_>) -> bool {
    clause.matches.is_empty() || clause.matches.iter().any(|m| can_hold(action, m) && holds(m, facts))
}

/// Whether a match can hold at all: an empty one is skipped, and in an ALLOW so is one that is not understood.
pub(crate) fn can_hold(action: Action, m: &Match) -> bool {
    !m.is_empty() && (action == Action::Deny || !m.not_understood)
}

/// What a connection must be for this clause to match, from the most telling to the least; nothing when that cannot be said.
fn keys(action: Action, clause: &Clause) -> Option<BTreeSet<Key<'_>>> {
    if clause.matches.is_empty() {
        return None;
    }
    let mut keys = BTreeSet::new();
    for m in clause.matches.iter().filter(|m| can_hold(action, m)) {
        let exactly = |list: &[StringMatch]| !list.is_empty() && exact(list).count() == list.len();
        if exactly(&m.principals) {
            keys.extend(exact(&m.principals).map(Key::Principal));
        } else if !m.service_accounts.is_empty() {
            keys.extend(m.service_accounts.iter().map(|account| Key::Account(&account.namespace, &account.service_account)));
        } else if !m.source_ips.is_empty() {
            keys.extend(m.source_ips.iter().map(|net| Key::Source(net.trunc())));
        } else if exactly(&m.namespaces) {
            keys.extend(exact(&m.namespaces).map(Key::Namespace));
        } else if !m.destination_ports.is_empty() {
            keys.extend(m.destination_ports.iter().map(|port| Key::Port(*port)));
        } else {
            return None;
        }
    }
    Some(keys)
}

fn exact(list: &[StringMatch]) -> impl Iterator<Item = &str> {
    list.iter().filter_map(|text| match text {
        StringMatch::Exact(exact) => Some(&**exact),
        _ => None,
    })
}

fn rank(key: &Key<'_>) -> u8 {
    match key {
        Key::Principal(_) => 0,
        Key::Account(..) => 1,
        Key::Source(_) => 2,
        Key::Namespace(_) => 3,
        Key::Port(_) => 4,
    }
}

fn network(ip: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(ip, length).ok().map(|net| net.trunc())
}

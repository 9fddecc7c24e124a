//! L4 authorization once more, slowly, straight from the text of the wire contract (section 2) and on its messages: what the real one is
//! compared with. It shares nothing with that, and looks everything up by looking at everything.
//!
//! "Groups are OR, rules in a group AND, matches in a rule OR, the fields of one match AND, values of one field OR. An empty match matches
//! nothing by itself (it is skipped); an empty policy never matches. Principals are written without `spiffe://`. Evaluation: any DENY that
//! matches denies; else if any ALLOW policy applies, one must match; else allow. A workload that names a policy not yet delivered is denied."

use ambit_api::security::string_match::MatchType;
use ambit_api::security::{Action, Address, Authorization, Extension, Match, Scope, ServiceAccountMatch, StringMatch};

/// What is connected to.
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) names: Vec<String>,
}

/// A connection in the contract's own terms; addresses as they are in packets.
pub(super) struct Peer {
    /// Trust domain, namespace, service account.
    pub(super) identity: Option<(String, String, String)>,
    pub(super) source: Vec<u8>,
    pub(super) destination: Vec<u8>,
    pub(super) port: u32,
}

/// Everything that is right to answer: where several policies decide alike, any of them may be named.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// One of these is named and was not delivered.
    Unknown(Vec<String>),
    /// One of these, with its first rule that matches.
    Denied(Vec<(String, usize)>),
    /// One of these came closest.
    NotAllowed(Vec<String>),
    /// By one of these, or because there is none.
    Allowed(Vec<String>),
}

fn name(policy: &Authorization) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// What the policies that are enforced answer, and what those would that are not.
pub(super) fn answer(policies: &[Authorization], target: &Target, peer: &Peer) -> (Answer, Answer) {
    let mut missing = Vec::new();
    for wanted in &target.names {
        if !policies.iter().any(|policy| name(policy) == *wanted) {
            missing.push(wanted.clone());
        }
    }
    let applies = |policy: &&Authorization| {
        let by_scope = match Scope::try_from(policy.scope).unwrap() {
            Scope::Global => true,
            Scope::Namespace => policy.namespace == target.namespace,
            Scope::WorkloadSelector => false,
        };
        by_scope || target.names.contains(&name(policy))
    };
    let with = |dry_run: bool| -> Vec<&Authorization> {
        policies.iter().filter(applies).filter(|policy| policy.dry_run == dry_run).collect()
    };
    let enforced = if missing.is_empty() { decide(&with(false), peer) } else { Answer::Unknown(missing) };
    (enforced, decide(&with(true), peer))
}

fn decide(policies: &[&Authorization], peer: &Peer) -> Answer {
    let mut denied = Vec::new();
    let mut allows = Vec::new();
    let mut allowed = Vec::new();
    for policy in policies {
        let mut rule = (0..policy.groups.len()).find(|rule| group_matches(policy, *rule, peer));
        if policy.action == i32::from(Action::Deny) {
            // It denies someone, and says in a way that is not known whom: everyone.
            if policy.groups.is_empty() && !policy.extensions.is_empty() {
                rule = Some(0);
            }
            denied.extend(rule.map(|rule| (name(policy), rule)));
        } else {
            allows.push(name(policy));
            allowed.extend(rule.map(|_| name(policy)));
        }
    }
    if !denied.is_empty() {
        Answer::Denied(denied)
    } else if !allows.is_empty() && allowed.is_empty() {
        Answer::NotAllowed(allows)
    } else {
        Answer::Allowed(allowed)
    }
}

fn group_matches(policy: &Authorization, rule: usize, peer: &Peer) -> bool {
    let allow = policy.action == i32::from(Action::Allow);
    if allow && !policy.extensions.is_empty() {
        return false;
    }
    let mut all = true;
    for rules in &policy.groups[rule].rules {
        let mut any = rules.matches.is_empty();
        for m in &rules.matches {
            any = any || match_holds(m, allow, peer);
        }
        all = all && any;
    }
    all
}

/// What is asked for and not known never holds in an ALLOW, and is left out in a DENY: the stricter of the two.
fn match_holds(m: &Match, allow: bool, peer: &Peer) -> bool {
    if *m == Match::default() {
        return false;
    }
    let principal = peer.identity.as_ref().map(|(domain, namespace, account)| format!("{domain}/ns/{namespace}/sa/{account}"));
    let namespace = peer.identity.as_ref().map(|(_, namespace, _)| namespace.clone());
    let understood = |extensions: &[Extension]| extensions.is_empty() || !allow;
    [
        m.namespaces.is_empty() || one_text(&m.namespaces, namespace.as_deref()),
        m.not_namespaces.is_empty() || !one_text(&m.not_namespaces, namespace.as_deref()),
        m.principals.is_empty() || one_text(&m.principals, principal.as_deref()),
        m.not_principals.is_empty() || !one_text(&m.not_principals, principal.as_deref()),
        m.service_accounts.is_empty() || one_account(&m.service_accounts, peer),
        m.not_service_accounts.is_empty() || !one_account(&m.not_service_accounts, peer),
        m.source_ips.is_empty() || one_net(&m.source_ips, &peer.source),
        m.not_source_ips.is_empty() || !one_net(&m.not_source_ips, &peer.source),
        m.destination_ips.is_empty() || one_net(&m.destination_ips, &peer.destination),
        m.not_destination_ips.is_empty() || !one_net(&m.not_destination_ips, &peer.destination),
        m.destination_ports.is_empty() || m.destination_ports.contains(&peer.port),
        m.not_destination_ports.is_empty() || !m.not_destination_ports.contains(&peer.port),
        understood(&m.extensions),
    ]
    .iter()
    .all(|holds| *holds)
}

fn one_text(list: &[StringMatch], text: Option<&str>) -> bool {
    let Some(text) = text else { return false };
    list.iter().any(|wanted| match wanted.match_type.as_ref().unwrap() {
        MatchType::Exact(exact) => text == exact,
        MatchType::Prefix(prefix) => text.len() >= prefix.len() && text[..prefix.len()] == **prefix,
        MatchType::Suffix(suffix) => text.len() >= suffix.len() && text[text.len() - suffix.len()..] == **suffix,
        MatchType::Presence(()) => true,
    })
}

fn one_account(list: &[ServiceAccountMatch], peer: &Peer) -> bool {
    let Some((_, namespace, account)) = &peer.identity else { return false };
    list.iter().any(|wanted| wanted.namespace == *namespace && wanted.service_account == *account)
}

/// Bit by bit. An IPv4 address is also written as IPv6, with 96 bits before it; networks that are wider than that are of IPv6 alone.
fn one_net(list: &[Address], ip: &[u8]) -> bool {
    let plain = |bytes: &[u8]| match bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => vec![*a, *b, *c, *d],
        other => other.to_vec(),
    };
    let ip = plain(ip);
    list.iter().any(|net| {
        let (mut wanted, mut length) = (net.address.to_vec(), net.length as usize);
        if length >= 96 && plain(&wanted).len() == 4 && wanted.len() == 16 {
            (wanted, length) = (plain(&wanted), length - 96);
        }
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        wanted.len() == ip.len() && (0..length).all(|at| bit(&wanted, at) == bit(&ip, at))
    })
}

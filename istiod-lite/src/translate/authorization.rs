//! AuthorizationPolicy to the L4 policies that node proxies enforce (wire contract, section 2).
//!
//! A node proxy sees connections, not requests. What only a request has, such as a method or a token, makes an ALLOW
//! entry never match, and is left out of a DENY entry so that it denies more; either way nothing gets through that
//! the policy would stop. Policies with `targetRefs` are waypoints' and are not made here.

use std::net::IpAddr;

use ambit_api::security::string_match::MatchType;
use ambit_api::security::{Action, Address, Authorization, Group, Match, Rules, Scope, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

use super::peer_authentication;
use crate::index::{Index, is_dry_run};
use crate::source::crd::{AuthorizationPolicy, Operation, PolicyAction, Rule, Source, When, WorkloadSelector};
use crate::source::{NamespacedName, Pod};

/// A policy as node proxies get it, and what it lost on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct L4Policy {
    /// The policy.
    pub policy: Authorization,
    /// Sentences on the parts that a node proxy cannot judge, for the status of the object.
    pub notes: Vec<String>,
}

/// The policy under a key: of an AuthorizationPolicy, or converted from a PeerAuthentication.
#[must_use]
pub fn policy(index: &Index, key: &NamespacedName) -> Option<Authorization> {
    match index.objects().authorization_policies.get(key) {
        Some(policy) => l4_policy(index, policy).map(|translated| translated.policy),
        None => peer_authentication::converted(index, key),
    }
}

/// The keys of the policies a pod must name: those with a selector, and those from peer authentication.
#[must_use]
pub fn policies_of_pod(index: &Index, pod: &Pod) -> Vec<String> {
    let selecting = index.selector_policies_of_pod(pod).into_iter();
    // A workload that names a policy which is never delivered is refused, so only policies that are made are named.
    let enforced = selecting.filter(|policy| enforced_at_l4(policy));
    let mut keys: Vec<String> = enforced.map(|policy| NamespacedName::of(&policy.metadata).to_string()).collect();
    keys.extend(peer_authentication::of_pod(index, pod));
    keys
}

fn enforced_at_l4(policy: &AuthorizationPolicy) -> bool {
    policy.spec.targets().next().is_none() && policy.spec.action != PolicyAction::Audit
}

/// An AuthorizationPolicy for node proxies; `None` when it is a waypoint's, or only audits.
#[must_use]
pub fn l4_policy(index: &Index, object: &AuthorizationPolicy) -> Option<L4Policy> {
    let config = index.config();
    l4_policy_in(config.trust_domain.as_str(), &config.root_namespace, object)
}

/// Sentences on the parts of an AuthorizationPolicy that a node proxy cannot judge; none if it is a waypoint's.
pub(crate) fn unknown_at_l4(object: &AuthorizationPolicy) -> Vec<String> {
    // Which trust domain and namespace it is does not matter for that.
    l4_policy_in("", "", object).map(|made| made.notes).unwrap_or_default()
}

fn l4_policy_in(trust_domain: &str, root_namespace: &str, object: &AuthorizationPolicy) -> Option<L4Policy> {
    if !enforced_at_l4(object) {
        return None;
    }
    let name = NamespacedName::of(&object.metadata);
    let root = *name.namespace == *root_namespace;
    let scope = match &object.spec.selector {
        Some(WorkloadSelector { match_labels }) if !match_labels.is_empty() => Scope::WorkloadSelector,
        _ if root => Scope::Global,
        _ => Scope::Namespace,
    };
    let mut notes = Vec::new();
    let action = match object.spec.action {
        PolicyAction::Allow | PolicyAction::Audit => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Custom => {
            notes.push("no external authorizer can be asked at L4, so what the rules match is denied".to_owned());
            Action::Deny
        }
    };
    let mut reader = Reader { trust_domain, namespace: &name.namespace, action, notes };
    let rules = object.spec.rules.iter().enumerate();
    let groups = rules.filter_map(|(position, rule)| reader.group(rule, position)).collect();
    let policy = Authorization {
        name: name.name.to_string(),
        namespace: name.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        groups,
        dry_run: is_dry_run(object),
        extensions: Vec::new(),
    };
    Some(L4Policy { policy, notes: reader.notes })
}

/// Reads the rules of one policy.
struct Reader<'a> {
    trust_domain: &'a str,
    namespace: &'a str,
    action: Action,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// A rule as a group whose rules must all match. A group without rules matches everything; `None` never matches.
    fn group(&mut self, rule: &Rule, position: usize) -> Option<Group> {
        let mut rules = Vec::new();
        let from = rule.from.iter().map(|from| (self.source(&from.source), l7_of_source(&from.source)));
        let from: Vec<_> = from.collect();
        self.clause(from, &format!("rules[{position}].from"), &mut rules)?;
        let to = rule.to.iter().map(|to| (operation(&to.operation), l7_of_operation(&to.operation))).collect();
        self.clause(to, &format!("rules[{position}].to"), &mut rules)?;
        for (index, when) in rule.when.iter().enumerate() {
            let (entry, l7) = match self.condition(when) {
                Some(entry) => (entry, None),
                None => (Match::default(), Some(when.key.as_str())),
            };
            self.clause(vec![(entry, l7)], &format!("rules[{position}].when[{index}]"), &mut rules)?;
        }
        Some(Group { rules })
    }

    /// Adds the entries of one clause, of which any may match, as one rule. An absent clause adds nothing. `None`
    /// when no entry is left, so that the clause never matches.
    fn clause(&mut self, entries: Vec<(Match, Option<&str>)>, path: &str, rules: &mut Vec<Rules>) -> Option<()> {
        if entries.is_empty() {
            return Some(());
        }
        let (mut matches, mut anything) = (Vec::new(), false);
        for (entry, l7) in entries {
            if let Some(field) = l7 {
                let effect = match self.action {
                    Action::Allow => "the entry never matches",
                    Action::Deny => "the condition is left out and the rule denies more",
                };
                self.notes.push(format!("{path}: {field} is not known at L4: {effect}"));
                if self.action == Action::Allow {
                    continue;
                }
            }
            anything |= entry == Match::default();
            matches.push(entry);
        }
        // A proxy skips an empty match; a clause that one of its entries makes true is left out instead.
        if anything {
            return Some(());
        }
        if matches.is_empty() {
            return None;
        }
        rules.push(Rules { matches });
        Some(())
    }

    fn source(&self, source: &Source) -> Match {
        Match {
            principals: self.principals(&source.principals),
            not_principals: self.principals(&source.not_principals),
            namespaces: strings(&source.namespaces),
            not_namespaces: strings(&source.not_namespaces),
            service_accounts: self.service_accounts(&source.service_accounts),
            not_service_accounts: self.service_accounts(&source.not_service_accounts),
            source_ips: addresses(&source.ip_blocks),
            not_source_ips: addresses(&source.not_ip_blocks),
            ..Match::default()
        }
    }

    /// A `when` as a match; `None` for attributes of requests.
    fn condition(&self, when: &When) -> Option<Match> {
        let (values, not_values) = (&when.values, &when.not_values);
        let mut entry = Match::default();
        match when.key.as_str() {
            "source.principal" => {
                (entry.principals, entry.not_principals) = (self.principals(values), self.principals(not_values));
            }
            "source.namespace" => (entry.namespaces, entry.not_namespaces) = (strings(values), strings(not_values)),
            "source.serviceAccount" => {
                entry.service_accounts = self.service_accounts(values);
                entry.not_service_accounts = self.service_accounts(not_values);
            }
            "source.ip" => (entry.source_ips, entry.not_source_ips) = (addresses(values), addresses(not_values)),
            "destination.ip" => {
                (entry.destination_ips, entry.not_destination_ips) = (addresses(values), addresses(not_values));
            }
            "destination.port" => {
                (entry.destination_ports, entry.not_destination_ports) = (ports(values), ports(not_values));
            }
            _ => return None,
        }
        Some(entry)
    }

    /// Principals; `cluster.local` in a policy stands for the mesh's trust domain whatever that is.
    fn principals(&self, values: &[String]) -> Vec<StringMatch> {
        let values = values.iter().map(|value| match value.strip_prefix("cluster.local/") {
            Some(rest) => string_match(&format!("{}/{rest}", self.trust_domain)),
            None => string_match(value),
        });
        values.collect()
    }

    /// Service accounts: `name` in the policy's namespace, or `namespace/name`.
    fn service_accounts(&self, values: &[String]) -> Vec<ServiceAccountMatch> {
        let parts = values.iter().map(|value| value.split_once('/').unwrap_or((self.namespace, value)));
        parts
            .map(|(namespace, account)| ServiceAccountMatch {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
            })
            .collect()
    }
}

fn operation(operation: &Operation) -> Match {
    Match { destination_ports: ports(&operation.ports), not_destination_ports: ports(&operation.not_ports), ..Match::default() }
}

/// The first property of a source that only a request has.
fn l7_of_source(source: &Source) -> Option<&'static str> {
    first_given([
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ])
}

/// The first property of an operation that only a request has.
fn l7_of_operation(operation: &Operation) -> Option<&'static str> {
    first_given([
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ])
}

fn first_given<const N: usize>(fields: [(&'static str, &Vec<String>); N]) -> Option<&'static str> {
    fields.into_iter().find(|(_, values)| !values.is_empty()).map(|(name, _)| name)
}

fn strings(values: &[String]) -> Vec<StringMatch> {
    values.iter().map(|value| string_match(value)).collect()
}

/// `*` is presence, `x*` a prefix, `*x` a suffix, anything else exact.
fn string_match(value: &str) -> StringMatch {
    let match_type = match (value, value.strip_suffix('*'), value.strip_prefix('*')) {
        ("*", ..) => MatchType::Presence(()),
        (_, Some(prefix), _) => MatchType::Prefix(prefix.to_owned()),
        (_, None, Some(suffix)) => MatchType::Suffix(suffix.to_owned()),
        (exact, None, None) => MatchType::Exact(exact.to_owned()),
    };
    StringMatch { match_type: Some(match_type) }
}

/// Addresses and CIDR blocks; the source has refused any other text.
fn addresses(values: &[String]) -> Vec<Address> {
    let networks =
        values.iter().filter_map(|value| value.parse::<IpNet>().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from)));
    networks
        .map(|network: IpNet| {
            let address = match network.network() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            Address { address: address.into(), length: network.prefix_len().into() }
        })
        .collect()
}

fn ports(values: &[String]) -> Vec<u32> {
    values.iter().filter_map(|value| value.parse::<u16>().ok()).map(u32::from).collect()
}

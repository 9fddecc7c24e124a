//! PeerAuthentication to policies that refuse callers without a certificate.
//!
//! Node proxies know no mutual TLS modes. STRICT is a DENY of connections without an identity: the static policy
//! `istio_converted_static_strict` of the root namespace, named by each workload it holds for. Where single ports of a
//! workload differ, a policy of its own, `converted_peer_authentication_<name>`, says for which.

use std::collections::BTreeSet;

use ambit_api::security::string_match::MatchType;
use ambit_api::security::{Action, Authorization, Group, Match, Rules, Scope, StringMatch};

use crate::index::{Index, in_namespace, selects};
use crate::source::crd::{MtlsMode, PeerAuthentication};
use crate::source::{NamespacedName, Pod};

/// Name of the policy that refuses every caller without an identity.
pub const STATIC_STRICT: &str = "istio_converted_static_strict";

/// Prefix of the names of policies that hold for single ports.
const CONVERTED: &str = "converted_peer_authentication_";

/// Key of the static strict policy.
#[must_use]
pub fn static_strict_name(index: &Index) -> NamespacedName {
    NamespacedName::new(index.config().root_namespace.as_str(), STATIC_STRICT)
}

/// Key of the policy that a PeerAuthentication with port modes is made into.
#[must_use]
pub fn converted_name(name: &NamespacedName) -> NamespacedName {
    NamespacedName::new(name.namespace.clone(), format!("{CONVERTED}{}", name.name))
}

/// The policy under a key of the two forms above; `None` when the key is neither or the PeerAuthentication needs none.
#[must_use]
pub fn converted(index: &Index, key: &NamespacedName) -> Option<Authorization> {
    if *key == static_strict_name(index) {
        let needed = !index.objects().peer_authentications.is_empty();
        return needed.then(|| deny_without_identity(key, Vec::new()));
    }
    let name = NamespacedName::new(key.namespace.clone(), key.name.strip_prefix(CONVERTED)?);
    let policy = index.objects().peer_authentications.get(&name)?;
    let ports = port_rules(index, policy)?;
    Some(deny_without_identity(key, vec![ports]))
}

/// The keys of the policies that peer authentication puts on a pod.
pub(super) fn of_pod(index: &Index, pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    // Whether a policy selects the pod; `None` when it has no selector.
    let selected = |policy: &PeerAuthentication| {
        let selector = policy.spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
        selector.map(|selector| selects(&selector.match_labels, pod.metadata.labels.as_ref()))
    };
    // What cannot be read may be the one that holds, and may say strict.
    if select(index, namespace, |policy| policy.stand_in && selected(policy).unwrap_or(true)).is_some() {
        return vec![static_strict_name(index).to_string()];
    }
    let own = select(index, namespace, |policy| selected(policy).unwrap_or(false));
    match own {
        Some(policy) if port_rules(index, policy).is_some() => {
            vec![converted_name(&NamespacedName::of(&policy.metadata)).to_string()]
        }
        own => {
            let strict = effective(own, inherited(index, namespace)) == MtlsMode::Strict;
            strict.then(|| static_strict_name(index).to_string()).into_iter().collect()
        }
    }
}

/// The oldest policy of a namespace that fits, by creation time and then by name: only one holds at each level. One that stands in for
/// what cannot be read comes before.
fn select<'a>(index: &'a Index, namespace: &str, fits: impl Fn(&PeerAuthentication) -> bool) -> Option<&'a PeerAuthentication> {
    let policies = in_namespace(&index.objects().peer_authentications, namespace).map(|(_, policy)| &**policy);
    policies.filter(|policy| fits(policy)).min_by_key(|policy| {
        let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!policy.stand_in, created.is_none(), created, policy.metadata.name.clone())
    })
}

/// The mode that a namespace, and above it the mesh, sets for workloads that say nothing.
fn inherited(index: &Index, namespace: &str) -> MtlsMode {
    let broad =
        |policy: &PeerAuthentication| policy.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty());
    let level = |namespace: &str| {
        let policy = select(index, namespace, broad);
        policy.and_then(|policy| policy.spec.mtls).map(|mtls| mtls.mode).filter(|mode| *mode != MtlsMode::Unset)
    };
    level(namespace).or_else(|| level(&index.config().root_namespace)).unwrap_or(MtlsMode::Permissive)
}

fn effective(own: Option<&PeerAuthentication>, inherited: MtlsMode) -> MtlsMode {
    let mode = own.and_then(|policy| policy.spec.mtls).map_or(MtlsMode::Unset, |mtls| mtls.mode);
    if mode == MtlsMode::Unset { inherited } else { mode }
}

/// The ports for which a workload is strict, when that is neither all nor none: listed, or all but those listed.
fn port_rules(index: &Index, policy: &PeerAuthentication) -> Option<Rules> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let strict = effective(Some(policy), inherited(index, namespace)) == MtlsMode::Strict;
    let ports: BTreeSet<u32> = policy
        .spec
        .port_level_mtls
        .iter()
        .filter(|(_, mtls)| mtls.mode != MtlsMode::Unset && (mtls.mode == MtlsMode::Strict) != strict)
        .filter_map(|(port, _)| port.parse().ok())
        .collect();
    if ports.is_empty() {
        return None;
    }
    let ports = ports.into_iter().collect();
    let entry = if strict {
        Match { not_destination_ports: ports, ..Match::default() }
    } else {
        Match { destination_ports: ports, ..Match::default() }
    };
    Some(Rules { matches: vec![entry] })
}

fn deny_without_identity(key: &NamespacedName, further: Vec<Rules>) -> Authorization {
    let anyone = StringMatch { match_type: Some(MatchType::Presence(())) };
    let mut rules = vec![Rules { matches: vec![Match { not_principals: vec![anyone], ..Match::default() }] }];
    rules.extend(further);
    Authorization {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups: vec![Group { rules }],
        dry_run: false,
        extensions: Vec::new(),
    }
}

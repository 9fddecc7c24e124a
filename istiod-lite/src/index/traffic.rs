//! What is asked of traffic to a service: TrafficPolicies, and DestinationRules. Of both there are few, so that none has a reverse index.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::objects::in_namespace;
use super::service::ServiceRef;
use super::{ChangedKey, Index, ServicePort};
use crate::source::crd::destination::DestinationRule;
use crate::source::crd::traffic::{ServicePortReference, TrafficPolicy};
use crate::source::{Kind, NamespacedName, ObjectKey};

impl Index {
    /// The TrafficPolicy that holds for a port of a service: one that names the port before one that does not, the oldest of several.
    #[must_use]
    pub fn traffic_policy_of(&self, service: &ServiceRef, port: &ServicePort) -> Option<&Arc<TrafficPolicy>> {
        let ServiceRef::Kubernetes(service) = service else { return None };
        let covering = |policy: &TrafficPolicy| {
            let targets = policy.spec.target_refs.iter().filter(|target| target.name == *service.name && covers(target, port));
            targets.map(|target| target.section_name.is_none()).min()
        };
        let policies = in_namespace(&self.objects().traffic_policies, &service.namespace);
        let holding = policies.filter_map(|(_, policy)| Some((covering(policy)?, policy)));
        holding.min_by_key(|(whole, policy)| (*whole, age(&policy.metadata))).map(|(_, policy)| policy)
    }

    /// Whether there are any TrafficPolicies: most meshes have none, and are not to pay for it.
    #[must_use]
    pub fn has_traffic_policies(&self) -> bool {
        !self.objects().traffic_policies.is_empty()
    }

    /// The TrafficPolicy that a target of several belongs to: the oldest with just this one.
    #[must_use]
    pub fn traffic_policy_with(&self, namespace: &str, target: &ServicePortReference) -> Option<&Arc<TrafficPolicy>> {
        let same = |other: &ServicePortReference| other.name == target.name && other.section_name == target.section_name;
        let policies = in_namespace(&self.objects().traffic_policies, namespace).map(|(_, policy)| policy);
        policies.filter(|policy| policy.spec.target_refs.iter().any(same)).min_by_key(|policy| age(&policy.metadata))
    }

    /// The DestinationRule of a service: the oldest of those of its namespace that name its host.
    #[must_use]
    pub fn destination_rule_of(&self, service: &ServiceRef) -> Option<&Arc<DestinationRule>> {
        let rules = &self.objects().destination_rules;
        if rules.is_empty() {
            return None;
        }
        let host = service.hostname(self.config());
        let short = match service {
            ServiceRef::Kubernetes(name) => Some(&*name.name),
            ServiceRef::Host(_) => None,
        };
        let names = |rule: &DestinationRule| {
            let said = &rule.spec.host;
            said.eq_ignore_ascii_case(&host) || short.is_some_and(|short| said.eq_ignore_ascii_case(short))
        };
        let of_namespace = in_namespace(rules, service.namespace()).map(|(_, rule)| rule);
        of_namespace.filter(|rule| names(rule)).min_by_key(|rule| age(&rule.metadata))
    }

    /// The service that a DestinationRule is about, if there is one.
    #[must_use]
    pub fn service_of_rule(&self, rule: &DestinationRule) -> Option<ServiceRef> {
        self.services_named(rule).into_iter().find(|service| match service {
            ServiceRef::Kubernetes(name) => self.objects().services.contains_key(name),
            ServiceRef::Host(host) => self.entry_of_host(host).is_some(),
        })
    }

    /// The services that a DestinationRule may mean by its host.
    fn services_named(&self, rule: &DestinationRule) -> [ServiceRef; 2] {
        let namespace = rule.metadata.namespace.as_deref().unwrap_or_default();
        let host = rule.spec.host.to_ascii_lowercase();
        let short = host.strip_suffix(&format!(".{namespace}.svc.{}", self.config().cluster_domain)).unwrap_or(&host);
        [
            ServiceRef::Kubernetes(NamespacedName::new(namespace, short)),
            ServiceRef::Host(NamespacedName::new(namespace, host.as_str())),
        ]
    }

    /// The object that asks for TLS to the endpoints of a port, which nobody here begins.
    #[must_use]
    pub fn asks_for_tls(&self, service: &ServiceRef, port: &ServicePort) -> Option<ObjectKey> {
        if let Some(policy) = self.tls_policy_of(service, port) {
            return Some(ObjectKey { kind: Kind::BackendTlsPolicy, name: NamespacedName::of(&policy.metadata) });
        }
        let rule = self.destination_rule_of(service)?;
        let asked = rule.spec.traffic_policy.as_ref()?.for_port(port.port);
        let begins = asked.tls.is_some_and(|tls| tls.begins());
        begins.then(|| ObjectKey { kind: Kind::DestinationRule, name: NamespacedName::of(&rule.metadata) })
    }

    /// What a TrafficPolicy can change: who sends to its services.
    pub(super) fn traffic_policy_affected(
        &self,
        policy: &TrafficPolicy,
        name: &NamespacedName,
        changed: &mut BTreeSet<ChangedKey>,
    ) {
        for target in &policy.spec.target_refs {
            let service = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            self.waypoints_seeing(&ServiceRef::Kubernetes(service), changed);
        }
    }

    /// What a DestinationRule can change: who sends to its host.
    pub(super) fn rule_affected(&self, rule: &DestinationRule, changed: &mut BTreeSet<ChangedKey>) {
        for service in self.services_named(rule) {
            self.waypoints_seeing(&service, changed);
        }
    }
}

/// Whether a target has this port of its Service.
#[must_use]
pub fn covers(target: &ServicePortReference, port: &ServicePort) -> bool {
    target.section_name.as_ref().is_none_or(|section| port.name.as_ref() == Some(section))
}

/// The oldest comes first, then the first by name.
pub(super) fn age(metadata: &ObjectMeta) -> impl Ord + use<> {
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created, NamespacedName::of(metadata))
}

//! Policies that are for services and waypoints, besides AuthorizationPolicies: there are few, so that none has a reverse index.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::backendtlspolicies::{BackendTlsPolicy, BackendTlsPolicyTargetRefs};

use super::objects::in_namespace;
use super::service::ServiceRef;
use super::{ChangedKey, Index, ServicePort};
use crate::source::NamespacedName;
use crate::source::crd::tokens::RequestAuthentication;

impl Index {
    /// The RequestAuthentications that target a service.
    #[must_use]
    pub fn token_policies_of_service(&self, service: &NamespacedName) -> Vec<&Arc<RequestAuthentication>> {
        self.token_policies(&service.namespace, "Service", &service.name)
    }

    /// The RequestAuthentications that hold for all traffic of a waypoint: by its Gateway, or from the root namespace by its class.
    #[must_use]
    pub fn token_policies_of_waypoint(&self, gateway: &NamespacedName) -> Vec<&Arc<RequestAuthentication>> {
        let mut policies = self.token_policies(&gateway.namespace, "Gateway", &gateway.name);
        if let Some(gateway) = self.objects().gateways.get(gateway) {
            let root = self.config().root_namespace.as_str();
            policies.extend(self.token_policies(root, "GatewayClass", &gateway.spec.gateway_class_name));
        }
        policies
    }

    fn token_policies(&self, namespace: &str, kind: &str, name: &str) -> Vec<&Arc<RequestAuthentication>> {
        let policies = in_namespace(&self.objects().request_authentications, namespace).map(|(_, policy)| policy);
        policies.filter(|policy| holds_anywhere(policy) || targets(policy, kind, name)).collect()
    }

    /// The BackendTLSPolicy by which connections to a port of a service are to be TLS; the oldest of several.
    #[must_use]
    pub fn tls_policy_of(&self, service: &ServiceRef, port: &ServicePort) -> Option<&Arc<BackendTlsPolicy>> {
        let ServiceRef::Kubernetes(service) = service else { return None };
        let policies = in_namespace(&self.objects().backend_tls_policies, &service.namespace).map(|(_, policy)| policy);
        let of_port = |target: &BackendTlsPolicyTargetRefs| {
            is_service(target)
                && target.name == *service.name
                && target.section_name.as_ref().is_none_or(|section| port.name.as_ref() == Some(section))
        };
        policies.filter(|policy| policy.spec.target_refs.iter().any(of_port)).min_by_key(|policy| {
            let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(&policy.metadata))
        })
    }

    /// What a RequestAuthentication can change.
    pub(super) fn token_policy_affected(
        &self,
        policy: &RequestAuthentication,
        name: &NamespacedName,
        changed: &mut BTreeSet<ChangedKey>,
    ) {
        if holds_anywhere(policy) {
            changed.extend(self.waypoints().cloned().map(ChangedKey::Waypoint));
        }
        // What is enforced at a waypoint must not be gone around.
        changed.extend(self.ingresses().cloned().map(ChangedKey::Waypoint));
        for target in policy.spec.targets() {
            let object = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            match target.kind.as_str() {
                "Service" => self.waypoint_of_service(&object, changed),
                "Gateway" => _ = changed.insert(ChangedKey::Waypoint(object)),
                _ => changed.extend(self.waypoints().cloned().map(ChangedKey::Waypoint)),
            }
        }
    }

    /// What a BackendTLSPolicy can change: who sends to its services.
    pub(super) fn tls_policy_affected(
        &self,
        policy: &BackendTlsPolicy,
        name: &NamespacedName,
        changed: &mut BTreeSet<ChangedKey>,
    ) {
        for target in policy.spec.target_refs.iter().filter(|target| is_service(target)) {
            let service = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            self.waypoints_seeing(&ServiceRef::Kubernetes(service), changed);
        }
    }
}

/// Whether a target of a BackendTLSPolicy is a Service.
#[must_use]
pub fn is_service(target: &BackendTlsPolicyTargetRefs) -> bool {
    matches!(target.group.as_str(), "" | "core") && target.kind == "Service"
}

fn targets(policy: &RequestAuthentication, kind: &str, name: &str) -> bool {
    policy.spec.targets().any(|target| target.kind == kind && target.name == name)
}

/// Stands for a policy whose targets cannot be read: it holds for all that they could be.
fn holds_anywhere(policy: &RequestAuthentication) -> bool {
    policy.stand_in && policy.spec.targets().next().is_none()
}

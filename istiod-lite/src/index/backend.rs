//! What the Gateway API itself says of a backend, as an experiment: the budget of retries and sessions, by an XBackendTrafficPolicy.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::experimental::xbackendtrafficpolicies::{XBackendTrafficPolicy, XBackendTrafficPolicyTargetRefs};

use super::objects::in_namespace;
use super::service::ServiceRef;
use super::traffic::age;
use super::{ChangedKey, Index};
use crate::source::NamespacedName;

impl Index {
    /// The XBackendTrafficPolicy of a service: of those of its namespace that name it the oldest, then the first by name.
    #[must_use]
    pub fn backend_policy_of(&self, service: &ServiceRef) -> Option<&Arc<XBackendTrafficPolicy>> {
        let ServiceRef::Kubernetes(service) = service else { return None };
        let of_namespace = in_namespace(&self.objects().backend_traffic_policies, &service.namespace).map(|(_, policy)| policy);
        let names = |target: &XBackendTrafficPolicyTargetRefs| is_service(target) && target.name == *service.name;
        of_namespace.filter(|policy| policy.spec.target_refs.iter().any(names)).min_by_key(|policy| age(&policy.metadata))
    }

    /// What one can change: who sends to its services.
    pub(super) fn backend_policy_affected(
        &self,
        policy: &XBackendTrafficPolicy,
        name: &NamespacedName,
        changed: &mut BTreeSet<ChangedKey>,
    ) {
        for target in policy.spec.target_refs.iter().filter(|target| is_service(target)) {
            let service = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            self.waypoints_seeing(&ServiceRef::Kubernetes(service), changed);
        }
    }
}

/// Whether a target is a Service.
#[must_use]
pub fn is_service(target: &XBackendTrafficPolicyTargetRefs) -> bool {
    matches!(target.group.as_str(), "" | "core") && target.kind == "Service"
}

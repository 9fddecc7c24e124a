//! RequestPolicies, and which of several holds (GEP-713): the more specific one, then the older one, then the first by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::objects::in_namespace;
use super::{ChangedKey, Index, RouteKey};
use crate::source::crd::requests::{RequestPolicy, RequestTarget};
use crate::source::{Kind, NamespacedName};

impl Index {
    /// The policy that says something for just this: a Service, a route, or with `section` a rule of it.
    #[must_use]
    pub fn request_policy(&self, kind: Kind, name: &NamespacedName, section: Option<&str>) -> Option<&Arc<RequestPolicy>> {
        let policies = in_namespace(&self.objects().request_policies, &name.namespace).map(|(_, policy)| policy);
        let holds =
            policies.filter(|policy| policy.spec.target_refs.iter().any(|target| target.is(kind.as_str(), &name.name, section)));
        holds.min_by_key(|policy| {
            let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, NamespacedName::of(&policy.metadata))
        })
    }

    /// The policy that holds for a rule of a route, if one is for the route at all.
    #[must_use]
    pub fn request_policy_of_rule(&self, kind: Kind, route: &NamespacedName, rule: Option<&str>) -> Option<&Arc<RequestPolicy>> {
        let of_rule = rule.and_then(|rule| self.request_policy(kind, route, Some(rule)));
        of_rule.or_else(|| self.request_policy(kind, route, None))
    }

    /// What a RequestPolicy can change.
    pub(super) fn request_policy_affected(
        &self,
        policy: &RequestPolicy,
        name: &NamespacedName,
        changed: &mut BTreeSet<ChangedKey>,
    ) {
        for target in &policy.spec.target_refs {
            let object = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            match route_kind(target) {
                Some(kind) => self.route_key_affected(&RouteKey { kind, name: object }, changed),
                None => self.waypoint_of_service(&object, changed),
            }
        }
    }
}

/// The kind of a target that is a route; all others are Services.
#[must_use]
pub fn route_kind(target: &RequestTarget) -> Option<Kind> {
    match target.kind.as_str() {
        "HTTPRoute" => Some(Kind::HttpRoute),
        "GRPCRoute" => Some(Kind::GrpcRoute),
        _ => None,
    }
}

//! RequestPolicies, and which of several holds (GEP-713): the more specific one, then the older one, then the first by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::objects::in_namespace;
use super::{ChangedKey, Index, RouteKey};
use crate::source::crd::requests::{RequestPolicy, RequestTarget, RetriedWrites};
use crate::source::{Kind, NamespacedName};

impl Index {
    /// The policy that says something for just this: a Service, a route, or with `section` a rule of it.
    #[must_use]
    pub fn request_policy(&self, kind: Kind, name: &NamespacedName, section: Option<&str>) -> Option<&Arc<RequestPolicy>> {
        let policies = in_namespace(&self.objects().request_policies, &name.namespace).map(|(_, policy)| policy);
        foremost(policies, kind, &name.name, section)
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

/// Of the policies of a namespace the one that says something for just this: of several the oldest, then the first by name.
#[must_use]
pub fn foremost<'a>(
    policies: impl IntoIterator<Item = &'a Arc<RequestPolicy>>,
    kind: Kind,
    name: &str,
    section: Option<&str>,
) -> Option<&'a Arc<RequestPolicy>> {
    let is_for = |policy: &RequestPolicy| policy.spec.target_refs.iter().any(|target| target.is(kind.as_str(), name, section));
    policies.into_iter().filter(|policy| is_for(policy)).min_by_key(|policy| {
        let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, NamespacedName::of(&policy.metadata))
    })
}

/// The policy by which also writes of a route are sent again when they fail, if one says so: that of the route, or else of the Service whose requests
/// it is for. What the Service's says of retries holds for a `foreign` route, one of another namespace, before its own: who knows whether twice is as
/// good as once is who serves the requests.
#[must_use]
pub fn writes_allowed_by(
    own: Option<&Arc<RequestPolicy>>,
    of_service: Option<&Arc<RequestPolicy>>,
    foreign: bool,
) -> Option<NamespacedName> {
    let of_owner = of_service.filter(|policy| foreign && policy.spec.retries.is_some());
    let policy = of_owner.or(own).or(of_service)?;
    let said = policy.spec.retries.as_ref()?.writes?;
    (said == RetriedWrites::Allowed).then(|| NamespacedName::of(&policy.metadata))
}

/// The policy by which upgrades of a route are passed on, if one names some: that of the route, or else of the Service whose requests it is for. For a
/// `foreign` route, one of another namespace, only the Service's: what comes after an upgrade is seen by none of the owner's policies, so that nobody
/// else may let his clients have one.
#[must_use]
pub fn upgrades_allowed_by<'a>(
    own: Option<&'a Arc<RequestPolicy>>,
    of_service: Option<&'a Arc<RequestPolicy>>,
    foreign: bool,
) -> Option<&'a Arc<RequestPolicy>> {
    let policy = if foreign { of_service } else { own.or(of_service) };
    policy.filter(|policy| !policy.spec.upgrades.is_empty())
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

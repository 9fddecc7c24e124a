//! RequestPolicies, as far as they say that writes are sent again: which of several holds is decided as for requests.

use std::sync::Arc;

use super::rule::Target;
use crate::index::{foremost, writes_allowed_by};
use crate::source::crd::requests::RequestPolicy;
use crate::source::{Kind, NamespacedName, Object, ObjectKey};

/// All RequestPolicies.
pub(super) struct Policies<'a>(Vec<&'a Arc<RequestPolicy>>);

impl<'a> Policies<'a> {
    /// Those among all objects.
    pub(super) fn of(objects: &'a [Object]) -> Self {
        let policies = objects.iter().filter_map(|object| match object {
            Object::RequestPolicy(policy) => Some(policy),
            _ => None,
        });
        Self(policies.collect())
    }

    /// The policy by which writes of a rule are sent again after an endpoint may have seen them, for one at least of the Services whose requests its
    /// route is for.
    pub(super) fn allowed_by(&self, route: &ObjectKey, rule: Option<&str>, services: &[Target]) -> Option<NamespacedName> {
        let of_rule = rule.and_then(|rule| self.for_just(route.kind, &route.name, Some(rule)));
        let own = of_rule.or_else(|| self.for_just(route.kind, &route.name, None));
        if services.is_empty() {
            return writes_allowed_by(own, None, false);
        }
        services.iter().find_map(|target| {
            let of_service = self.for_just(Kind::Service, &target.service, None);
            writes_allowed_by(own, of_service, route.name.namespace != target.service.namespace)
        })
    }

    fn for_just(&self, kind: Kind, name: &NamespacedName, section: Option<&str>) -> Option<&'a Arc<RequestPolicy>> {
        let of_namespace = |policy: &RequestPolicy| policy.metadata.namespace.as_deref() == Some(&*name.namespace);
        foremost(self.0.iter().copied().filter(|policy| of_namespace(policy)), kind, &name.name, section)
    }
}

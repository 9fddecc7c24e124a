//! Status of XBackendTrafficPolicies: for each target whether the policy holds, and what of it does not.

use gateway_api::experimental::xbackendtrafficpolicies::{XBackendTrafficPolicy, XBackendTrafficPolicyTargetRefs as TargetRef};
use serde_json::json;

use super::Condition;
use crate::index::{Binding, Index, ServiceRef, is_backend_service};
use crate::source::NamespacedName;

/// What is said of one, for each of its targets.
pub(super) fn policy(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().backend_traffic_policies.get(name) else { return Vec::new() };
    let condition = |target: &TargetRef| {
        let reference = json!({"group": target.group, "kind": target.kind, "namespace": &*name.namespace, "name": target.name});
        let (good, reason, message) = of_target(index, policy, name, target);
        let condition = Condition::new("Accepted", good, reason, message);
        let parent = Some(format!("{} {}/{}", target.kind, name.namespace, target.name));
        Condition { parent, parent_ref: Some(reference), ..condition }
    };
    policy.spec.target_refs.iter().map(condition).collect()
}

fn of_target(
    index: &Index,
    policy: &XBackendTrafficPolicy,
    name: &NamespacedName,
    target: &TargetRef,
) -> (bool, &'static str, String) {
    if !is_backend_service(target) {
        return (
            false,
            "Invalid",
            format!("{} of group {:?} cannot be targeted; Service of group \"\" can", target.kind, target.group),
        );
    }
    let key = NamespacedName::new(name.namespace.clone(), target.name.as_str());
    let Some(service) = index.objects().services.get(&key) else {
        return (false, "TargetNotFound", format!("Service {key} does not exist"));
    };
    let holding = index.backend_policy_of(&ServiceRef::Kubernetes(key.clone())).map(|holds| NamespacedName::of(&holds.metadata));
    if let Some(other) = holding.filter(|holds| holds != name) {
        let message = format!("XBackendTrafficPolicy {other} has the same target and is older, and holds in its place");
        return (false, "Conflicted", message);
    }
    if let Binding::None | Binding::OtherTraffic(_) = index.service_binding(service) {
        let message = format!(
            "Service {key} has no waypoint: the policy holds only where a route leads to it from a Service that has one, or from a Gateway at the edge"
        );
        return (false, "AncestorNotBound", message);
    }
    let but = match remarks(policy) {
        remarks if remarks.is_empty() => String::new(),
        remarks => format!(", but: {}", remarks.join("; ")),
    };
    (true, "Accepted", format!("Attached to the waypoint of Service {key}{but}"))
}

/// What is not carried out, or not as one might think.
fn remarks(policy: &XBackendTrafficPolicy) -> Vec<&'static str> {
    let mut remarks = Vec::new();
    let constraint = policy.spec.retry_constraint.as_ref();
    if constraint.and_then(|said| said.budget.as_ref()).is_some_and(|budget| budget.interval.is_some()) {
        remarks.push("retryConstraint.budget.interval has no effect: the budget is of the requests that are under way");
    }
    if constraint.is_some_and(|said| said.min_retry_rate.is_some()) {
        remarks.push("retryConstraint.minRetryRate: as many a second are taken for as many at once");
    }
    if policy.spec.session_persistence.as_ref().is_some_and(|said| said.idle_timeout.is_some()) {
        remarks.push("sessionPersistence.idleTimeout has no effect");
    }
    remarks
}

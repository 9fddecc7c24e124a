//! Status of AuthorizationPolicies: whether the proxies that are to enforce one can.

use super::{Condition, account};
use crate::index::{Binding, Index};
use crate::source::crd::{AuthorizationPolicy, PolicyAction, PolicyTargetReference};
use crate::source::{Kind, NamespacedName, Problem};
use crate::translate::authorization::l4_policy;
use crate::translate::waypoint::unknown_at_waypoints;

pub(super) fn authorization(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().authorization_policies.get(name) else { return Vec::new() };
    let mut conditions = Vec::from_iter(accepted(index, policy, name));
    let unknown = account::unknown(index, policy);
    if !unknown.is_empty() {
        conditions.push(Condition::new("ResolvedRefs", false, "ServiceAccountNotFound", unknown.join("; ")));
    }
    conditions
}

/// What is said of a policy that cannot be read: what stands for it in the index is not what its author wrote.
pub(super) fn unreadable(kind: Kind, problem: &Problem) -> Condition {
    let place = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    let message = format!(
        "{place}{}. Until this is mended, its last good version holds, or without one the strictest it could be",
        problem.reason
    );
    let of = if kind == Kind::RequestAuthentication { "WaypointAccepted" } else { "ZtunnelAccepted" };
    Condition::new(of, false, "Invalid", message)
}

/// Whether the proxies that are to enforce a policy can.
fn accepted(index: &Index, policy: &AuthorizationPolicy, name: &NamespacedName) -> Option<Condition> {
    if policy.spec.targets().next().is_some() {
        return Some(targeted(index, policy, name));
    }
    match l4_policy(index, policy) {
        Some(made) if made.notes.is_empty() => {
            Some(Condition::new("ZtunnelAccepted", true, "Accepted", "Attached to the node proxies"))
        }
        Some(made) => Some(Condition::new("ZtunnelAccepted", false, "UnsupportedValue", made.notes.join("; "))),
        None if policy.spec.action == PolicyAction::Audit => {
            let message = "The action AUDIT has no effect at L4";
            Some(Condition::new("ZtunnelAccepted", false, "UnsupportedValue", message))
        }
        None => None,
    }
}

/// A policy with targets holds once a waypoint serves each of them.
fn targeted(index: &Index, policy: &AuthorizationPolicy, name: &NamespacedName) -> Condition {
    let unasked = || {
        let why = (policy.spec.action == PolicyAction::Custom).then(|| index.asked_by(policy).err()).flatten()?;
        let message = format!("Nobody can be asked, so what its rules match is denied: {why}");
        Some(Condition::new("WaypointAccepted", false, "UnsupportedValue", message))
    };
    let unknown = || {
        let notes = unknown_at_waypoints(policy);
        (!notes.is_empty()).then(|| Condition::new("WaypointAccepted", false, "UnsupportedValue", notes.join("; ")))
    };
    fault_of_targets(index, policy.spec.targets(), name)
        .or_else(unasked)
        .or_else(unknown)
        .unwrap_or_else(|| Condition::new("WaypointAccepted", true, "Accepted", "Attached to the waypoints of its targets"))
}

/// What keeps a policy of this name from holding for its targets.
pub(super) fn fault_of_targets<'a>(
    index: &Index,
    targets: impl Iterator<Item = &'a PolicyTargetReference>,
    name: &NamespacedName,
) -> Option<Condition> {
    let fault = |reason, message: String| Some(Condition::new("WaypointAccepted", false, reason, message));
    for target in targets {
        let key = NamespacedName::new(name.namespace.clone(), target.name.as_str());
        match target.kind.as_str() {
            "Service" => match index.objects().services.get(&key).map(|service| index.service_binding(service)) {
                None => return fault("TargetNotFound", format!("Service {key} does not exist")),
                Some(Binding::Bound { .. } | Binding::Unavailable { .. }) => {}
                Some(Binding::None | Binding::OtherTraffic(_)) => {
                    let message = format!("Service {key} has no waypoint, so the policy has no effect on it");
                    return fault("AncestorNotBound", message);
                }
            },
            "Gateway" if index.waypoint(&key).is_none() && index.ingress(&key).is_none() => {
                return fault(
                    "TargetNotFound",
                    format!("Gateway {key} does not exist or is neither a waypoint nor at the edge of the mesh"),
                );
            }
            "GatewayClass" if *name.namespace != *index.config().root_namespace => {
                let message = format!("Only policies of namespace {} may target a GatewayClass", index.config().root_namespace);
                return fault("Invalid", message);
            }
            _ => {}
        }
    }
    None
}

//! What became of each object, as the conditions that its author should find on it (wire contract, section 7).
//!
//! A function of the index alone: whoever can write objects (the API server's leader) writes these, and a directory of
//! YAML has them shown by the monitoring server.

mod account;
mod route;
#[cfg(test)]
mod tests;

use crate::index::{Binding, Index, Unavailability};
use crate::source::crd::{AuthorizationPolicy, PolicyAction};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::translate::authorization::l4_policy;

/// A condition; `observed_generation` is the generation of the object that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    pub r#type: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Generation of the object, where the source counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For routes: the parent it is about, as `Kind namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Condition {
    fn new(r#type: &'static str, good: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let status = if good { "True" } else { "False" };
        Self { r#type, status, reason, message: message.into(), observed_generation: None, parent: None }
    }
}

/// The conditions of one object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectKey,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// The conditions of all objects that have any, in the order of their keys.
#[must_use]
pub fn conditions(index: &Index) -> Vec<ObjectStatus> {
    let mut keys: Vec<ObjectKey> = index.objects().keys().collect();
    keys.sort();
    let all = keys.into_iter().map(|object| ObjectStatus { conditions: of(index, &object), object });
    all.filter(|status| !status.conditions.is_empty()).collect()
}

/// The conditions of one object; none for kinds that the mesh says nothing about.
#[must_use]
pub fn of(index: &Index, key: &ObjectKey) -> Vec<Condition> {
    let Some(object) = index.objects().get(key) else { return Vec::new() };
    let mut conditions = match key.kind {
        Kind::Service => service(index, &key.name),
        Kind::AuthorizationPolicy => authorization(index, &key.name),
        Kind::HttpRoute => route::http(index, &key.name),
        Kind::Gateway => gateway(index, &key.name),
        _ => Vec::new(),
    };
    for condition in &mut conditions {
        condition.observed_generation = object.metadata().generation;
    }
    conditions
}

fn service(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(service) = index.objects().services.get(name) else { return Vec::new() };
    let bound = |good, reason, message: String| vec![Condition::new("istio.io/WaypointBound", good, reason, message)];
    match index.service_binding(service) {
        Binding::None => Vec::new(),
        Binding::Bound { waypoint, .. } => bound(true, "WaypointAccepted", format!("Traffic goes through waypoint {waypoint}")),
        Binding::OtherTraffic(waypoint) => {
            let message = format!("Waypoint {waypoint} does not serve services; traffic does not go through it");
            bound(false, "UnsupportedTrafficType", message)
        }
        Binding::Unavailable { waypoint, reason } => {
            let why = match reason {
                Unavailability::Missing => "does not exist",
                Unavailability::AttachmentDenied => "does not admit this namespace",
                Unavailability::NotReady => "has no address yet",
            };
            let message = format!("Waypoint {waypoint} {why}; connections to the service are refused until it can be used");
            bound(false, reason.condition_reason(), message)
        }
    }
}

fn authorization(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().authorization_policies.get(name) else { return Vec::new() };
    let mut conditions = Vec::from_iter(accepted(index, policy, name));
    let unknown = account::unknown(index, policy);
    if !unknown.is_empty() {
        conditions.push(Condition::new("ResolvedRefs", false, "ServiceAccountNotFound", unknown.join("; ")));
    }
    conditions
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
    let condition = |good, reason, message: String| Condition::new("WaypointAccepted", good, reason, message);
    for target in policy.spec.targets() {
        let key = NamespacedName::new(name.namespace.clone(), target.name.as_str());
        match target.kind.as_str() {
            "Service" => match index.objects().services.get(&key).map(|service| index.service_binding(service)) {
                None => return condition(false, "TargetNotFound", format!("Service {key} does not exist")),
                Some(Binding::Bound { .. } | Binding::Unavailable { .. }) => {}
                Some(Binding::None | Binding::OtherTraffic(_)) => {
                    let message = format!("Service {key} has no waypoint, so the policy has no effect on it");
                    return condition(false, "AncestorNotBound", message);
                }
            },
            "Gateway" if index.waypoint(&key).is_none() => {
                return condition(false, "TargetNotFound", format!("Gateway {key} does not exist or is not a waypoint"));
            }
            "GatewayClass" if *name.namespace != *index.config().root_namespace => {
                let message = format!("Only policies of namespace {} may target a GatewayClass", index.config().root_namespace);
                return condition(false, "Invalid", message);
            }
            _ => {}
        }
    }
    condition(true, "Accepted", "Attached to the waypoints of its targets".into())
}

fn gateway(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(waypoint) = index.waypoint(name) else { return Vec::new() };
    let has_address =
        waypoint.gateway.status.as_ref().is_some_and(|status| status.addresses.as_ref().is_some_and(|all| !all.is_empty()));
    let programmed = if has_address {
        Condition::new("Programmed", true, "Programmed", "The waypoint has an address")
    } else {
        Condition::new("Programmed", false, "AddressNotAssigned", "The waypoint has no address yet")
    };
    vec![Condition::new("Accepted", true, "Accepted", "The Gateway is a waypoint of this mesh"), programmed]
}

//! Status of what is not carried out, or not all of it: RequestAuthentications, BackendTLSPolicies and Telemetries. Each says what happens in
//! its place and what to write instead, in the words of validation.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Condition, policy};
use crate::index::{Binding, Index, ServicePort, ServiceRef, is_service};
use crate::source::{NamespacedName, TLS_INSTEAD, TLS_REFUSED, heedless, unverified};

/// What is said of a RequestAuthentication.
pub(super) fn request_authentication(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().request_authentications.get(name) else { return Vec::new() };
    let faults: Vec<String> = unverified(policy).into_iter().map(|fault| format!("{}: {}", fault.path, fault.reason)).collect();
    if policy.spec.targets().next().is_none() {
        return vec![Condition::new("ZtunnelAccepted", false, "UnsupportedValue", faults.join("; "))];
    }
    let at_waypoints = || match faults.is_empty() {
        true => Condition::new("WaypointAccepted", true, "Accepted", "Attached to the waypoints of its targets"),
        false => Condition::new("WaypointAccepted", false, "UnsupportedValue", faults.join("; ")),
    };
    vec![policy::fault_of_targets(index, policy.spec.targets(), name).unwrap_or_else(at_waypoints)]
}

/// What is said of a BackendTLSPolicy: for each waypoint that serves one of its Services, and nothing where none does, for it may be
/// another controller's.
pub(super) fn backend_tls_policy(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().backend_tls_policies.get(name) else { return Vec::new() };
    let mut of_waypoints: BTreeMap<NamespacedName, Vec<String>> = BTreeMap::new();
    let mut missing: BTreeMap<NamespacedName, Vec<String>> = BTreeMap::new();
    for target in policy.spec.target_refs.iter().filter(|target| is_service(target)) {
        let key = NamespacedName::new(name.namespace.clone(), target.name.as_str());
        let Some(service) = index.objects().services.get(&key) else { continue };
        let (Binding::Bound { waypoint, .. } | Binding::Unavailable { waypoint, .. }) = index.service_binding(service) else {
            continue;
        };
        let section = target.section_name.as_deref();
        let has = |section: &str| ServicePort::all_of(service).iter().any(|port| port.name.as_deref() == Some(section));
        match section.filter(|section| !has(section)) {
            Some(section) => missing.entry(waypoint).or_default().push(format!("Service {key} has no port {section}")),
            None => of_waypoints.entry(waypoint).or_default().push(format!("Service {key}")),
        }
    }
    let mut conditions = Vec::new();
    for (waypoint, services) in of_waypoints {
        let message = sentence(&format!("{TLS_REFUSED} for {}; {TLS_INSTEAD}", services.join(", ")));
        missing.remove(&waypoint);
        conditions.push(of_ancestor(&waypoint, Condition::new("Accepted", false, "Invalid", message)));
    }
    for (waypoint, faults) in missing {
        conditions.push(of_ancestor(&waypoint, Condition::new("Accepted", false, "TargetNotFound", faults.join("; "))));
    }
    conditions
}

fn of_ancestor(waypoint: &NamespacedName, mut condition: Condition) -> Condition {
    let reference: Value = json!({
        "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": &*waypoint.namespace, "name": &*waypoint.name,
    });
    condition.parent = Some(format!("Gateway {waypoint}"));
    condition.parent_ref = Some(reference);
    condition
}

/// What keeps requests from a port of a Service, a BackendTLSPolicy or a DestinationRule, if one does.
pub(super) fn keeps_from(index: &Index, service: &NamespacedName, port: &ServicePort) -> Option<String> {
    let asks = index.asks_for_tls(&ServiceRef::Kubernetes(service.clone()), port)?;
    Some(format!("{asks} asks for TLS to port {} of Service {service}, which nobody here begins", port.port))
}

/// What is said of a Telemetry.
pub(super) fn telemetry(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(telemetry) = index.objects().telemetries.get(name) else { return Vec::new() };
    let parts: Vec<String> = heedless(telemetry).into_iter().map(|part| format!("{}: {}", part.path, part.reason)).collect();
    vec![Condition::new("Accepted", false, "UnsupportedValue", parts.join("; "))]
}

/// A phrase with a capital.
fn sentence(phrase: &str) -> String {
    let mut letters = phrase.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), letters.as_str()))
}

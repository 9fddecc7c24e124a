//! Status of what is not carried out, or not all of it: RequestAuthentications, BackendTLSPolicies and Telemetries. Each says what happens in
//! its place and what to write instead, in the words of validation.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Condition, policy};
use crate::index::{Binding, Index, ServicePort, ServiceRef, is_service};
use crate::jwks::Fetched;
use crate::source::crd::tokens::RequestAuthentication;
use crate::source::{
    NOT_BELIEVED, NamespacedName, RuleKeys, TLS_INSTEAD, TLS_REFUSED, heedless, keys_of, source_field, unverified,
};

/// What is said of a RequestAuthentication; `None` while keys of it are being fetched for the first time. One that was written before is then
/// not said to be without keys because a control plane begins.
pub(super) fn request_authentication(index: &Index, name: &NamespacedName) -> Option<Vec<Condition>> {
    let Some(policy) = index.objects().request_authentications.get(name) else { return Some(Vec::new()) };
    let faults: Vec<String> = unverified(policy).into_iter().map(|fault| format!("{}: {}", fault.path, fault.reason)).collect();
    if policy.spec.targets().next().is_none() {
        return Some(vec![Condition::new("ZtunnelAccepted", false, "UnsupportedValue", faults.join("; "))]);
    }
    if let Some(fault) = policy::fault_of_targets(index, policy.spec.targets(), name) {
        return Some(vec![fault]);
    }
    let (not_fetched, kept) = fetched(index, policy)?;
    let reason = match (faults.is_empty(), not_fetched.is_empty()) {
        (false, _) => "UnsupportedValue",
        (true, false) => "KeysNotFetched",
        (true, true) => {
            let attached = vec!["Attached to the waypoints of its targets".to_owned()];
            return Some(vec![Condition::new("WaypointAccepted", true, "Accepted", [attached, kept].concat().join("; "))]);
        }
    };
    Some(vec![Condition::new("WaypointAccepted", false, reason, [faults, not_fetched].concat().join("; "))])
}

/// The rules that have no keys, and why; and those of whose keys it is not known whether they still hold. `None` if nothing is known yet of some.
fn fetched(index: &Index, policy: &RequestAuthentication) -> Option<(Vec<String>, Vec<String>)> {
    let (mut faults, mut kept) = (Vec::new(), Vec::new());
    for (at, rule) in policy.spec.jwt_rules.iter().enumerate() {
        let Ok(RuleKeys::From(source)) = keys_of(rule) else { continue };
        let field = source_field(&source);
        match index.learned().get(&source)? {
            Fetched::Keys(_) => {}
            Fetched::Kept(_, why) => {
                kept.push(format!("spec.jwtRules[{at}].{field}: no keys from {source}: {why}: the keys that came before hold"));
            }
            Fetched::Failed(why) => {
                faults.push(format!("spec.jwtRules[{at}].{field}: no keys from {source}: {why}: {NOT_BELIEVED}"));
            }
        }
    }
    Some((faults, kept))
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
    let mut parts: Vec<String> = heedless(telemetry).into_iter().map(|part| format!("{}: {}", part.path, part.reason)).collect();
    let provider = telemetry.spec.spans().ok().flatten().and_then(|spans| spans.provider);
    if let Some(Err(why)) = provider.map(|provider| index.tracer(&provider).map(drop)) {
        parts.push(format!("spec.tracing[0].providers[0].name: {why}"));
    }
    for fault in index.logs_of(telemetry).1 {
        if !parts.contains(&fault) {
            parts.push(fault);
        }
    }
    match parts.is_empty() {
        true => vec![Condition::new("Accepted", true, "Accepted", "Waypoints have it".to_owned())],
        false => vec![Condition::new("Accepted", false, "UnsupportedValue", parts.join("; "))],
    }
}

/// A phrase with a capital.
fn sentence(phrase: &str) -> String {
    let mut letters = phrase.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), letters.as_str()))
}

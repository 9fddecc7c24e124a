//! Status of TrafficPolicies and DestinationRules: what holds of each, and what holds in its place.

use serde_json::json;

use super::Condition;
use crate::index::{Binding, Endpoint, Index, ServicePort, ServiceRef, covers};
use crate::source::crd::destination::{DestinationRule, Subset, TlsMode};
use crate::source::crd::traffic::{ServicePortReference, TrafficPolicy};
use crate::source::{NamespacedName, Problem, refused};

/// What is said of a TrafficPolicy, for each of its targets.
pub(super) fn policy(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().traffic_policies.get(name) else { return Vec::new() };
    let condition = |target: &ServicePortReference| {
        let mut reference = json!({"group": "", "kind": "Service", "namespace": &*name.namespace, "name": target.name});
        let mut parent = format!("Service {}/{}", name.namespace, target.name);
        if let Some(section) = &target.section_name {
            reference["sectionName"] = json!(section);
            parent = format!("{parent} port {section}");
        }
        let (good, reason, message) = of_target(index, name, target);
        let condition = Condition::new("Accepted", good, reason, message);
        Condition { parent: Some(parent), parent_ref: Some(reference), ..condition }
    };
    policy.spec.target_refs.iter().map(condition).collect()
}

/// What is said of an object that cannot be read any more, such as a policy: what holds is its last good version.
pub(super) fn unreadable(conditions: &mut [Condition], problem: &Problem) {
    let place = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    for condition in conditions.iter_mut().filter(|condition| condition.r#type == "Accepted") {
        (condition.status, condition.reason) = ("False", "Invalid");
        condition.message = format!("{place}{}. Until this is mended, its last good version holds", problem.reason);
    }
}

type Said = (bool, &'static str, String);

fn of_target(index: &Index, name: &NamespacedName, target: &ServicePortReference) -> Said {
    let key = NamespacedName::new(name.namespace.clone(), target.name.as_str());
    let Some(service) = index.objects().services.get(&key) else {
        return (false, "TargetNotFound", format!("Service {key} does not exist"));
    };
    let ports: Vec<ServicePort> = ServicePort::all_of(service).into_iter().filter(|port| covers(target, port)).collect();
    if let (Some(section), true) = (&target.section_name, ports.is_empty()) {
        return (false, "TargetNotFound", format!("Service {key} has no port {section}"));
    }
    let first = index.traffic_policy_with(&name.namespace, target).map(|policy| NamespacedName::of(&policy.metadata));
    if let Some(other) = first.filter(|first| first != name) {
        return (false, "Conflicted", format!("TrafficPolicy {other} has the same target and is older, and holds in its place"));
    }
    if let Binding::None | Binding::OtherTraffic(_) = index.service_binding(service) {
        let message = format!(
            "Service {key} has no waypoint: the policy holds only where a route leads to it from a Service that has one, or from a Gateway at the edge"
        );
        return (false, "AncestorNotBound", message);
    }
    let of_service = ServiceRef::Kubernetes(key.clone());
    let rivals = rivals(index, &of_service, &ports, |other| NamespacedName::of(&other.metadata) != *name);
    let but = if rivals.is_empty() { String::new() } else { format!(", but for what holds in its place: {}", rivals.join(", ")) };
    let near = index.objects().traffic_policies.get(name).and_then(|policy| unfailing(policy)).unwrap_or_default();
    (true, "Accepted", format!("Attached to the waypoint of Service {key}{but}{near}"))
}

/// That endpoints of other places never take over, as none is ever found to fail.
fn unfailing(policy: &TrafficPolicy) -> Option<&'static str> {
    let asked = policy.spec.load_balancing.as_ref().and_then(|said| said.locality.as_ref());
    let idle = asked.is_some_and(|said| said.failover) && !policy.spec.finds_failures();
    idle.then_some(". loadBalancing.locality.failover has no effect without outlierDetection or healthCheck")
}

/// The same of a DestinationRule, where nothing else of its places holds.
fn unfailing_rule(rule: &DestinationRule, service_ports: &[ServicePort]) -> Option<&'static str> {
    let idle = |subset: Option<&Subset>, port: &ServicePort| {
        let settings = rule.spec.settings(subset, port.port);
        let said = settings.load_balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        said.is_some_and(|said| said.enabled != Some(false) && said.distribute.is_empty()) && settings.outlier_detection.is_none()
    };
    let mut subsets = std::iter::once(None).chain(rule.spec.usable_subsets().map(Some));
    let any = subsets.any(|subset| service_ports.iter().any(|port| idle(subset, port)));
    any.then_some(". localityLbSetting has no effect without outlierDetection, but for distribute")
}

/// The ports for which another TrafficPolicy holds.
fn rivals(index: &Index, service: &ServiceRef, ports: &[ServicePort], other: impl Fn(&TrafficPolicy) -> bool) -> Vec<String> {
    let holding = ports.iter().filter_map(|port| {
        let holds = index.traffic_policy_of(service, port).filter(|holds| other(holds))?;
        Some(format!("TrafficPolicy {} for port {}", NamespacedName::of(&holds.metadata), port.port))
    });
    holding.collect()
}

/// What is said of a DestinationRule. What of it is not carried out is named whatever else is said, for it may be TLS.
pub(super) fn rule(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(rule) = index.objects().destination_rules.get(name) else { return Vec::new() };
    let parts: Vec<String> = refused(rule).into_iter().map(|part| format!("{}: {}", part.path, part.reason)).collect();
    let (good, reason, message) = of_rule(index, rule, name);
    let condition = match (good, parts.is_empty()) {
        (_, true) => Condition::new("Accepted", good, reason, message),
        (true, false) => Condition::new("Accepted", false, "UnsupportedValue", format!("{}. The rest holds", parts.join("; "))),
        (false, false) => Condition::new("Accepted", false, reason, format!("{message}; {}", parts.join("; "))),
    };
    vec![condition]
}

fn of_rule(index: &Index, rule: &DestinationRule, name: &NamespacedName) -> Said {
    let host = &rule.spec.host;
    let Some(service) = index.service_of_rule(rule) else {
        let message = format!(
            "Namespace {} has no Service {host:?}, nor a host of a ServiceEntry: write the Service's name, or the whole host name, in its own namespace",
            name.namespace
        );
        return (false, "TargetNotFound", message);
    };
    if let Some(older) = index.destination_rule_of(&service).filter(|older| NamespacedName::of(&older.metadata) != *name) {
        let older = NamespacedName::of(&older.metadata);
        return (false, "Conflicted", format!("DestinationRule {older} has the same host and is older, and holds in its place"));
    }
    let binding = match &service {
        ServiceRef::Kubernetes(key) => index.objects().services.get(key).map(|service| index.service_binding(service)),
        ServiceRef::Host(host) => index.entry_of_host(host).map(|entry| index.entry_binding(entry)),
    };
    if let None | Some(Binding::None | Binding::OtherTraffic(_)) = binding {
        let message = format!(
            "{host} has no waypoint: the rule holds only where a route leads to it from a Service that has one, or from a Gateway at the edge"
        );
        return (false, "AncestorNotBound", message);
    }
    let ports = index.service_ports(&service);
    if let Some(in_clear) = in_clear(index, rule, &service, &ports) {
        return (false, "UnsupportedValue", in_clear);
    }
    let asks = rule.spec.traffic_policy.is_some() || rule.spec.subsets.iter().any(|subset| subset.traffic_policy.is_some());
    // Which endpoints a subset has no TrafficPolicy says.
    let rivals = if asks { rivals(index, &service, &ports, |_| true) } else { Vec::new() };
    if !ports.is_empty() && rivals.len() == ports.len() {
        let subsets = if rule.spec.usable_subsets().next().is_some() { "; its subsets are led to all the same" } else { "" };
        let message = format!("A TrafficPolicy comes before a DestinationRule: {}{subsets}", rivals.join(", "));
        return (false, "Conflicted", message);
    }
    let but = if rivals.is_empty() { String::new() } else { format!(", but for what comes before it: {}", rivals.join(", ")) };
    let near = unfailing_rule(rule, &ports).unwrap_or_default();
    (true, "Accepted", format!("Attached to the waypoint of {host}{but}{near}"))
}

/// That the mesh's own TLS is asked for to endpoints that are reached without it.
fn in_clear(index: &Index, rule: &DestinationRule, service: &ServiceRef, ports: &[ServicePort]) -> Option<String> {
    let asks = |subset: Option<&Subset>| {
        let tls = |port: &ServicePort| rule.spec.settings(subset, port.port).tls.map(|tls| tls.mode);
        ports.iter().any(|port| tls(port) == Some(TlsMode::IstioMutual))
    };
    let (of_all, of_subsets) = (asks(None), rule.spec.usable_subsets().filter(|subset| asks(Some(*subset))).collect::<Vec<_>>());
    if !of_all && of_subsets.is_empty() {
        return None;
    }
    let asked = |endpoint: &Endpoint| of_all || of_subsets.iter().any(|subset| index.is_in_subset(endpoint, subset));
    let endpoints = index.endpoints(service);
    let outside = endpoints.iter().filter(|endpoint| !endpoint.hbone && asked(endpoint));
    let outside: Vec<&str> = outside.map(|endpoint| &*endpoint.workload.name).take(8).collect();
    (!outside.is_empty()).then(|| {
        format!("tls.mode ISTIO_MUTUAL: these endpoints are not in the mesh, and are reached in clear: {}", outside.join(", "))
    })
}

//! Status of RequestPolicies: for each target whether the policy holds for it.

use serde_json::{Value, json};

use super::Condition;
use crate::index::{Binding, Index, ParentRef, parent_refs, route_kind};
use crate::source::crd::requests::{GlobalRateLimit, RequestPolicySpec, RequestTarget};
use crate::source::{Kind, NamespacedName, Object, ObjectKey};

pub(super) fn policy(index: &Index, name: &NamespacedName) -> Vec<Condition> {
    let Some(policy) = index.objects().request_policies.get(name) else { return Vec::new() };
    let targets = &policy.spec.target_refs;
    let each = targets.iter().enumerate().filter(|(at, target)| !targets.iter().take(*at).any(|before| before == *target));
    let global = policy.spec.rate_limit.as_ref().and_then(|limit| limit.global.as_ref());
    each.flat_map(|(_, target)| {
        let resolved = global.map(|limit| of_target(resolved(index, limit), name, target));
        [Some(of_target(condition(index, name, target), name, target)), resolved].into_iter().flatten()
    })
    .collect()
}

/// Whether the server of a limit can be asked.
fn resolved(index: &Index, limit: &GlobalRateLimit) -> Condition {
    match index.limiter(&limit.provider) {
        Ok(_) => Condition::new("ResolvedRefs", true, "ResolvedRefs", "The rate limit server can be asked"),
        Err(why) => {
            let strict = index.known_limiter(&limit.provider).is_some_and(|limiter| !limiter.fail_open);
            let effect = if strict { "has all requests refused" } else { "does not hold" };
            let message = format!("rateLimit.global {effect}: {why}");
            Condition::new("ResolvedRefs", false, "BackendNotFound", message)
        }
    }
}

/// The same of a target.
fn of_target(mut condition: Condition, policy: &NamespacedName, target: &RequestTarget) -> Condition {
    let mut reference: Value = json!({
        "group": target.group, "kind": target.kind, "namespace": &*policy.namespace, "name": target.name,
    });
    if let (Some(section), Some(fields)) = (&target.section_name, reference.as_object_mut()) {
        fields.insert("sectionName".into(), json!(section));
    }
    condition.parent = Some(format!("{} {}/{}", target.kind, policy.namespace, target.name));
    condition.parent_ref = Some(reference);
    condition
}

fn condition(index: &Index, policy: &NamespacedName, target: &RequestTarget) -> Condition {
    let fault = |reason, message: String| Condition::new("Accepted", false, reason, message);
    let kind = route_kind(target).unwrap_or(Kind::Service);
    let key = ObjectKey { kind, name: NamespacedName::new(policy.namespace.clone(), target.name.as_str()) };
    let Some(object) = index.objects().get(&key) else { return fault("TargetNotFound", format!("{key} does not exist")) };
    let section = target.section_name.as_deref();
    if let Some(section) = section.filter(|section| !has_rule(&object, section)) {
        return fault("TargetNotFound", format!("{key} has no rule with the name {section}"));
    }
    let holds = index.request_policy(kind, &key.name, section).map(|holds| NamespacedName::of(&holds.metadata));
    if let Some(other) = holds.filter(|other| other != policy) {
        let message = format!(
            "RequestPolicy {other} has the same target and is older, or the first by name: it holds, and this one does not"
        );
        return fault("Conflicted", message);
    }
    if !has_waypoint(index, &object) {
        return fault("AncestorNotBound", format!("{key} has no waypoint, so the policy has no effect on it"));
    }
    let processing = index.objects().request_policies.get(policy).and_then(|policy| policy.spec.external_processing.as_ref());
    if let Some(why) = processing.and_then(|processing| index.processor(&processing.provider).err()) {
        return fault("ProviderNotFound", format!("Nobody can process requests, so they are answered with 500: {why}"));
    }
    let mut message = "Attached to the waypoints of its target".to_owned();
    if let Some(policy) = index.objects().request_policies.get(policy) {
        without_effect(&policy.spec, &object, &mut message);
    }
    Condition::new("Accepted", true, "Accepted", message)
}

/// Adds what of a policy has no effect on this target.
fn without_effect(spec: &RequestPolicySpec, target: &Object, message: &mut String) {
    let calls = matches!(target, Object::GrpcRoute(_));
    if spec.limits.as_ref().is_some_and(|limits| limits.max_header_bytes.is_some()) {
        message.push_str("; limits.maxHeaderBytes holds in Ambit's own waypoints, and not in Envoy");
    }
    if spec.retries.is_some() && calls {
        message.push_str("; retries.writes has no effect on it, as a GRPCRoute retries nothing");
    }
    if spec.upgrades.is_empty() {
        return;
    }
    if calls {
        message.push_str("; upgrades has no effect on it, as calls of gRPC are not upgraded");
    } else if is_foreign(target) {
        message.push_str("; upgrades has no effect for Services of another namespace, whose own policies say that");
    }
}

/// Whether a route is for a Service of another namespace.
fn is_foreign(object: &Object) -> bool {
    let own = object.metadata().namespace.as_deref().unwrap_or_default();
    let is_service = |parent: &ParentRef<'_>| matches!((parent.group, parent.kind), ("" | "core", "Service"));
    parent_refs(object).iter().any(|parent| is_service(parent) && parent.namespace.is_some_and(|namespace| namespace != own))
}

fn has_rule(object: &Object, section: &str) -> bool {
    match object {
        Object::HttpRoute(route) => route.spec.rules.iter().flatten().any(|rule| rule.name.as_deref() == Some(section)),
        Object::GrpcRoute(route) => route.spec.rules.iter().flatten().any(|rule| rule.name.as_deref() == Some(section)),
        _ => false,
    }
}

fn has_waypoint(index: &Index, object: &Object) -> bool {
    let of_service = |name: &NamespacedName| {
        let binding = index.objects().services.get(name).map(|service| index.service_binding(service));
        matches!(binding, Some(Binding::Bound { .. } | Binding::Unavailable { .. }))
    };
    let own = object.metadata().namespace.as_deref().unwrap_or_default();
    if let Object::Service(service) = object {
        return of_service(&NamespacedName::of(&service.metadata));
    }
    parent_refs(object).iter().any(|ParentRef { group, kind, namespace, name, .. }| {
        let key = NamespacedName::new(namespace.unwrap_or(own), *name);
        match (*group, *kind) {
            ("gateway.networking.k8s.io", "Gateway") => index.waypoint(&key).is_some() || index.ingress(&key).is_some(),
            ("" | "core", "Service") => of_service(&key),
            _ => false,
        }
    })
}

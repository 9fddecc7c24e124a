//! What is wrong with one object by itself. Pure; objects are not held against each other.
//!
//! An error is what makes an object, or what is written in it, ignored, or does harm: it cannot be read, has no effect, or requests fail for
//! it that were to be served. A warning is what is in force and means less, or more, than it seems to, and what has no effect here
//! and may be meant for another mesh in the same cluster.

use std::collections::HashSet;

use gateway_api::backendtlspolicies::BackendTlsPolicy;
use gateway_api::gateways::Gateway;
use serde_json::Value;

use super::labels::labels;
use crate::deploy::WAYPOINT_CLASS;
use crate::index::{INGRESS_CLASS, is_service, label};
use crate::source::crd::{AuthorizationPolicy, MtlsMode, PeerAuthentication, PolicyAction};
use crate::source::{
    Examined, FieldError, Kind, NamespacedName, Object, TLS_INSTEAD, TLS_REFUSED, examine, not_routed, refused,
    unheeding_parents, unverified,
};
use crate::status::{Verdict, faults, faults_at_edge, unusable};
use crate::translate::authorization::unknown_at_l4;
use crate::translate::waypoint::{of_services_at_waypoints, unknown_at_waypoints};

/// What was found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// What makes it ignored, or does harm.
    pub(crate) errors: Vec<FieldError>,
    /// What means less, or more, than it seems to.
    pub(crate) warnings: Vec<FieldError>,
}

impl Findings {
    /// Adds what was found besides. What a source takes with a warning, and is an error here, is said once.
    pub(crate) fn add(&mut self, further: Self) {
        let errors: HashSet<&FieldError> = further.errors.iter().collect();
        self.warnings.retain(|warning| !errors.contains(warning));
        self.errors.extend(further.errors);
        self.warnings.extend(further.warnings);
    }

    pub(super) fn error(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.errors.push(FieldError::new(path, reason));
    }

    pub(super) fn warning(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.warnings.push(FieldError::new(path, reason));
    }
}

/// Whether a Gateway of this name is known to be at the edge of the mesh.
pub(crate) type AtEdge<'a> = &'a dyn Fn(&NamespacedName) -> bool;

/// Whether the mesh is who reads an object of one of its kinds, which is of this namespace. Routes and Gateways may be other controllers' business,
/// whose rules are others: a route is the mesh's if a Service is a parent of it, or something of Istio's, or a Gateway at the edge of the mesh, and a
/// Gateway if it is of the class of waypoints, or of that at the edge.
pub(crate) fn concerns(kind: Kind, namespace: &str, object: &Value, at_edge: AtEdge<'_>) -> bool {
    match kind {
        Kind::Gateway => {
            object.pointer("/spec/gatewayClassName").is_some_and(|class| class == WAYPOINT_CLASS || class == INGRESS_CLASS)
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            let parents = object.pointer("/spec/parentRefs").and_then(Value::as_array);
            parents.into_iter().flatten().any(|parent| {
                let said = |key: &str| parent.get(key).and_then(Value::as_str);
                // Without a group it is a parent of the Gateway API.
                match (said("group"), said("kind").unwrap_or("Gateway")) {
                    (Some("" | "core"), "Service") | (Some("networking.istio.io"), _) => true,
                    (None | Some("gateway.networking.k8s.io"), "Gateway") => {
                        let name = said("name").unwrap_or_default();
                        at_edge(&NamespacedName::new(said("namespace").unwrap_or(namespace), name))
                    }
                    _ => false,
                }
            })
        }
        _ => true,
    }
}

/// All that is wrong with an object as the API server has it.
pub(crate) fn judge(kind: Kind, object: Value, root_namespace: &str) -> Findings {
    let Examined { object, errors, warnings } = examine(kind, object);
    let mut findings = Findings { errors, warnings };
    if let Some(object) = object {
        findings.add(beyond(&object, root_namespace));
    }
    findings
}

/// What is wrong with an object that can be read, and that a source would take.
pub(crate) fn beyond(object: &Object, root_namespace: &str) -> Findings {
    let mut findings = Findings::default();
    match object {
        Object::Gateway(gateway) if gateway.spec.gateway_class_name == WAYPOINT_CLASS => waypoint(gateway, &mut findings),
        Object::Gateway(gateway) if gateway.spec.gateway_class_name == INGRESS_CLASS => {
            findings.warnings =
                faults_at_edge(gateway).into_iter().map(|(path, message)| FieldError::new(path, message)).collect();
        }
        Object::HttpRoute(_) | Object::GrpcRoute(_) => {
            findings.errors = unheeding_parents(object);
            rules(object, &mut findings);
        }
        Object::TlsRoute(_) | Object::TcpRoute(_) => findings.errors = unheeding_parents(object),
        Object::AuthorizationPolicy(policy) => authorization(policy, root_namespace, &mut findings),
        Object::PeerAuthentication(policy) => peer_authentication(policy, &mut findings),
        // Without targets it does nothing here, and may be meant for proxies of another mesh.
        Object::RequestAuthentication(policy) if policy.spec.targets().next().is_some() => {
            findings.errors.extend(unverified(policy));
        }
        Object::BackendTlsPolicy(policy) => backend_tls_policy(policy, &mut findings),
        Object::DestinationRule(rule) => findings.errors.extend(refused(rule)),
        // What is for gateways alone is for proxies of another mesh.
        Object::VirtualService(object) if object.spec.is_for_mesh() => findings.errors.extend(not_routed(object)),
        _ => {}
    }
    labels(object, &mut findings);
    findings
}

fn waypoint(gateway: &Gateway, findings: &mut Findings) {
    if let Some((reason, message)) = unusable(gateway) {
        let path = if reason == "UnsupportedAddress" { "spec.addresses" } else { "spec.listeners" };
        return findings.error(path, message);
    }
    findings.warnings.extend(faults(gateway).into_iter().map(|(path, message)| FieldError::new(path, message)));
}

fn rules(route: &Object, findings: &mut Findings) {
    let below_spec = |path: &str| if path.is_empty() { "spec".to_owned() } else { format!("spec.{path}") };
    let Verdict { dropped, notes, .. } = Verdict::of(route);
    for FieldError { path, reason, .. } in dropped {
        findings.error(below_spec(&path), format!("{reason}; a waypoint answers what it matches with an error: take it out"));
    }
    findings.warnings = notes.into_iter().map(|note| FieldError { path: below_spec(&note.path), ..note }).collect();
}

fn authorization(policy: &AuthorizationPolicy, root_namespace: &str, findings: &mut Findings) {
    match policy.spec.action {
        PolicyAction::Audit => {
            let fix = "AUDIT has no effect; to have told what a policy would refuse use ALLOW or DENY and the annotation";
            return findings.error("spec.action", format!("{fix} {}: \"true\"", label::DRY_RUN));
        }
        PolicyAction::Custom if policy.spec.targets().next().is_none() => {
            let fix = "node proxies have nobody asked, so all that the rules match would be denied; give targetRefs to Services with a \
                       waypoint, or use ALLOW or DENY";
            return findings.error("spec.action", fix);
        }
        PolicyAction::Custom | PolicyAction::Allow | PolicyAction::Deny => {}
    }
    for (path, target) in policy.spec.attachment().placed_targets() {
        if target.kind == "GatewayClass" && policy.metadata.namespace.as_deref() != Some(root_namespace) {
            findings.error(
                format!("{path}.kind"),
                format!("only policies of namespace {root_namespace} may target a GatewayClass; target the Gateway"),
            );
        }
    }
    for note in unknown_at_l4(policy) {
        let (path, what) = note.split_once(": ").unwrap_or(("", &note));
        findings.warning(format!("spec.{path}"), format!("{what}; give targetRefs to Services with a waypoint"));
    }
    for note in unknown_at_waypoints(policy).into_iter().chain(of_services_at_waypoints(policy)) {
        let (path, what) = note.split_once(": ").unwrap_or(("", &note));
        findings.warning(format!("spec.{path}"), what);
    }
    let annotations = policy.metadata.annotations.as_ref();
    let what = match annotations.and_then(|annotations| annotations.get(label::DRY_RUN)).map(String::as_str) {
        Some("true") if policy.spec.action == PolicyAction::Custom => {
            "of CUSTOM there is no dry run: nobody is asked, nothing is refused and nothing is told".to_owned()
        }
        None | Some("true" | "false") => return,
        Some(value) => format!("{value:?} is neither \"true\" nor \"false\": the policy is enforced"),
    };
    findings.warning("metadata.annotations", format!("{}: {what}", label::DRY_RUN));
}

fn peer_authentication(policy: &PeerAuthentication, findings: &mut Findings) {
    let ports = policy.spec.port_level_mtls.iter().map(|(port, mtls)| (format!("spec.portLevelMtls.{port}.mode"), mtls));
    let all = policy.spec.mtls.iter().map(|mtls| ("spec.mtls.mode".to_owned(), mtls));
    for (path, mtls) in all.chain(ports) {
        if mtls.mode == MtlsMode::Disable {
            findings.warning(path, "DISABLE means PERMISSIVE: pods of the mesh are reached by mutual TLS all the same");
        }
    }
}

/// Only a warning: it may be meant for another controller's Gateways.
fn backend_tls_policy(policy: &BackendTlsPolicy, findings: &mut Findings) {
    for (at, target) in policy.spec.target_refs.iter().enumerate().filter(|(_, target)| is_service(target)) {
        let what = format!("{TLS_REFUSED} where Service {} has one; {TLS_INSTEAD}", target.name);
        findings.warning(format!("spec.targetRefs[{at}]"), what);
    }
}

#[cfg(test)]
mod tests;

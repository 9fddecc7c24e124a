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
use crate::index::{is_service, label};
use crate::source::crd::{AuthorizationPolicy, MtlsMode, PeerAuthentication, PolicyAction};
use crate::source::{Examined, FieldError, Kind, Object, TLS_INSTEAD, TLS_REFUSED, examine, unheeding_parents, unverified};
use crate::status::{Verdict, faults, unusable};
use crate::translate::authorization::unknown_at_l4;

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

/// Whether the mesh is who reads an object of one of its kinds. Routes and Gateways may be other controllers' business, whose rules are
/// others: a route is the mesh's if a Service is a parent of it, or something of Istio's, and a Gateway if it is of the class of waypoints.
pub(crate) fn concerns(kind: Kind, object: &Value) -> bool {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind {
        Kind::Gateway => object.pointer("/spec/gatewayClassName").is_some_and(|class| class == WAYPOINT_CLASS),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            let parents = object.pointer("/spec/parentRefs").and_then(Value::as_array);
            parents.into_iter().flatten().any(|parent| {
                // Without a group it is a parent of the Gateway API.
                let (group, kind) = (parent.get("group").and_then(Value::as_str), text(parent, "kind"));
                matches!((group, kind.as_str()), (Some("" | "core"), "Service") | (Some("networking.istio.io"), _))
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
        Object::HttpRoute(_) | Object::GrpcRoute(_) => {
            findings.errors = unheeding_parents(object);
            rules(object, &mut findings);
        }
        Object::TlsRoute(_) | Object::TcpRoute(_) => findings.errors = unheeding_parents(object),
        Object::AuthorizationPolicy(policy) => authorization(policy, root_namespace, &mut findings),
        Object::PeerAuthentication(policy) => peer_authentication(policy, &mut findings),
        // Without targets it does nothing here, and may be meant for proxies of another mesh.
        Object::RequestAuthentication(policy) if policy.spec.targets().next().is_some() => {
            findings.errors.push(unverified(policy));
        }
        Object::BackendTlsPolicy(policy) => backend_tls_policy(policy, &mut findings),
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
        PolicyAction::Custom => {
            let fix = "no external authorizer can be asked, so all that the rules match would be denied; use ALLOW or DENY";
            return findings.error("spec.action", fix);
        }
        PolicyAction::Allow | PolicyAction::Deny => {}
    }
    let several = policy.spec.target_refs.iter().enumerate().map(|(at, target)| (format!("spec.targetRefs[{at}].kind"), target));
    for (path, target) in several.chain(policy.spec.target_ref.iter().map(|target| ("spec.targetRef.kind".to_owned(), target))) {
        if target.kind == "GatewayClass" && policy.metadata.namespace.as_deref() != Some(root_namespace) {
            findings.error(
                path,
                format!("only policies of namespace {root_namespace} may target a GatewayClass; target the Gateway"),
            );
        }
    }
    for note in unknown_at_l4(policy) {
        let (path, what) = note.split_once(": ").unwrap_or(("", &note));
        findings.warning(format!("spec.{path}"), format!("{what}; give targetRefs to Services with a waypoint"));
    }
    let annotations = policy.metadata.annotations.as_ref();
    if let Some(value) = annotations.and_then(|annotations| annotations.get(label::DRY_RUN))
        && !["true", "false"].contains(&value.as_str())
    {
        findings.warning(
            "metadata.annotations",
            format!("{}: {value:?} is neither \"true\" nor \"false\": the policy is enforced", label::DRY_RUN),
        );
    }
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
mod tests {
    use super::*;

    const ROOT: &str = "istio-system";

    fn value(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    /// What is found in an object of namespace `shop`: errors and warnings, as `path: reason`.
    fn found(kind: Kind, spec: &str) -> (Vec<String>, Vec<String>) {
        let version = kind.versions()[0];
        let object = format!(
            "{{apiVersion: {}/{version}, kind: {}, metadata: {{name: o, namespace: shop}}, spec: {spec}}}",
            kind.group(),
            kind.as_str()
        );
        let findings = judge(kind, value(&object), ROOT);
        let texts = |found: Vec<FieldError>| found.into_iter().map(|found| format!("{}: {}", found.path, found.reason)).collect();
        (texts(findings.errors), texts(findings.warnings))
    }

    #[track_caller]
    fn refused(kind: Kind, spec: &str, part: &str) {
        let (errors, _) = found(kind, spec);
        assert!(errors.len() == 1 && errors[0].contains(part), "{spec}: {errors:#?}");
    }

    #[track_caller]
    fn warned(kind: Kind, spec: &str, part: &str) {
        let (errors, warnings) = found(kind, spec);
        assert!(errors.is_empty() && warnings.len() == 1 && warnings[0].contains(part), "{spec}: {errors:#?} {warnings:#?}");
    }

    #[track_caller]
    fn good(kind: Kind, spec: &str) {
        assert_eq!(found(kind, spec), (Vec::new(), Vec::new()), "{spec}");
    }

    #[test]
    fn policies_that_would_be_ignored_or_deny_what_nobody_meant_are_refused() {
        let kind = Kind::AuthorizationPolicy;
        good(kind, "{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}], to: [{operation: {ports: ['80']}}]}]}");
        refused(
            kind,
            "{rules: [{from: [{source: {ipBlocks: [10.0.0]}}]}]}",
            "spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0\"",
        );
        refused(kind, "{ruls: []}", "spec.ruls: unknown field");
        refused(kind, "{action: AUDIT}", "spec.action: AUDIT has no effect");
        refused(kind, "{action: CUSTOM, provider: {name: p}}", "use ALLOW or DENY");
        let class = "{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}";
        refused(kind, class, "spec.targetRefs[0].kind: only policies of namespace istio-system");
        let in_root = value(&format!("{{metadata: {{name: o, namespace: {ROOT}}}, spec: {class}}}"));
        assert_eq!(judge(kind, in_root, ROOT), Findings::default());
    }

    #[test]
    fn what_a_node_proxy_cannot_judge_is_warned_of() {
        let kind = Kind::AuthorizationPolicy;
        let rules = "rules: [{to: [{operation: {methods: [GET]}}]}]";
        warned(
            kind,
            &format!("{{{rules}}}"),
            "spec.rules[0].to: methods is not known at L4: the entry never matches; give targetRefs",
        );
        good(kind, &format!("{{targetRefs: [{{kind: Service, name: a}}], {rules}}}"));
        let odd = value("{metadata: {name: o, namespace: shop, annotations: {istio.io/dry-run: 'yes'}}, spec: {}}");
        let found = judge(kind, odd, ROOT);
        assert!(found.errors.is_empty() && found.warnings[0].reason.contains("the policy is enforced"), "{found:?}");
        warned(Kind::PeerAuthentication, "{mtls: {mode: DISABLE}}", "spec.mtls.mode: DISABLE means PERMISSIVE");
        good(Kind::PeerAuthentication, "{mtls: {mode: STRICT}}");
        refused(Kind::PeerAuthentication, "{portLevelMtls: {'80': {mode: STRICT}}}", "needs a selector");
    }

    #[test]
    fn what_is_read_and_not_carried_out_is_refused_or_warned_of_where_it_may_be_anothers() {
        let rules = "jwtRules: [{issuer: i}]";
        refused(
            Kind::RequestAuthentication,
            &format!("{{targetRefs: [{{kind: Service, name: a}}], {rules}}}"),
            "spec.jwtRules: tokens are not verified",
        );
        warned(Kind::RequestAuthentication, &format!("{{{rules}}}"), "spec: it has no effect: node proxies see connections");
        warned(Kind::Telemetry, "{accessLogging: [{disabled: true}]}", "spec.accessLogging: it has no effect");
        let to = |target: &str| {
            format!("{{targetRefs: [{{{target}, name: a}}], validation: {{hostname: h, wellKnownCACertificates: System}}}}")
        };
        warned(
            Kind::BackendTlsPolicy,
            &to("group: '', kind: Service"),
            "spec.targetRefs[0]: a waypoint begins no TLS to backends",
        );
        good(Kind::BackendTlsPolicy, &to("group: e.x, kind: Bucket"));
        let (errors, _) = found(Kind::RequestAuthentication, "{jwtRules: [{fromHeaders: [{name: 'a b'}]}]}");
        assert!(errors.iter().any(|error| error.starts_with("spec.jwtRules[0].issuer: must not be empty")), "{errors:?}");
        assert!(errors.iter().any(|error| error.contains("\"a b\" is not a header name")), "{errors:?}");
    }

    #[test]
    fn rules_that_a_waypoint_would_answer_with_errors_are_refused() {
        let kind = Kind::HttpRoute;
        let route = |parent: &str, rule: &str| format!("{{parentRefs: [{{{parent}}}], rules: [{{{rule}}}]}}");
        const SERVICE: &str = "group: '', kind: Service, name: a";
        let backend = "backendRefs: [{name: a, port: 80}]";
        good(kind, &route(SERVICE, backend));
        let auth = "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: b, port: 80}}}]";
        refused(
            kind,
            &route(SERVICE, &format!("{auth}, {backend}")),
            "spec.rules[0]: filter ExternalAuth is not supported; a waypoint",
        );
        refused(
            kind,
            &route(SERVICE, "matches: [{path: {type: RegularExpression, value: '(?=a)'}}]"),
            "\"(?=a)\" is not a regular expression",
        );
        refused(kind, &route("group: networking.istio.io, kind: ServiceEntry, name: a", backend), "a ServiceEntry has no routes");
        warned(kind, &route(SERVICE, &format!("sessionPersistence: {{}}, {backend}")), "sessionPersistence: has no effect");
        warned(kind, &route(SERVICE, &format!("{backend}, colour: red")), "spec.rules[0].colour: unknown field, without effect");

        let tcp = |namespace: &str| route(&format!("{SERVICE}, namespace: {namespace}"), backend);
        good(Kind::TcpRoute, &tcp("shop"));
        refused(Kind::TcpRoute, &tcp("bank"), "spec.parentRefs[0].namespace: a TCPRoute holds only for Services of its own");
        let tls = |namespace: &str| {
            format!("{{parentRefs: [{{{SERVICE}, namespace: {namespace}}}], hostnames: [a.example], rules: [{{{backend}}}]}}")
        };
        good(Kind::TlsRoute, &tls("shop"));
        refused(Kind::TlsRoute, &tls("bank"), "a TLSRoute holds only for Services of its own");
    }

    #[test]
    fn gateways_that_can_be_no_waypoint_are_refused() {
        let gateway = |listeners: &str| format!("{{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}");
        const HBONE: &str = "{name: mesh, port: 15008, protocol: HBONE}";
        good(Kind::Gateway, &gateway(HBONE));
        refused(Kind::Gateway, &gateway("{name: http, port: 80, protocol: HTTP}"), "spec.listeners: No listener has port 15008");
        let addressed = format!("{{gatewayClassName: istio-waypoint, addresses: [{{value: 10.0.0.1}}], listeners: [{HBONE}]}}");
        refused(Kind::Gateway, &addressed, "remove spec.addresses");
        warned(
            Kind::Gateway,
            &gateway(&format!("{HBONE}, {{name: http, port: 80, protocol: HTTP}}")),
            "spec.listeners[1]: Listener http: a waypoint speaks HBONE",
        );
    }

    #[test]
    fn entries_are_judged_as_the_control_plane_reads_them() {
        refused(
            Kind::ServiceEntry,
            "{hosts: [a.example], resolution: DYNAMIC_DNS}",
            "DYNAMIC_DNS is not supported; DNS looks up",
        );
        good(Kind::ServiceEntry, "{hosts: [a.example], ports: [{number: 80, name: http}], resolution: DNS}");
        refused(Kind::WorkloadEntry, "{address: '127.0.0.1'}", "is an address of no other machine");
    }

    #[test]
    fn routes_and_gateways_of_other_controllers_are_their_business() {
        let route = |parent: &str| value(&format!("{{spec: {{parentRefs: [{{name: a, {parent}}}]}}}}"));
        for (parent, ours) in [
            ("group: '', kind: Service", true),
            ("group: core, kind: Service", true),
            ("group: networking.istio.io, kind: ServiceEntry", true),
            ("kind: Gateway", false),
            ("kind: Service", false),
            ("group: example.com, kind: Mesh", false),
        ] {
            assert_eq!(concerns(Kind::HttpRoute, &route(parent)), ours, "{parent}");
        }
        assert!(!concerns(Kind::GrpcRoute, &value("{spec: {}}")));
        for (class, ours) in [("istio-waypoint", true), ("nginx", false)] {
            assert_eq!(concerns(Kind::Gateway, &value(&format!("{{spec: {{gatewayClassName: {class}}}}}"))), ours, "{class}");
        }
        assert!(concerns(Kind::AuthorizationPolicy, &value("{}")));
    }
}

//! What is read and not carried out: nothing of it is passed over, and what is said of it is what the waypoint does.

use ambit_api::envoy::pb::envoy::config::route::v3::RouteConfiguration;
use ambit_api::envoy::pb::envoy::config::route::v3::{route::Action, route_action::ClusterSpecifier};
use prost::Message;

use super::{GATEWAY, mesh, service};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::of;
use crate::translate::waypoint;

/// `type=status reason: message` of each condition of an object `x` of namespace `shop` in a mesh in which `a` and `b` go through a waypoint
/// and `plain` does not, with the ancestor before it if there is one.
fn said(kind: Kind, spec: &str, more: &str) -> Vec<String> {
    let object = format!(
        "---\napiVersion: {}/{}\nkind: {}\nmetadata: {{name: x, namespace: shop, generation: 7}}\nspec: {spec}\n",
        kind.group(),
        kind.versions()[0],
        kind.as_str()
    );
    let services = [service("a", "shop", "gate"), service("b", "shop", "gate"), service("plain", "shop", "none")].concat();
    let index = mesh(&format!("{GATEWAY}{services}{object}{more}"));
    let conditions = of(&index, &ObjectKey { kind, name: NamespacedName::new("shop", "x") }, None).unwrap().conditions;
    assert!(conditions.iter().all(|condition| condition.observed_generation == Some(7)));
    let text = |c: &crate::status::Condition| {
        let ancestor = c.parent.as_ref().map(|parent| format!("{parent}: ")).unwrap_or_default();
        format!("{ancestor}{}={} {}: {}", c.r#type, c.status, c.reason, c.message)
    };
    conditions.iter().map(text).collect()
}

#[track_caller]
fn check(kind: Kind, spec: &str, expected: &[&str]) {
    let said = said(kind, spec, "");
    let good = said.len() == expected.len() && said.iter().zip(expected).all(|(said, part)| said.starts_with(part));
    assert!(good, "{spec}: {said:#?}");
}

#[test]
fn a_request_authentication_says_whose_tokens_are_not_believed_or_what_its_targets_lack() {
    let kind = Kind::RequestAuthentication;
    let of_rules =
        |name: &str, rules: &str| format!("{{targetRefs: [{{group: '', kind: Service, name: {name}}}], jwtRules: [{rules}]}}");
    let target = |name: &str| of_rules(name, "{issuer: i}");
    let key = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let good = format!(r#"{{issuer: i, jwks: '{{"keys": [{key}]}}'}}"#);
    check(kind, &of_rules("a", &good), &["WaypointAccepted=True Accepted: Attached to the waypoints of its targets"]);
    let nowhere = format!("{good}, {{issuer: j, jwksUri: 'keys'}}");
    let not_believed = "WaypointAccepted=False UnsupportedValue: spec.jwtRules[1].jwksUri: \"keys\" does not begin with https";
    check(kind, &of_rules("a", &nowhere), &[not_believed]);
    check(
        kind,
        &target("a"),
        &["WaypointAccepted=False UnsupportedValue: spec.jwtRules[0].jwks: without it, and without jwksUri"],
    );
    check(kind, &target("gone"), &["WaypointAccepted=False TargetNotFound: Service shop/gone does not exist"]);
    check(kind, &target("plain"), &["WaypointAccepted=False AncestorNotBound: Service shop/plain has no waypoint"]);
    let selected = "{selector: {matchLabels: {app: a}}, jwtRules: [{issuer: i}]}";
    for spec in [selected, "{}"] {
        check(kind, spec, &["ZtunnelAccepted=False UnsupportedValue: spec: it has no effect: node proxies see connections"]);
    }
}

#[test]
fn an_authorization_policy_says_what_a_waypoint_cannot_judge() {
    let kind = Kind::AuthorizationPolicy;
    let when = |key: &str| {
        let value = if key.ends_with(".ip") { "10.0.0.1" } else { "a.example" };
        format!("{{targetRefs: [{A}], rules: [{{when: [{{key: {key}, values: [{value}]}}]}}]}}")
    };
    for key in ["connection.sni", "experimental.envoy.filters.x"] {
        let unknown = format!(
            "WaypointAccepted=False UnsupportedValue: rules[0].when[0]: {key} is not known to a waypoint: the rule never matches"
        );
        check(kind, &when(key), &[&unknown]);
    }
    for key in ["remote.ip", "destination.ip"] {
        check(kind, &when(key), &["WaypointAccepted=True Accepted: Attached to the waypoints of its targets"]);
    }
}

#[test]
fn a_telemetry_names_each_part_that_has_no_effect() {
    let kind = Kind::Telemetry;
    check(kind, "{tracing: [{randomSamplingPercentage: 5}]}", &["Accepted=True Accepted: Waypoints have it"]);
    let unread = "Accepted=False UnsupportedValue: spec.tracing[0].enableIstioTags: no spans are sent by this Telemetry: ";
    check(kind, "{tracing: [{enableIstioTags: true}]}", &[unread]);
    let nobody = "Accepted=False UnsupportedValue: spec.tracing[0].providers[0].name: the ConfigMap istio-system/istio has no extension provider otel of kind ";
    check(kind, "{tracing: [{providers: [{name: otel}]}]}", &[nobody]);
    let logs = "{metrics: [{reportingInterval: 5s}], accessLogging: [{filter: {expression: 'has(request.id)'}, providers: [{name: gone}]}, {providers: [{name: gone}]}]}";
    let all = said(kind, logs, "");
    assert!(all.len() == 1 && all[0].contains("spec.metrics[0]: of metrics this is not carried out: unknown field"), "{all:?}");
    assert!(all[0].contains("; spec.accessLogging[0].filter.expression: \"has(request.id)\" is not carried out"), "{all:?}");
    assert!(
        all[0].contains("; spec.accessLogging[1].providers: the ConfigMap istio-system/istio has no extension provider gone"),
        "{all:?}"
    );
    for taken in ["{disabled: true}", "{}", "{providers: [{name: envoy}], filter: {expression: response.code >= 400}}"] {
        check(kind, &format!("{{accessLogging: [{taken}]}}"), &["Accepted=True Accepted: Waypoints"]);
    }
    check(kind, "{metrics: [{}]}", &["Accepted=True Accepted: Waypoints have it"]);
    let path = "{metrics: [{overrides: [{tagOverrides: {path: {value: request.path}}}]}]}";
    let unbounded = "Accepted=False UnsupportedValue: spec.metrics[0].overrides[0].tagOverrides: of metrics this is not carried out: path: \"request.path\" may have any number of values";
    check(kind, path, &[unbounded]);
    check(kind, "{}", &["Accepted=False UnsupportedValue: spec: it asks for nothing"]);
}

/// A BackendTLSPolicy for these targets.
fn to_backends(targets: &str) -> String {
    format!("{{targetRefs: [{targets}], validation: {{hostname: h.example, wellKnownCACertificates: System}}}}")
}

const A: &str = "{group: '', kind: Service, name: a}";

#[test]
fn a_backend_tls_policy_speaks_of_the_waypoints_of_its_services_and_leaves_the_rest_to_others() {
    let kind = Kind::BackendTlsPolicy;
    let refused =
        "Gateway shop/gate: Accepted=False Invalid: A waypoint begins no TLS to backends, and answers requests with 500 for ";
    check(kind, &to_backends(A), &[&format!("{refused}Service shop/a; ")]);
    check(
        kind,
        &to_backends(&format!("{A}, {{group: '', kind: Service, name: b}}")),
        &[&format!("{refused}Service shop/a, Service shop/b; ")],
    );
    for of_nobody_here in [
        "{group: '', kind: Service, name: plain}",
        "{group: '', kind: Service, name: gone}",
        "{group: e.x, kind: Bucket, name: a}",
    ] {
        check(kind, &to_backends(of_nobody_here), &[]);
    }
    let section = |name: &str| format!("{{group: '', kind: Service, name: a, sectionName: {name}}}");
    check(kind, &to_backends(&section("http")), &[refused]);
    let unknown = "Gateway shop/gate: Accepted=False TargetNotFound: Service shop/a has no port https";
    check(kind, &to_backends(&section("https")), &[unknown]);
}

/// The clusters that requests to `shop/a:80` go to, with a route to `b` or none, under a BackendTLSPolicy for these targets.
fn clusters(route: bool, targets: &str) -> Vec<String> {
    let addressed = |name: &str, address: &str| {
        let to = format!("spec: {{clusterIP: {address}, ports");
        service(name, "shop", "gate").replace("spec: {ports", &to)
    };
    let to_b = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: b, port: 80}]}]}\n";
    let policy = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: x, namespace: shop}}\nspec: {}\n",
        to_backends(targets)
    );
    let route = if route { to_b } else { "" };
    let text = format!("{GATEWAY}{}{}{route}{policy}", addressed("a", "10.0.0.7"), addressed("b", "10.0.0.8"));
    let resources = waypoint::translate(&mesh(&text), &NamespacedName::new("shop", "gate")).unwrap();
    let (_, any) = resources.routes.iter().find(|(name, _)| name.starts_with("inbound-vip|80|http|a.")).unwrap();
    let configuration = RouteConfiguration::decode(any.value.as_slice()).unwrap();
    let routes = configuration.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let cluster = |action| match action {
        Some(Action::Route(action)) => match action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => name,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    routes.map(|route| cluster(route.action)).collect()
}

#[test]
fn what_is_to_go_on_by_tls_does_not_go_on_in_clear() {
    let b = "{group: '', kind: Service, name: b}";
    let (to_a, to_b) = ("inbound-vip|80|http|a.shop.svc.cluster.local", "inbound-vip|80|http|b.shop.svc.cluster.local");
    for (route, targets, expected) in [
        (false, A, "invalid-backend"),
        (false, b, to_a),
        (true, b, "invalid-backend"),
        (true, A, to_b),
        (true, "{group: '', kind: Service, name: b, sectionName: http}", "invalid-backend"),
        (true, "{group: '', kind: Service, name: b, sectionName: https}", to_b),
        (true, "{group: e.x, kind: Bucket, name: b}", to_b),
    ] {
        assert_eq!(clusters(route, targets), [expected], "{route} {targets}");
    }
    let route = "{parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: b, port: 80}]}]}";
    let policy = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {}\n",
        to_backends(b)
    );
    let said = said(Kind::HttpRoute, route, &policy);
    let fault = "ResolvedRefs=False UnsupportedProtocol: rules[0].backendRefs[0]: BackendTLSPolicy shop/p asks for TLS to port 80 of Service shop/b";
    assert!(said.len() == 2 && said[1].contains(fault), "{said:#?}");
}

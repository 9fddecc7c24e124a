//! Conditions of the Gateway API that no other test here asserts; docs/conformance/conditions.md has all of them with their tests.

use super::mesh;
use crate::deploy::{Deployed, Reports};
use crate::index::INGRESS_CONTROLLER;
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::{CONTROLLER, Condition, ObjectStatus, of};

fn gateway(listeners: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop, generation: 3, uid: u1}}\nspec: {{gatewayClassName: ambit, listeners: [{listeners}]{more}}}\n"
    )
}

fn status(text: &str, report: Deployed) -> ObjectStatus {
    let mut reports = Reports::default();
    assert!(reports.set(NamespacedName::new("shop", "edge"), report));
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "edge") };
    of(&mesh(text), &key, Some(&reports)).unwrap()
}

/// `type=status reason` of each condition.
fn said(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.r#type, c.status, c.reason)).collect()
}

const HTTP: &str = "{name: web, port: 80, protocol: HTTP}";

#[test]
fn a_class_is_accepted_unless_it_has_parameters() {
    let class = |controller: &str, more: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: c, generation: 2}}\nspec: {{controllerName: {controller}{more}}}\n"
        );
        let key = ObjectKey { kind: Kind::GatewayClass, name: NamespacedName::new("", "c") };
        let conditions = of(&mesh(&text), &key, None).unwrap().conditions;
        assert!(conditions.iter().all(|condition| condition.observed_generation == Some(2)));
        said(&conditions)
    };
    for controller in [CONTROLLER, INGRESS_CONTROLLER] {
        assert_eq!(class(controller, ""), ["Accepted=True Accepted"]);
        let parameters = ", parametersRef: {group: '', kind: ConfigMap, name: p, namespace: shop}";
        assert_eq!(class(controller, parameters), ["Accepted=False InvalidParameters"]);
    }
}

#[test]
fn a_gateway_at_the_edge_says_why_it_is_not_there() {
    let said = |more: &str, report| said(&status(&gateway(HTTP, more), report).conditions);
    let addresses = ", addresses: [{type: IPAddress, value: 192.0.2.1}]";
    assert_eq!(said(addresses, Deployed::Unusable), ["Accepted=False UnsupportedAddress", "Programmed=False Invalid"]);
    let taken = Deployed::Conflict("Service shop/edge is another's".into());
    assert_eq!(said("", taken), ["Accepted=True Accepted", "Programmed=False Invalid"]);
    let failed = Deployed::Failed("the API server is away".into());
    assert_eq!(said("", failed), ["Accepted=True Accepted", "Programmed=False NoResources"]);
    assert_eq!(said("", Deployed::Applied), ["Accepted=True Accepted", "Programmed=False AddressNotAssigned"]);
}

#[test]
fn a_listener_takes_no_kinds_of_routes_for_what_it_does_not_speak() {
    let all = status(&gateway(&format!("{HTTP}, {{name: dns, port: 53, protocol: UDP}}"), ""), Deployed::Applied);
    assert_eq!(said(&all.conditions)[0], "Accepted=True ListenersNotValid");
    assert_eq!(all.listeners[0].supported_kinds, ["HTTPRoute", "GRPCRoute"]);
    assert_eq!(all.listeners[1].supported_kinds, [""; 0]);
    assert_eq!(
        said(&all.listeners[1].conditions),
        [
            "Accepted=False UnsupportedProtocol",
            "Programmed=False Invalid",
            "ResolvedRefs=True ResolvedRefs",
            "Conflicted=False NoConflicts",
        ]
    );
    assert_eq!(said(&all.listeners[0].conditions)[1], "Programmed=False Pending");
    let mut of_all = all.conditions.iter().chain(all.listeners.iter().flat_map(|listener| &listener.conditions));
    assert!(of_all.all(|condition| condition.observed_generation == Some(3)));
    let none = status(&gateway("{name: dns, port: 53, protocol: UDP}", ""), Deployed::Unusable);
    assert_eq!(said(&none.conditions), ["Accepted=False ListenersNotValid", "Programmed=False Invalid"]);
}

#[test]
fn a_listener_at_the_edge_says_which_kinds_of_routes_it_takes() {
    let kinds = |kinds: &str| {
        let listener = format!("{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{kinds: [{kinds}]}}}}");
        let listener = status(&gateway(&listener, ""), Deployed::Applied).listeners.remove(0);
        (listener.supported_kinds.clone(), said(&listener.conditions).remove(2))
    };
    assert_eq!(kinds("{kind: Tunnel}"), (vec![], "ResolvedRefs=False InvalidRouteKinds".to_owned()));
    assert_eq!(
        kinds("{kind: Tunnel}, {kind: HTTPRoute}"),
        (vec!["HTTPRoute"], "ResolvedRefs=False InvalidRouteKinds".to_owned())
    );
    assert_eq!(kinds("{kind: GRPCRoute}"), (vec!["GRPCRoute"], "ResolvedRefs=True ResolvedRefs".to_owned()));
}

#[test]
fn a_gateway_at_the_edge_refuses_routes_of_other_namespaces_and_kinds() {
    let listeners = "{name: web, port: 80, protocol: HTTP}, {name: calls, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}";
    let accepted = |namespace: &str, section: &str| {
        let route = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}, generation: 7}}\nspec: {{parentRefs: [{{name: edge, namespace: shop, sectionName: {section}}}]}}\n"
        );
        let key = ObjectKey { kind: Kind::HttpRoute, name: NamespacedName::new(namespace, "r") };
        let conditions = of(&mesh(&format!("{}{route}", gateway(listeners, ""))), &key, None).unwrap().conditions;
        assert!(conditions.iter().all(|condition| condition.observed_generation == Some(7)));
        said(&conditions).remove(0)
    };
    assert_eq!(accepted("shop", "web"), "Accepted=True Accepted");
    assert_eq!(accepted("bank", "web"), "Accepted=False NotAllowedByListeners");
    assert_eq!(accepted("shop", "calls"), "Accepted=False NotAllowedByListeners");
}

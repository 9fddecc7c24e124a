//! Gateways whose waypoint is deployed from here, and classes.

use super::{GATEWAY, mesh};
use crate::deploy::{Deployed, Reports};
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::{ObjectStatus, of};

const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: gate, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}, ownerReferences: [{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: gate, uid: u1}]}\nspec: {clusterIP: 10.0.0.9, clusterIPs: [10.0.0.9, 'fd00::9'], selector: {gateway.networking.k8s.io/gateway-name: gate}, ports: [{name: mesh, port: 15008}]}\n";

fn pod(ready: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: gate-1, namespace: shop, labels: {{gateway.networking.k8s.io/gateway-name: gate}}}}\nspec: {{containers: []}}\nstatus: {{phase: Running, podIP: 10.1.0.1, conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
    )
}

fn status(text: &str, report: Deployed) -> ObjectStatus {
    let mut reports = Reports::default();
    assert!(reports.set(NamespacedName::new("shop", "gate"), report.clone()));
    assert!(!reports.set(NamespacedName::new("shop", "gate"), report), "known already");
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "gate") };
    of(&mesh(text), &key, Some(&reports)).unwrap()
}

/// `type=status reason` of each condition.
fn said(status: &ObjectStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={} {}", c.r#type, c.status, c.reason)).collect()
}

fn gateway() -> String {
    GATEWAY.replace("generation: 3", "generation: 3, uid: u1")
}

#[test]
fn a_gateway_has_an_address_from_the_first_ready_pod_on() {
    let with = |status: &str, rest: &str| format!("{}{status}{SERVICE}{rest}", gateway());
    let none = status(&with("", ""), Deployed::Applied);
    assert_eq!(
        (said(&none), none.addresses),
        (vec!["Accepted=True Accepted".into(), "Programmed=False AddressNotAssigned".into()], Some(vec![]))
    );
    let starting = status(&with("", &pod("False")), Deployed::Applied);
    assert_eq!(starting.addresses, Some(vec![]));
    let ready = status(&with("", &pod("True")), Deployed::Applied);
    let both = Some(vec!["10.0.0.9".to_owned(), "fd00::9".to_owned()]);
    assert_eq!(
        (said(&ready), ready.addresses),
        (vec!["Accepted=True Accepted".into(), "Programmed=True Programmed".into()], both.clone())
    );
    assert_eq!(
        ready.listeners[0]
            .conditions
            .iter()
            .map(|c| format!("{}={} @{:?}", c.r#type, c.status, c.observed_generation))
            .collect::<Vec<_>>(),
        ["Accepted=True @Some(3)", "Programmed=True @Some(3)", "ResolvedRefs=True @Some(3)", "Conflicted=False @Some(3)"]
    );
    // Once it has one it keeps it, and says that nobody is there.
    let away = status(&with("status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}\n", &pod("False")), Deployed::Applied);
    assert_eq!(
        (said(&away), away.addresses),
        (vec!["Accepted=True Accepted".into(), "Programmed=False NoResources".into()], both)
    );
}

#[test]
fn a_service_that_only_has_the_name_is_no_waypoints_address() {
    for (what, with) in [("uid: u1", "uid: u2"), ("gateway-name: gate}, owner", "gateway-name: other}, owner")] {
        let text = format!("{}{}{}", gateway(), SERVICE.replace(what, with), pod("True"));
        assert_eq!(status(&text, Deployed::Applied).addresses, Some(vec![]), "{with}");
    }
}

#[test]
fn a_gateway_says_why_no_waypoint_is_deployed() {
    let text = format!("{}{SERVICE}{}", gateway(), pod("True"));
    let refused = status(&text, Deployed::Refused("no".into()));
    assert_eq!(said(&refused), ["Accepted=False InvalidParameters", "Programmed=False Invalid"]);
    assert_eq!(refused.conditions[1].message, "no");
    assert_eq!(said(&status(&text, Deployed::Conflict("no".into()))), ["Accepted=True Accepted", "Programmed=False Invalid"]);
    // What runs goes on, and is reached.
    let failed = status(&text, Deployed::Failed("no".into()));
    assert_eq!(said(&failed), ["Accepted=True Accepted", "Programmed=False NoResources"]);
    assert_eq!(failed.addresses.unwrap().len(), 2);
    let http = status(&text.replace("HBONE", "HTTP"), Deployed::Unusable);
    assert_eq!(said(&http), ["Accepted=False ListenersNotValid", "Programmed=False Invalid"]);
    assert_eq!(http.listeners[0].conditions[0].reason, "UnsupportedProtocol");
    let port = status(&text.replace("name: mesh, port: 15008, protocol", "name: mesh, port: 8080, protocol"), Deployed::Unusable);
    assert_eq!(port.listeners[0].conditions[0].reason, "PortUnavailable");
    let listeners = "listeners: [{name: web, port: 80, protocol: HTTP}, ";
    let some = status(&text.replace("listeners: [", listeners), Deployed::Applied);
    assert_eq!(said(&some), ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]);
    let fixed = text.replace("spec: {gatewayClassName", "spec: {addresses: [{value: 10.0.0.1}], gatewayClassName");
    assert_eq!(said(&status(&fixed, Deployed::Unusable)), ["Accepted=False UnsupportedAddress", "Programmed=False Invalid"]);
}

#[test]
fn a_listener_counts_its_routes_and_says_which_kinds_it_takes() {
    let route = |name: &str, parent: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{{parent}}}]}}\n"
        )
    };
    let routes = [
        route("a", "name: gate"),
        route("b", "name: gate, sectionName: mesh"),
        route("c", "name: gate, sectionName: other"),
        route("d", "name: else"),
    ];
    let text = format!("{}{}", gateway(), routes.concat());
    let all = status(&text, Deployed::Applied);
    assert_eq!((all.listeners[0].attached_routes, &all.listeners[0].supported_kinds[..]), (2, &["HTTPRoute", "GRPCRoute"][..]));
    let kinds = |kinds: &str| {
        let text = text.replace("protocol: HBONE", &format!("protocol: HBONE, allowedRoutes: {{kinds: [{kinds}]}}"));
        let listener = status(&text, Deployed::Applied).listeners.remove(0);
        (listener.supported_kinds, listener.conditions[2].reason)
    };
    assert_eq!(kinds("{kind: HTTPRoute}"), (vec!["HTTPRoute"], "ResolvedRefs"));
    assert_eq!(kinds("{kind: HTTPRoute}, {kind: TCPRoute}"), (vec!["HTTPRoute"], "InvalidRouteKinds"));
    assert_eq!(kinds("{kind: GRPCRoute}, {kind: HTTPRoute}"), (vec!["HTTPRoute", "GRPCRoute"], "ResolvedRefs"));
    assert_eq!(kinds("{group: example.com, kind: HTTPRoute}"), (vec![], "InvalidRouteKinds"));
}

#[test]
fn only_classes_and_gateways_of_this_controller_are_spoken_of() {
    let class = |name: &str, controller: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}\n"
        )
    };
    let other = gateway().replace("istio-waypoint", "nginx");
    let index = mesh(&format!(
        "{}{}---\n{other}",
        class("istio-waypoint", "istio.io/mesh-controller"),
        class("nginx", "example.com/nginx")
    ));
    let of_class = |name: &str| of(&index, &ObjectKey { kind: Kind::GatewayClass, name: NamespacedName::new("", name) }, None);
    assert_eq!(said(&of_class("istio-waypoint").unwrap()), ["Accepted=True Accepted"]);
    assert_eq!(of_class("nginx"), None);
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "gate") };
    assert_eq!(of(&index, &key, None), None);
    // One of ours that the deployer has yet to look at.
    assert_eq!(of(&mesh(&gateway()), &key, Some(&Reports::default())), None);
}

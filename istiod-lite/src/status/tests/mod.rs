mod broken;
mod carried;
mod entry;
mod gateway;
mod ingress;
mod patch;
mod reasons;
mod requests;
mod route;
mod traffic;
mod unsupported;
mod virtual_service;

use ambit_identity::TrustDomain;

use super::conditions;
use crate::index::{Index, MeshConfig};
use crate::source::Event;
use crate::source::testing::objects;

/// A mesh of these objects.
fn mesh(text: &str) -> Index {
    let mut index = Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"));
    for object in objects(text) {
        index.apply(Event::Upsert(object));
    }
    index
}

/// A mesh of these objects, and one line for each condition of it: object, parent, type, status, reason.
fn check(text: &str, expected: &[&str]) {
    let index = mesh(text);
    let mut lines = Vec::new();
    for status in conditions(&index) {
        for condition in status.conditions {
            let parent = condition.parent.map(|parent| format!(" for {parent}")).unwrap_or_default();
            let generation = condition.observed_generation.map(|generation| format!(" @{generation}")).unwrap_or_default();
            let (kind, status_text, reason) = (condition.r#type, condition.status, condition.reason);
            lines.push(format!("{}{parent}: {kind}={status_text} {reason}{generation}", status.object));
        }
    }
    assert_eq!(lines, expected);
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop, generation: 3}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";

fn service(name: &str, namespace: &str, waypoint: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{istio.io/use-waypoint: {waypoint}, istio.io/use-waypoint-namespace: shop}}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

#[test]
fn a_service_says_whether_its_waypoint_can_be_used() {
    let ready = format!("{GATEWAY}status: {{addresses: [{{value: 10.0.0.1}}]}}\n");
    let services = format!("{}{}{}", service("a", "shop", "gate"), service("b", "bank", "gate"), service("c", "shop", "nowhere"));
    check(
        &format!("{ready}{services}"),
        &[
            "Service bank/b: istio.io/WaypointBound=False AttachmentDenied",
            "Service shop/a: istio.io/WaypointBound=True WaypointAccepted",
            "Service shop/c: istio.io/WaypointBound=False WaypointIsNotReady",
            "Gateway shop/gate: Accepted=True Accepted @3",
            "Gateway shop/gate: Programmed=True Programmed @3",
        ],
    );
    let of_pods = GATEWAY.replace("generation: 3", "labels: {istio.io/waypoint-for: workload}");
    check(
        &format!("{of_pods}{}", service("a", "shop", "gate")),
        &[
            "Service shop/a: istio.io/WaypointBound=False UnsupportedTrafficType",
            "Gateway shop/gate: Accepted=True Accepted",
            "Gateway shop/gate: Programmed=False AddressNotAssigned",
        ],
    );
}

#[test]
fn a_policy_says_what_a_node_proxy_cannot_judge_and_what_its_targets_lack() {
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let target = |name: &str| format!("{{targetRefs: [{{group: '', kind: Service, name: {name}}}], rules: [{{}}]}}");
    let text = [
        policy("audits", "{action: AUDIT}"),
        policy("good", "{rules: [{to: [{operation: {ports: ['80']}}]}]}"),
        policy("l7", "{rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        policy("t-absent", &target("absent")),
        policy("t-bound", &target("bound")),
        policy("t-plain", &target("plain")),
        service("bound", "shop", "gate"),
        service("plain", "shop", "none"),
    ];
    check(
        &text.concat(),
        &[
            "Service shop/bound: istio.io/WaypointBound=False WaypointIsNotReady",
            "AuthorizationPolicy shop/audits: ZtunnelAccepted=False UnsupportedValue",
            "AuthorizationPolicy shop/good: ZtunnelAccepted=True Accepted",
            "AuthorizationPolicy shop/l7: ZtunnelAccepted=False UnsupportedValue",
            "AuthorizationPolicy shop/t-absent: WaypointAccepted=False TargetNotFound",
            "AuthorizationPolicy shop/t-bound: WaypointAccepted=True Accepted",
            "AuthorizationPolicy shop/t-plain: WaypointAccepted=False AncestorNotBound",
        ],
    );
}

#[test]
fn a_policy_says_why_nobody_can_be_asked() {
    let providers = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n\
        \u{20}   - {name: good, envoyExtAuthzGrpc: {service: bound.shop.svc.cluster.local, port: 80}}\n\
        \u{20}   - {name: port, envoyExtAuthzGrpc: {service: bound.shop.svc.cluster.local, port: 81}}\n\
        \u{20}   - {name: gone, envoyExtAuthzGrpc: {service: gone.shop.svc.cluster.local, port: 80}}\n\
        \u{20}   - {name: spans, lightstep: {service: bound.shop.svc.cluster.local, port: 80}}\n";
    // Nobody else takes the place of a Service that is not there.
    let other = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: gone, namespace: other}\nspec: {hosts: [gone.shop.svc.cluster.local], addresses: [240.0.0.9], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.9}]}\n";
    for (provider, said) in [
        ("good", "Attached to the waypoints of its targets"),
        ("port", "there is no port bound.shop.svc.cluster.local:81 of the extension provider port"),
        ("gone", "there is no service gone.shop.svc.cluster.local:80 of the extension provider gone"),
        ("spans", "the extension provider spans cannot be asked: lightstep"),
        ("nobody", "the ConfigMap istio-system/istio has no extension provider nobody"),
    ] {
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: asks, namespace: shop}}\nspec: {{action: CUSTOM, provider: {{name: {provider}}}, targetRefs: [{{group: '', kind: Service, name: bound}}], rules: [{{}}]}}\n"
        );
        let index = mesh(&[GATEWAY, &service("bound", "shop", "gate"), providers, other, &policy].concat());
        let of_policy = |status: super::ObjectStatus| {
            status.object.to_string().starts_with("AuthorizationPolicy").then_some(status.conditions)
        };
        let conditions = conditions(&index).into_iter().find_map(of_policy).unwrap();
        let [condition] = conditions.as_slice() else { panic!("{conditions:?}") };
        let good = condition.status == "True";
        assert!(condition.message.contains(said) && good == (provider == "good"), "{provider}: {condition:?}");
    }
}

#[test]
fn a_route_has_its_conditions_for_each_parent() {
    let route = |name: &str, parents: &str, backends: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop, generation: 7}}\nspec:\n  parentRefs: [{parents}]\n  rules: [{{backendRefs: [{backends}]}}]\n"
        )
    };
    let text = [
        service("a", "shop", "none"),
        service("b", "bank", "none"),
        route("good", "{group: '', kind: Service, name: a}", "{name: a, port: 80}"),
        route("no-backend", "{group: '', kind: Service, name: a, port: 81}", "{name: a, port: 8080}"),
        route("no-grant", "{group: '', kind: Service, name: absent}", "{name: b, namespace: bank, port: 80}"),
        route("others", "{name: of-another-controller}", "{kind: Bucket, name: a}"),
    ];
    check(
        &text.concat(),
        &[
            "HTTPRoute shop/good for Service shop/a: Accepted=True Accepted @7",
            "HTTPRoute shop/good for Service shop/a: ResolvedRefs=True ResolvedRefs @7",
            "HTTPRoute shop/no-backend for Service shop/a: Accepted=False NoMatchingParent @7",
            "HTTPRoute shop/no-backend for Service shop/a: ResolvedRefs=False BackendNotFound @7",
            "HTTPRoute shop/no-grant for Service shop/absent: Accepted=False NoMatchingParent @7",
            "HTTPRoute shop/no-grant for Service shop/absent: ResolvedRefs=False RefNotPermitted @7",
        ],
    );
}

#[test]
fn a_policy_says_which_of_its_service_accounts_do_not_exist() {
    let account =
        |name: &str| format!("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: shop}}\n");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: job, namespace: batch}\nspec: {serviceAccountName: runs}\n";
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/shop/sa/web, cluster.local/ns/batch/sa/runs, cluster.local/ns/shop/sa/default]}}]\n  - from: [{source: {principals: [cluster.local/ns/shop/sa/wbe, '*/ns/shop/sa/x', cluster.local/ns/shop/sa/w*, elsewhere/ns/a/sa/b]}}]\n  - from: [{source: {serviceAccounts: [web, batch/stops]}}]\n";
    let index = mesh(&[&account("web"), pod, policy].concat());
    let conditions = conditions(&index).into_iter().flat_map(|status| status.conditions);
    let said: Vec<String> = conditions.map(|c| format!("{}={} {}: {}", c.r#type, c.status, c.reason, c.message)).collect();
    let unknown = "ResolvedRefs=False ServiceAccountNotFound: rules[1]: there is no service account cluster.local/ns/shop/sa/wbe; \
                   rules[2]: there is no service account cluster.local/ns/batch/sa/stops";
    assert_eq!(said, ["ZtunnelAccepted=True Accepted: Attached to the node proxies", unknown]);
}

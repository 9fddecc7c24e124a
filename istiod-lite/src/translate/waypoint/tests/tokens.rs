//! Which filter chains look at tokens, of a waypoint for Services and for pods.

use serde_json::Value;

use super::{of_waypoint, render};

/// A waypoint with a RequestAuthentication, a pod, and a Service with ports of every kind.
const INPUT: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: api}, ports: [{name: http, port: 80}, {name: what, port: 81}, {name: tcp, port: 82}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-1, namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}
spec: {serviceAccountName: api, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.244.1.5}], phase: Running}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]
  jwtRules: [{issuer: "https://issuer.example"}]
"#;

#[test]
fn tokens_are_looked_at_before_any_rule_and_bytes_that_may_be_a_request_do_not_get_around_it() {
    const NAME: &str = "ns[shop]-policy[request_authentication_tokens]-rule[0]";
    let resources = of_waypoint(INPUT);
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    for (name, verified, refused) in [
        ("inbound-vip|80|http|api.shop.svc.cluster.local", true, false),
        ("inbound-vip|81|http|api.shop.svc.cluster.local", true, false),
        ("inbound-vip|81|tcp|api.shop.svc.cluster.local", false, true),
        // Its owner says that there are no requests.
        ("inbound-vip|82|tcp|api.shop.svc.cluster.local", false, false),
        ("direct-http|spiffe://cluster.local/ns/shop/sa/api", true, false),
        ("direct-tcp|spiffe://cluster.local/ns/shop/sa/api", false, true),
    ] {
        let chain = chains.iter().find(|chain| chain["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let filters = chain["filters"].as_array().unwrap();
        let of_requests: Vec<&Value> =
            filters.iter().filter_map(|filter| filter["typed_config"]["http_filters"].as_array()).flatten().collect();
        let first = of_requests.first().map(|filter| filter["name"] == "envoy.filters.http.jwt_authn");
        assert_eq!(first.unwrap_or(false), verified, "{name}: {of_requests:?}");
        let provider = of_requests.first().map(|filter| &filter["typed_config"]["providers"][NAME]["issuer"]);
        assert!(!verified || provider.is_some_and(|issuer| issuer == "https://issuer.example"), "{name}: {provider:?}");
        let denies = |filter: &Value| {
            let rules = &filter["typed_config"]["rules"];
            rules["action"] == "DENY" && rules["policies"][NAME]["permissions"][0]["any"] == true
        };
        assert_eq!(filters.iter().chain(of_requests).any(denies), refused, "{name}");
    }
}

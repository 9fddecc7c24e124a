//! Gateways at the edge of the mesh.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Any, input, of_waypoint, render};

/// The names of the first route for each host of a port.
fn hosts(yaml: &str, port: u16) -> BTreeMap<String, Vec<String>> {
    let resources = of_waypoint(yaml);
    let name = format!("ingress|{port}");
    let table = resources.routes.iter().find(|(known, _)| *known == name).map(|(_, table)| render(table)).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_host = |host: Value| {
        let routes = list(&host["routes"]).iter().map(|route| text(&route["name"])).collect();
        (text(&host["domains"][0]), routes)
    };
    list(&table["virtual_hosts"]).into_iter().map(of_host).collect()
}

#[test]
fn a_port_of_a_gateway_is_a_listener_for_strangers_and_endpoints_are_reached_by_tunnels() {
    let resources = of_waypoint(&input("edge"));
    let names = |of: &[(String, Any)]| of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&resources.listeners), ["connect_originate", "ingress|80", "ingress|8080"]);
    let cluster = |name: &str| format!("inbound-vip|{name}.svc.cluster.local");
    let [billing, pages, calls] = ["80|http|billing.shop", "80|http|pages.web", "9000|http|calls.shop"].map(cluster);
    assert_eq!(names(&resources.clusters), ["connect_originate", billing.as_str(), &pages, &calls]);
    let find = |of: &[(String, Any)], name: &str| of.iter().find(|(known, _)| known == name).map(|(_, any)| render(any)).unwrap();
    let listener = find(&resources.listeners, "ingress|80");
    // The pod has not the privilege to open port 80.
    assert_eq!(listener["address"]["socket_address"]["port_value"], 10080);
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["use_remote_address"], true, "{listener:#}");
    assert!(manager.to_string().contains("ns[shop]-policy[no-deletes]-rule[0]"), "{listener:#}");
    let (in_mesh, outside) = (find(&resources.endpoints, &billing).to_string(), find(&resources.endpoints, &pages).to_string());
    assert!(in_mesh.contains("spiffe://cluster.local/ns/shop/sa/billing") && in_mesh.contains("10.244.1.1:8080"), "{in_mesh}");
    assert!(outside.contains("10.244.1.2") && !outside.contains("connect_originate"), "{outside}");
}

#[test]
fn what_clients_speak_says_nothing_of_a_service_unless_it_is_grpc() {
    let spoken = |yaml: &str, name: &str| {
        let name = format!("inbound-vip|{name}.svc.cluster.local");
        let resources = of_waypoint(yaml);
        let cluster = resources.clusters.iter().find(|(known, _)| *known == name).map(|(_, any)| render(any)).unwrap();
        let options = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        match (&options["use_downstream_protocol_config"], &options["explicit_http_config"]["http_protocol_options"]) {
            (Value::Object(_), _) => "as the client",
            (_, Value::Object(_)) => "HTTP/1.1",
            _ => "HTTP/2",
        }
    };
    let yaml = input("edge");
    assert_eq!(spoken(&yaml, "80|http|billing.shop"), "HTTP/1.1");
    assert_eq!(spoken(&yaml, "9000|http|calls.shop"), "HTTP/2", "its port says so");
    let unsaid = yaml.replace("name: grpc, port: 9000", "name: calls, port: 9000");
    assert_ne!(unsaid, yaml);
    assert_eq!(spoken(&unsaid, "9000|http|calls.shop"), "as the client", "a GRPCRoute leads there");
}

#[test]
fn an_authorizer_is_asked_at_the_edge_by_a_cluster_of_its_own() {
    let more = r#"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: guard, envoyExtAuthzGrpc: {service: calls.shop.svc.cluster.local, port: 9000}}]"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asks, namespace: shop}
spec: {action: CUSTOM, provider: {name: guard}, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], rules: [{}]}
"#;
    let resources = of_waypoint(&(input("edge") + more));
    let (cluster, endpoints) =
        ("ext-authz|9000|grpc|calls.shop.svc.cluster.local", "inbound-vip|9000|http|calls.shop.svc.cluster.local");
    assert!(
        resources.clusters.iter().any(|(name, _)| name == cluster)
            && resources.endpoints.iter().any(|(name, _)| name == endpoints)
    );
    for (name, listener) in resources.listeners.iter().filter(|(name, _)| name.starts_with("ingress|")) {
        let listener = render(listener).to_string();
        assert!(listener.contains(cluster) && listener.contains("ns[shop]-policy[asks]-rule[0]"), "{name}: {listener}");
    }
}

#[test]
fn a_host_is_for_the_listener_that_says_it_most_closely_and_sees_its_routes_alone() {
    let yaml = input("edge");
    let billing = ["shop/billing/rule[0]/match[0]".to_owned(), "shop/billing/rule[1]/match[0]".to_owned()];
    let pages = vec!["web/pages/rule[0]/match[0]".to_owned()];
    let calls = vec!["shop/calls/rule[0]/match[0]".to_owned()];
    let expected = [
        ("*", vec![]),
        ("*.example.com", pages.clone()),
        ("billing.example.org", billing.to_vec()),
        ("calls.example.org", calls),
        ("empty.example.com", vec![]),
    ];
    assert_eq!(hosts(&yaml, 80), expected.into_iter().map(|(host, routes)| (host.to_owned(), routes)).collect());
    assert_eq!(hosts(&yaml, 8080), BTreeMap::from([("api.example.com".to_owned(), billing.to_vec())]));
    // A route that the listener does not take for its namespace is on none.
    let closed = yaml.replace("labels: {team: web}", "labels: {team: shop}");
    assert_eq!(hosts(&closed, 80)["*.example.com"], Vec::<String>::new());
    assert!(!of_waypoint(&yaml).listeners.iter().any(|(name, _)| name.contains("443")), "there is no certificate");
}

#[test]
fn of_an_http_route_and_a_grpc_route_for_one_host_the_older_one_holds() {
    let both = input("edge").replace("[calls.example.org]", "[billing.example.org]");
    let at = |yaml: &str| hosts(yaml, 80)["billing.example.org"].first().cloned().unwrap();
    assert!(at(&both).starts_with("shop/billing/"));
    let older = both.replace(
        "{name: calls, namespace: shop}\nspec:\n  parent",
        "{name: calls, namespace: shop, creationTimestamp: \"2020-01-01T00:00:00Z\"}\nspec:\n  parent",
    );
    assert!(at(&older).starts_with("shop/calls/"));
}

#[test]
fn a_policy_for_requests_holds_at_the_edge_too_and_the_bytes_are_the_same_each_time() {
    let policy = r#"
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: slow, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: billing}]
  fault: {delay: {fixed: 1s}}
  rateLimit: {local: {requests: 5, per: second}}
"#;
    let matched = "matches: [{path: {value: /pay}}]";
    let cors = format!("{matched}\n    filters: [{{type: CORS, cors: {{allowOrigins: [\"https://a.example\"]}}}}]");
    let yaml = format!("{}{policy}", input("edge").replace(matched, &cors));
    let resources = of_waypoint(&yaml);
    let table = resources.routes.iter().find(|(name, _)| name == "ingress|80").map(|(_, table)| render(table)).unwrap();
    let hosts = table["virtual_hosts"].as_array().unwrap();
    let limits = |host: &Value| host["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"].to_string();
    for host in hosts {
        let limited = host["name"] == "billing.example.org";
        assert_eq!(limits(host).contains("shop/slow"), limited, "{host:#}");
    }
    let route = hosts.iter().find(|host| host["name"] == "billing.example.org").map(|host| &host["routes"][0]).unwrap();
    let said = route["typed_per_filter_config"].as_object().unwrap();
    let filters: Vec<&str> = said.keys().map(String::as_str).collect();
    assert_eq!(filters, ["envoy.filters.http.cors", "envoy.filters.http.fault"], "{route:#}");
    // Of maps with several entries, too.
    for _ in 0..8 {
        assert_eq!(resources, of_waypoint(&yaml));
    }
}

#[test]
fn listeners_in_each_others_way_serve_nobody() {
    let listeners = |more: &str| input("edge").replace("  - {name: secure", &format!("  - {more}\n  - {{name: secure"));
    let ports = |yaml: &str| {
        let resources = of_waypoint(yaml);
        resources.routes.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(ports(&input("edge")), ["ingress|80", "ingress|8080"]);
    assert_eq!(ports(&listeners("{name: twice, port: 8080, protocol: HTTP, hostname: API.example.com}")), ["ingress|80"]);
    assert_eq!(ports(&listeners("{name: tls, port: 8080, protocol: TLS, hostname: b.example.com}")), ["ingress|80"]);
    assert_eq!(ports(&listeners("{name: own, port: 15020, protocol: HTTP}")), ["ingress|80", "ingress|8080"]);
    // In the pod that is where port 80 is.
    assert_eq!(ports(&listeners("{name: there, port: 10080, protocol: HTTP}")), ["ingress|80", "ingress|8080"]);
}

#[test]
fn what_is_enforced_at_a_waypoint_is_not_gone_around() {
    let waypoint = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"#;
    let policy = r#"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: billing}]
  rules: [{from: [{source: {namespaces: [web]}}]}]
"#;
    let service = "metadata: {name: billing, namespace: shop}\nspec: {clusterIP";
    let labelled = |label: &str| {
        let labels = format!(
            "metadata: {{name: billing, namespace: shop, labels: {{istio.io/use-waypoint: waypoint{label}}}}}\nspec: {{clusterIP"
        );
        format!("{}{waypoint}", input("edge").replace(service, &labels))
    };
    let reached = |yaml: &str| {
        let resources = of_waypoint(yaml);
        resources.clusters.iter().any(|(name, _)| name.contains("billing.shop"))
    };
    assert!(reached(&input("edge")));
    assert!(reached(&labelled("")), "as in Istio");
    assert!(!reached(&labelled(", istio.io/ingress-use-waypoint: 'true'")));
    assert!(!reached(&format!("{}{policy}", labelled(""))));
    assert!(reached(&format!("{}{policy}", labelled(", istio.io/ingress-use-waypoint: 'false'"))));
    let dry_run = policy.replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}");
    assert!(reached(&format!("{}{dry_run}", labelled(""))), "nothing is enforced by it");
}

#[test]
fn a_host_of_one_letter_is_closer_than_the_wildcard_of_the_same_length() {
    let own = "  - {name: own, port: 80, protocol: HTTP, hostname: x.example.com}\n  - name: web\n";
    let yaml = input("edge").replace("  - name: web\n", own).replace("www.example.com", "x.example.com");
    let hosts = hosts(&yaml, 80);
    let routes = &hosts["x.example.com"];
    assert!(routes.first().is_some_and(|route| route.starts_with("shop/billing/")), "{routes:?}");
}

#[test]
fn limits_of_routes_hold_at_the_edge_too() {
    let policy = r#"
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: few, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: billing}]
  rateLimit: {local: {requests: 5, per: minute}}
"#;
    let resources = of_waypoint(&format!("{}{policy}", input("edge")));
    let table = resources.routes.iter().find(|(name, _)| name == "ingress|80").map(|(_, table)| render(table)).unwrap();
    let hosts = table["virtual_hosts"].as_array().unwrap();
    let limited = hosts.iter().filter(|host| host["typed_per_filter_config"].to_string().contains("shop/few"));
    let limited: Vec<&str> = limited.filter_map(|host| host["domains"][0].as_str()).collect();
    assert_eq!(limited, ["billing.example.org"]);
}

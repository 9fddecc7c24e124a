//! Requests that RequestPolicies have processed outside.

use serde_json::Value;

use super::{Any, input, of_waypoint, render};

fn names(all: &[(String, Any)]) -> Vec<&str> {
    all.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_processor_has_a_filter_that_is_off_where_no_route_has_it_on_and_without_it_nothing_passes() {
    const FILTER: &str = "envoy.filters.http.ext_proc";
    let resources = of_waypoint(&input("processors"));
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    let filters = |host: &str| {
        let name = format!("inbound-vip|80|http|{host}.shop.svc.cluster.local");
        let chain = chains.iter().find(|chain| chain["name"] == name.as_str()).unwrap();
        chain["filters"][0]["typed_config"]["http_filters"].as_array().unwrap().clone()
    };
    let named = |filters: &[Value]| filters.iter().map(|filter| filter["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let of_orders = filters("orders");
    let all = named(&of_orders);
    let own: Vec<&str> = all.iter().map(|name| name.rsplit('.').next().unwrap()).collect();
    assert_eq!(own, ["cors", "fault", "local_ratelimit", "ext_proc/scrub", "ext_proc/stamp", "stateful_session", "router"]);
    assert!(!named(&filters("plain")).iter().any(|name| name.starts_with(FILTER)));
    let (scrub, stamp) = (&of_orders[3], &of_orders[4]);
    assert!(scrub["disabled"] == true && stamp["disabled"] == true, "{scrub}, {stamp}");
    let (scrub, stamp) = (&scrub["typed_config"], &stamp["typed_config"]);
    assert_eq!(scrub["grpc_service"]["envoy_grpc"]["cluster_name"], "ext-proc|9000|scrub.tools.svc.cluster.local");
    assert_eq!(scrub["grpc_service"]["envoy_grpc"]["authority"], "scrub.tools.svc.cluster.local");
    assert_eq!((&scrub["message_timeout"], &scrub["route_cache_action"]), (&Value::from("1s"), &Value::from("RETAIN")));
    assert_eq!(scrub["processing_mode"]["request_body_mode"], "BUFFERED");
    assert_eq!((&stamp["failure_mode_allow"], &stamp["message_timeout"]), (&Value::from(true), &Value::from("0.200s")));
    let told = ["response_header_mode", "response_body_mode", "response_trailer_mode", "request_trailer_mode"]
        .map(|mode| stamp["processing_mode"][mode].as_str());
    assert_eq!(told, ["SKIP", "STREAMED", "SEND", "SKIP"].map(Some));
    assert!(stamp["allow_mode_override"] == true && scrub["allow_mode_override"].is_null(), "{stamp}, {scrub}");
    let (_, routes) = resources.routes.iter().find(|(name, _)| name.contains("orders")).unwrap();
    let routes = render(routes);
    let on = |route: &Value| route["typed_per_filter_config"].as_object().map(|on| on.keys().cloned().collect::<Vec<_>>());
    for route in routes["virtual_hosts"][0]["routes"].as_array().unwrap() {
        let (name, on) = (route["name"].as_str().unwrap(), on(route));
        match name {
            "shop/orders/rule[0]/match[0]" => assert_eq!(on, Some(vec![format!("{FILTER}/stamp")])),
            "shop/orders/rule[1]/match[0]" => assert_eq!((&route["direct_response"]["status"], on), (&Value::from(500), None)),
            _ => assert_eq!(on, Some(vec![format!("{FILTER}/scrub")]), "{name}"),
        }
    }
    for port in [9000, 9001] {
        let (cluster, endpoints) = (
            format!("ext-proc|{port}|scrub.tools.svc.cluster.local"),
            format!("inbound-vip|{port}|http|scrub.tools.svc.cluster.local"),
        );
        assert!(names(&resources.clusters).contains(&cluster.as_str()), "{cluster}");
        assert!(names(&resources.endpoints).contains(&endpoints.as_str()), "{endpoints}");
    }
}

#[test]
fn what_a_processor_answers_takes_no_place_among_what_is_let_in() {
    let more = r#"
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: orders, namespace: shop}
spec: {targetRefs: [{kind: Service, name: orders}], admission: {}}
"#;
    let resources = of_waypoint(&(input("processors") + more));
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = chains.iter().find(|chain| chain["name"] == "inbound-vip|80|http|orders.shop.svc.cluster.local").unwrap();
    let filters = chain["filters"][0]["typed_config"]["http_filters"].as_array().unwrap();
    let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap().rsplit('.').next().unwrap()).collect();
    let last = ["ext_proc/scrub", "ext_proc/stamp", "health_check", "adaptive_concurrency", "stateful_session", "router"];
    assert!(names.ends_with(&last), "{names:?}");
}

#[test]
fn routes_of_others_do_not_lift_what_a_service_has_its_requests_processed_by() {
    let more = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: callers}
spec:
  parentRefs: [{group: "", kind: Service, name: orders, namespace: shop, port: 80}]
  rules: [{backendRefs: [{name: orders, namespace: shop, port: 80}]}]
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: own, namespace: callers}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: own}], fault: {abort: {status: 503}}}
"#;
    let resources = of_waypoint(&(input("processors") + more));
    let (_, routes) = resources.routes.iter().find(|(name, _)| name.contains("orders")).unwrap();
    let routes = render(routes);
    let all = routes["virtual_hosts"][0]["routes"].as_array().unwrap();
    let own = all.iter().find(|route| route["name"] == "callers/own/rule[0]/match[0]").unwrap();
    let on: Vec<&String> = own["typed_per_filter_config"].as_object().unwrap().keys().collect();
    assert_eq!(on, ["envoy.filters.http.ext_proc/scrub", "envoy.filters.http.fault"]);
}

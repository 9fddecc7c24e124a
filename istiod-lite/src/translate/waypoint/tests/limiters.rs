//! Servers of limits: where there is a filter for one, and how it is reached.

use serde_json::Value;

use super::{input, of_waypoint, render};

/// The filters of requests to a service of the input about RequestPolicies.
fn filters(of: &str) -> Vec<Value> {
    let resources = of_waypoint(&input("requests"));
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let name = format!("inbound-vip|80|http|{of}.shop.svc.cluster.local");
    let chain = listener["filter_chains"].as_array().unwrap().iter().find(|chain| chain["name"] == name).unwrap();
    chain["filters"][0]["typed_config"]["http_filters"].as_array().unwrap().clone()
}

fn names(filters: &[Value]) -> Vec<&str> {
    filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

#[test]
fn servers_of_limits_are_asked_last_and_only_where_a_route_names_them() {
    let billing = filters("billing");
    let expected = ["cors", "fault", "local_ratelimit", "ratelimit.open", "ratelimit.strict", "stateful_session", "router"];
    assert_eq!(names(&billing), expected.map(|name| format!("envoy.filters.http.{name}")));
    assert!(names(&filters("plain")).contains(&"envoy.filters.http.ratelimit.open"));
    assert!(!names(&filters("plain")).contains(&"envoy.filters.http.ratelimit.strict"));
    let free = filters("free");
    assert!(!names(&free).iter().any(|name| name.contains(".ratelimit.")), "nobody can be asked: {:?}", names(&free));
    let (open, strict) = (&billing[3]["typed_config"], &billing[4]["typed_config"]);
    assert_eq!((&open["failure_mode_deny"], &strict["failure_mode_deny"]), (&Value::Null, &Value::from(true)));
    assert_eq!((&open["timeout"], &strict["timeout"]), (&Value::from("0.020s"), &Value::from("0.500s")));
    let envoy = &strict["rate_limit_service"]["grpc_service"]["envoy_grpc"];
    assert_eq!(envoy["cluster_name"], "rate-limit|8082|grpc|limits.tools.svc.cluster.local");
    assert_eq!(envoy["authority"], "limits.tools.svc.cluster.local");
    let resources = of_waypoint(&input("requests"));
    for (cluster, endpoints) in [
        ("rate-limit|8081|grpc|limits.tools.svc.cluster.local", "inbound-vip|8081|http|limits.tools.svc.cluster.local"),
        ("rate-limit|8082|grpc|limits.tools.svc.cluster.local", "inbound-vip|8082|http|limits.tools.svc.cluster.local"),
    ] {
        assert!(resources.clusters.iter().any(|(name, _)| name == cluster), "{cluster}");
        assert!(resources.endpoints.iter().any(|(name, _)| name == endpoints), "{endpoints}");
    }
}

#[test]
fn who_writes_routes_for_his_own_clients_is_counted_as_the_service_says() {
    let resources = of_waypoint(&input("requests"));
    let (_, routes) = resources.routes.iter().find(|(name, _)| name.contains("billing")).unwrap();
    let routes = render(routes);
    let all = routes["virtual_hosts"][0]["routes"].as_array().unwrap();
    let of = |name: &str| all.iter().find(|route| route["name"].as_str().is_some_and(|of| of.starts_with(name))).unwrap();
    let foreign = of("other/theirs/");
    assert_eq!(foreign["metadata"]["filter_metadata"]["ambit.dev"]["global"], "shop/all");
    assert_eq!(foreign["typed_per_filter_config"]["envoy.filters.http.ratelimit.open"]["domain"], "all");
    let each = &of("shop/orders/rule[1]")["typed_per_filter_config"]["envoy.filters.http.ratelimit.strict"];
    assert_eq!((&each["domain"], each["rate_limits"].as_array().map(Vec::len)), (&Value::from("shop"), Some(2)));
}

#[test]
fn a_server_that_is_not_there_lets_pass_only_where_requests_pass_without_an_answer() {
    let resources = of_waypoint(&input("requests").replace("metadata: {name: limits,", "metadata: {name: gone,"));
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener).to_string();
    assert!(!listener.contains("ratelimit.open") && listener.contains("ratelimit.strict"), "{listener}");
    assert!(!resources.clusters.iter().any(|(name, _)| name.starts_with("rate-limit|")));
    let (_, routes) = resources.routes.iter().find(|(name, _)| name.contains("billing")).unwrap();
    let routes = render(routes).to_string();
    assert!(!routes.contains("ratelimit.open") && routes.contains("ratelimit.strict"), "{routes}");
}

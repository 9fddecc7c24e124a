//! What RequestPolicies say of the size of requests.

use serde_json::{Value, json};

use super::{Resources, input, of_waypoint, render};

const FILTER: &str = "envoy.filters.http.buffer";
const POLICIES: &str = r#"
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: small, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders, sectionName: rest}]
  limits: {maxBodyBytes: 1000, maxHeaderBytes: 2000}
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: light, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: plain}]
  limits: {maxHeaderBytes: 3000}
"#;

/// The filters of a service port, and its routes.
fn of(resources: &Resources, host: &str) -> (Vec<Value>, Vec<Value>) {
    let name = format!("inbound-vip|80|http|{host}.shop.svc.cluster.local");
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = chains.iter().find(|chain| chain["name"] == name.as_str()).unwrap();
    let filters = chain["filters"][0]["typed_config"]["http_filters"].as_array().unwrap().clone();
    let (_, routes) = resources.routes.iter().find(|(routes, _)| *routes == name).unwrap();
    let routes = render(routes)["virtual_hosts"][0]["routes"].as_array().unwrap().clone();
    (filters, routes)
}

#[test]
fn a_limit_of_bodies_is_a_filter_that_is_off_and_a_route_that_has_it_on_and_one_of_heads_is_a_word_of_ours() {
    let resources = of_waypoint(&(input("processors") + POLICIES));
    let (filters, routes) = of(&resources, "orders");
    let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap().rsplit('.').next().unwrap()).collect();
    let at = names.iter().position(|name| *name == "buffer").unwrap();
    assert_eq!((names[at - 1], names[at + 1]), ("local_ratelimit", "ext_proc/stamp"), "{names:?}");
    assert!(filters[at]["disabled"] == true && filters[at]["is_optional"].is_null(), "{}", filters[at]);
    for route in routes {
        let said = &route["typed_per_filter_config"][FILTER];
        let (own, by) = (&route["metadata"]["filter_metadata"]["io.ambit"], &route["metadata"]["filter_metadata"]["ambit.dev"]);
        if route["name"] != "shop/orders/rule[2]/match[0]" {
            assert!(said.is_null() && own.is_null(), "{route}");
            continue;
        }
        assert_eq!(said["buffer"]["max_request_bytes"], json!(1000), "{route}");
        assert_eq!(own["max_header_bytes"].as_f64(), Some(2000.0), "{route}");
        assert_eq!(by["size"], "shop/small");
    }
    // Where no route says anything of bodies there is no filter that would have to be taken.
    let (filters, routes) = of(&resources, "plain");
    assert!(!filters.iter().any(|filter| filter["name"] == FILTER));
    assert_eq!(routes[0]["metadata"]["filter_metadata"]["io.ambit"]["max_header_bytes"].as_f64(), Some(3000.0));
    assert!(routes[0]["typed_per_filter_config"].is_null());
}

#[test]
fn routes_of_others_do_not_have_a_service_take_larger_requests() {
    let more = r#"
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: plain, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: plain}], limits: {maxBodyBytes: 10}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: callers}
spec:
  parentRefs: [{group: "", kind: Service, name: plain, namespace: shop, port: 80}]
  rules: [{backendRefs: [{name: plain, namespace: shop, port: 80}]}]
---
apiVersion: ambit.dev/v1alpha1
kind: RequestPolicy
metadata: {name: own, namespace: callers}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: own}], limits: {maxBodyBytes: 100000}}
"#;
    let (_, routes) = of(&of_waypoint(&(input("processors") + more)), "plain");
    let own = routes.iter().find(|route| route["name"] == "callers/own/rule[0]/match[0]").unwrap();
    assert_eq!(own["typed_per_filter_config"][FILTER]["buffer"]["max_request_bytes"], json!(10));
    assert_eq!(own["metadata"]["filter_metadata"]["ambit.dev"]["size"], "shop/plain");
}

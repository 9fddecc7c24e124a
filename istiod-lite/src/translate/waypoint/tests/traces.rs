//! Spans of requests, as Telemetries ask for them.

use serde_json::Value;

use super::{Any, index, input, of_waypoint, render, translate};
use crate::source::NamespacedName;

/// The connection manager of a Service, or of all pods.
fn manager(listeners: &[(String, Any)], chain: &str) -> Value {
    let (_, listener) = listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = chains.iter().find(|found| found["name"] == chain).unwrap_or_else(|| panic!("no {chain} in {chains:?}"));
    chain["filters"][0]["typed_config"].clone()
}

fn of_service(name: &str) -> String {
    format!("inbound-vip|80|http|{name}.shop.svc.cluster.local")
}

#[test]
fn the_closest_telemetry_says_where_spans_go_and_what_it_leaves_out_is_inherited() {
    let resources = of_waypoint(&input("traces"));
    let manager = |name: &str| manager(&resources.listeners, &of_service(name));
    let orders = manager("orders");
    assert_eq!(orders["generate_request_id"], true);
    let tracing = &orders["tracing"];
    assert_eq!((&tracing["random_sampling"]["value"], &tracing["max_path_tag_length"]), (&12.5.into(), &100.into()));
    assert_eq!(tracing["operation"], "orders.shop.svc.cluster.local:80/*");
    let tags = &tracing["custom_tags"];
    assert_eq!((&tags[0]["tag"], &tags[0]["request_header"]["name"]), (&"tenant".into(), &"x-tenant".into()));
    assert_eq!((&tags[1]["tag"], &tags[1]["literal"]["value"]), (&"zone".into(), &"west".into()));
    let config = &tracing["provider"]["typed_config"];
    assert_eq!(config["grpc_service"]["envoy_grpc"]["cluster_name"], "tracing|4317|collector.obs.svc.cluster.local");
    assert_eq!(config["grpc_service"]["envoy_grpc"]["authority"], "collector.obs.svc.cluster.local");
    assert_eq!(config["service_name"], "waypoint.shop");
    let by_http = &manager("by-http")["tracing"];
    assert_eq!((&by_http["random_sampling"]["value"], &by_http["custom_tags"][0]["tag"]), (&100.0.into(), &"tenant".into()));
    let uri = &by_http["provider"]["typed_config"]["http_service"]["http_uri"];
    assert_eq!(uri["uri"], "http://collector.obs.svc.cluster.local:4318/v1/traces");
    let b3 = &manager("b3")["tracing"]["provider"];
    assert_eq!(
        (&b3["name"], &b3["typed_config"]["collector_endpoint"]),
        (&"envoy.tracers.zipkin".into(), &"/api/v2/spans".into())
    );
    assert_eq!(b3["typed_config"]["trace_context_option"], "USE_B3_WITH_W3C_PROPAGATION");
    let silent = manager("silent");
    assert_eq!((silent.get("tracing"), &silent["generate_request_id"]), (None, &false.into()));
    for port in [4317, 4318, 9411] {
        let (cluster, endpoints) = (
            format!("tracing|{port}|collector.obs.svc.cluster.local"),
            format!("inbound-vip|{port}|http|collector.obs.svc.cluster.local"),
        );
        assert!(resources.clusters.iter().any(|(name, _)| *name == cluster), "{cluster}");
        assert!(resources.endpoints.iter().any(|(name, _)| *name == endpoints), "{endpoints}");
    }
}

#[test]
fn a_telemetry_of_somebody_else_or_whose_provider_is_nowhere_traces_nothing() {
    let nowhere = input("traces").replace("name: istio, namespace: istio-system", "name: other, namespace: istio-system");
    let selected = input("traces").replace(
        "  tracing:\n  - providers: [{name: otel}]",
        "  selector: {matchLabels: {app: a}}\n  tracing:\n  - providers: [{name: otel}]",
    );
    let of_others =
        input("traces").replace("metadata: {name: mesh, namespace: istio-system}", "metadata: {name: mesh, namespace: obs}");
    let twice = input("traces").replace("    randomSamplingPercentage: 12.5\n", "    randomSamplingPercentage: 1200\n");
    for yaml in [nowhere, selected, of_others, twice] {
        let index = index(&yaml);
        let resources = translate(&index, &NamespacedName::new("shop", "waypoint")).unwrap();
        let orders = manager(&resources.listeners, &of_service("orders"));
        assert_eq!((orders.get("tracing"), &orders["generate_request_id"]), (None, &false.into()));
    }
}

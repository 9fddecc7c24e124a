//! Access logs that Telemetries ask for.

use serde_json::Value;

use super::{input, of_waypoint, render};

/// The access logs of a chain.
fn logs(yaml: &str, chain: &str) -> Vec<Value> {
    let resources = of_waypoint(yaml);
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chain = listener["filter_chains"].as_array().unwrap().iter().find(|of| of["name"] == chain).unwrap();
    let last = chain["filters"].as_array().unwrap().last().unwrap();
    last["typed_config"]["access_log"].as_array().unwrap().clone()
}

fn chain(port: u16, layer: &str, service: &str) -> String {
    format!("inbound-vip|{port}|{layer}|{service}.shop.svc.cluster.local")
}

/// What is another of the metrics of a chain.
fn metrics(yaml: &str, chain: &str) -> String {
    let resources = of_waypoint(yaml);
    let (_, listener) = resources.listeners.iter().find(|(name, _)| name == "main_internal").unwrap();
    let listener = render(listener);
    let chain = listener["filter_chains"].as_array().unwrap().iter().find(|of| of["name"] == chain).unwrap();
    chain["metadata"]["filter_metadata"]["io.ambit"]["metrics"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn each_telemetry_adds_to_what_is_farther_what_is_another_of_metrics() {
    let yaml = input("logs");
    let tcp =
        r#""istio_tcp_sent_bytes_total":{"disabled":false,"labels":{"source_principal":"remove","stage":{"text":"live"}}}}"#;
    let of_quiet = metrics(&yaml, &chain(80, "http", "quiet"));
    assert_eq!(of_quiet, format!(r#"{{"istio_request_duration_milliseconds":{{"disabled":true,"labels":{{}}}},{tcp}"#));
    assert_eq!(metrics(&yaml, &chain(5432, "tcp", "store")), of_quiet, "connections have them too");
    let duration =
        r#"{"istio_request_duration_milliseconds":{"disabled":false,"labels":{"method":{"attribute":"request.method"}}},"#;
    assert_eq!(metrics(&yaml, &chain(80, "http", "orders")), format!("{duration}{tcp}"), "of the service it holds again");
    let (before, _) =
        yaml.split_once("---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: counted").unwrap();
    assert_eq!(metrics(before, &chain(80, "http", "orders")), "", "nobody asks for it");
}

/// The text of the only log.
fn only_text(logs: &[Value]) -> (&str, &str) {
    assert_eq!(logs.len(), 1, "{logs:?}");
    let config = &logs[0]["typed_config"];
    let text = config["log_format"]["text_format_source"]["inline_string"].as_str().unwrap();
    (config["path"].as_str().unwrap(), text)
}

#[test]
fn the_closest_telemetry_says_what_is_logged() {
    let yaml = input("logs");
    let of_orders = logs(&yaml, &chain(80, "http", "orders"));
    let names: Vec<&str> = of_orders.iter().map(|log| log["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["envoy.access_loggers.file", "envoy.access_loggers.open_telemetry"]);
    let format = &of_orders[0]["typed_config"]["log_format"];
    assert_eq!(format["json_format"]["took"]["all"], "%DURATION%");
    assert_eq!(format["omit_empty_values"], true);
    let collector = &of_orders[1]["typed_config"];
    assert_eq!(collector["grpc_service"]["envoy_grpc"]["cluster_name"], "access-log|4317|collector.tools.svc.cluster.local");
    assert_eq!(collector["attributes"]["values"].as_array().unwrap().len(), 2);
    let filter = &of_orders[1]["filter"]["status_code_filter"]["comparison"];
    assert_eq!((&filter["op"], &filter["value"]["default_value"]), (&Value::from("GE"), &Value::from(400)));
    let text = ("/var/log/requests", "%REQ(:METHOD)% %RESPONSE_CODE%\n");
    for (port, layer) in [(80, "http"), (5432, "tcp")] {
        assert_eq!(only_text(&logs(&yaml, &chain(port, layer, "store"))), text, "{layer}");
    }
    assert_eq!(only_text(&logs(&yaml, &chain(80, "http", "quiet"))).0, "/dev/null");
    let names = |all: &[(String, super::Any)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let resources = of_waypoint(&yaml);
    assert!(names(&resources.clusters).contains(&"access-log|4317|collector.tools.svc.cluster.local".to_owned()));
    assert!(names(&resources.endpoints).contains(&"inbound-vip|4317|http|collector.tools.svc.cluster.local".to_owned()));
}

#[test]
fn a_log_that_nobody_can_write_leaves_the_mesh_s_own_line() {
    let own = "%START_TIME% access direction=inbound ";
    for entry in ["providers: [{name: gone}]", "filter: {expression: has(a)}", "match: {mode: CLIENT}, providers: [{name: gone}]"]
    {
        let yaml = input("logs").replace("accessLogging: [{disabled: true}]", &format!("accessLogging: [{{{entry}}}]"));
        let of_quiet = logs(&yaml, &chain(80, "http", "quiet"));
        let (path, text) = only_text(&of_quiet);
        match entry.starts_with("match") {
            // Nothing is said of the server's proxy, and so the next one holds.
            true => assert_eq!(path, "/var/log/requests"),
            false => assert!(text.starts_with(own), "{entry}: {text}"),
        }
    }
    let built_in = input("logs").replace("accessLogging: [{disabled: true}]", "accessLogging: [{}]");
    let of_quiet = logs(&built_in, &chain(80, "http", "quiet"));
    let (path, text) = only_text(&of_quiet);
    assert!(path == "/dev/stdout" && text.starts_with("[%START_TIME%] \"%REQ(:METHOD)%"), "{path}: {text}");
}

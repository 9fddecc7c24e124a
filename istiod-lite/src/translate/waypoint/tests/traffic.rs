//! What TrafficPolicies and DestinationRules make of clusters.

use serde_json::{Map, Value, json};

use super::{of_waypoint, render};

const AROUND: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}, {name: http-two, port: 81}, {name: tcp, port: 82}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec:
  hosts: [out.example.com]
  addresses: [240.0.0.1]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.7}]
"#;

const FIRST: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const SECOND: &str = "inbound-vip|81|http|a.shop.svc.cluster.local";
const BYTES: &str = "inbound-vip|82|tcp|a.shop.svc.cluster.local";
const OUT: &str = "inbound-vip|80|http|shop/out.example.com";

/// A TrafficPolicy of namespace `shop`, made in this second.
fn policy(name: &str, second: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\nspec: {spec}\n"
    )
}

/// A DestinationRule of namespace `shop`.
fn rule(name: &str, host: &str, traffic: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{host: {host}, trafficPolicy: {traffic}}}\n"
    )
}

/// What a cluster has of all that can be asked for, with these objects besides.
fn cluster(objects: &str, name: &str) -> Value {
    let resources = of_waypoint(&format!("{AROUND}{objects}"));
    let (_, cluster) = resources.clusters.iter().find(|(known, _)| known == name).unwrap();
    let Value::Object(fields) = render(cluster) else { panic!("{name} is no object") };
    let asked = ["circuit_breakers", "common_lb_config", "connect_timeout", "lb_policy", "outlier_detection"];
    Value::Object(fields.into_iter().filter(|(field, _)| asked.contains(&field.as_str())).collect::<Map<_, _>>())
}

/// How many requests there may be of each of two ports.
fn requests(objects: &str) -> [Value; 2] {
    [FIRST, SECOND].map(|name| cluster(objects, name)["circuit_breakers"]["thresholds"][0]["max_requests"].clone())
}

/// A cluster of which nobody asks anything, with these fields besides or instead.
fn with(fields: &Value) -> Value {
    let mut whole = json!({
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX,
            "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
        }]},
    });
    for (field, value) in fields.as_object().unwrap() {
        whole[field] = value.clone();
    }
    whole
}

const TO_A: &str = "targetRefs: [{group: '', kind: Service, name: a}]";

#[test]
fn a_policy_is_what_it_says_and_changes_nothing_of_what_it_does_not_speak_of() {
    assert_eq!(cluster("", FIRST), with(&json!({})));
    let everything = format!(
        "{{{TO_A}, connectTimeout: 2s, limits: {{connections: 100, pendingRequests: 50, requests: 200}}, \
         retryBudget: {{percent: 10, minConcurrent: 5}}, loadBalancing: {{policy: LeastRequest}}, \
         outlierDetection: {{consecutiveErrors: 3, consecutiveGatewayErrors: 2, interval: 5s, baseEjectionTime: 1m, \
         maxEjectionPercent: 40, successRate: {{minimumHosts: 3, requestVolume: 10, stdevFactor: 1500}}}}}}"
    );
    let limits = json!({"max_connections": 100, "max_pending_requests": 50, "max_requests": 200});
    let mut of_requests = limits.clone();
    of_requests["retry_budget"] = json!({"budget_percent": {"value": 10.0}, "min_retry_concurrency": 5});
    let outliers = json!({
        "consecutive_5xx": 3, "enforcing_consecutive_5xx": 100,
        "consecutive_gateway_failure": 2, "enforcing_consecutive_gateway_failure": 100,
        "interval": "5s", "base_ejection_time": "60s", "max_ejection_percent": 40,
        "enforcing_success_rate": 100, "success_rate_minimum_hosts": 3, "success_rate_request_volume": 10,
        "success_rate_stdev_factor": 1500,
    });
    for (name, thresholds) in [(FIRST, of_requests), (BYTES, limits)] {
        let expected = json!({
            "connect_timeout": "2s", "lb_policy": "LEAST_REQUEST", "outlier_detection": outliers,
            "circuit_breakers": {"thresholds": [thresholds]},
        });
        assert_eq!(cluster(&policy("p", 0, &everything), name), expected, "{name}");
    }
    // What is safe where nothing is said: of two endpoints one may be ejected, the only one never.
    let detection = json!({"outlier_detection": {
        "consecutive_5xx": 5, "enforcing_consecutive_5xx": 100, "enforcing_consecutive_gateway_failure": 0,
        "max_ejection_percent": 50, "enforcing_success_rate": 0,
    }});
    assert_eq!(cluster(&policy("p", 0, &format!("{{{TO_A}, outlierDetection: {{}}}}")), FIRST), with(&detection));
    let random = policy("p", 0, &format!("{{{TO_A}, loadBalancing: {{policy: Random}}}}"));
    assert_eq!(cluster(&random, FIRST), with(&json!({"lb_policy": "RANDOM"})));
    let retries = cluster(&policy("p", 0, &format!("{{{TO_A}, limits: {{retries: 0}}}}")), FIRST);
    let thresholds = &retries["circuit_breakers"]["thresholds"][0];
    assert_eq!((&thresholds["max_retries"], &thresholds["retry_budget"]), (&json!(0), &Value::Null), "{thresholds}");
}

#[test]
fn what_is_said_of_a_port_comes_first_then_the_oldest_then_a_destination_rule() {
    let of = |name: &str, second: u32, section: &str, requests: u32| {
        let target = format!("targetRefs: [{{kind: Service, name: a{section}}}]");
        policy(name, second, &format!("{{{target}, limits: {{requests: {requests}}}}}"))
    };
    let section = ", sectionName: http";
    let older = of("z", 1, "", 1);
    let newer = of("a", 2, "", 2);
    let of_port = of("b", 3, section, 3);
    let rule = rule("r", "a", "{connectionPool: {http: {http2MaxRequests: 4, http1MaxPendingRequests: 5}}}");
    let unlimited = json!(u32::MAX);
    for (objects, expected) in [
        (format!("{older}{newer}"), [json!(1), json!(1)]),
        (format!("{newer}{older}{of_port}{rule}"), [json!(3), json!(1)]),
        (format!("{of_port}{rule}"), [json!(3), json!(4)]),
        (format!("{of_port}{}", of("c", 0, section, 9)), [json!(9), unlimited.clone()]),
        // Of one age the first by name.
        (format!("{}{}", of("b", 1, "", 8), of("a", 1, "", 7)), [json!(7), json!(7)]),
        (of("other", 0, ", sectionName: gone", 9), [unlimited.clone(), unlimited.clone()]),
    ] {
        assert_eq!(requests(&objects), expected, "{objects}");
    }
    // One holds as a whole: what it does not say is not the other's.
    let both = cluster(&format!("{of_port}{rule}"), FIRST);
    assert_eq!(both["circuit_breakers"]["thresholds"][0]["max_pending_requests"], unlimited);
}

#[test]
fn a_destination_rule_is_carried_out_as_by_istio() {
    let pool = "connectionPool: {tcp: {maxConnections: 10, connectTimeout: 1.5s}, http: {http1MaxPendingRequests: 5, http2MaxRequests: 20, maxRetries: 4}}";
    let found = cluster(&rule("r", "a", &format!("{{{pool}, loadBalancer: {{simple: LEAST_CONN}}}}")), FIRST);
    let thresholds = json!([{"max_connections": 10, "max_pending_requests": 5, "max_requests": 20, "max_retries": 4}]);
    let expected = json!({
        "connect_timeout": "1.500s", "lb_policy": "LEAST_REQUEST", "circuit_breakers": {"thresholds": thresholds},
    });
    assert_eq!(found, expected);
    let nothing = rule("r", "a", "{connectionPool: {tcp: {maxConnections: 0, connectTimeout: soon}, http: {maxRetries: -1}}}");
    assert_eq!(cluster(&nothing, FIRST), with(&json!({})), "what is 0, or cannot be, is as if it were not said");
    let outliers = |said: &str| cluster(&rule("r", "a", &format!("{{outlierDetection: {{{said}}}}}")), FIRST);
    let panic = |percent: f64| json!({"healthy_panic_threshold": {"value": percent}});
    let by = |detection: Value, common: &Value| with(&json!({"common_lb_config": common, "outlier_detection": detection}));
    // Of a message a number that is 0 is not shown: never.
    assert_eq!(outliers(""), by(json!({"enforcing_success_rate": 0}), &json!({"healthy_panic_threshold": {}})));
    let found = outliers(
        "consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, interval: 5s, baseEjectionTime: 1m, maxEjectionPercent: 40, minHealthPercent: 30",
    );
    let detection = json!({
        "enforcing_consecutive_5xx": 0, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100,
        "interval": "5s", "base_ejection_time": "60s", "max_ejection_percent": 40, "enforcing_success_rate": 0,
    });
    assert_eq!(found, by(detection, &panic(30.0)));
    let found = outliers("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3, minHealthPercent: 30");
    let detection = json!({
        "split_external_local_origin_errors": true, "enforcing_local_origin_success_rate": 0, "enforcing_success_rate": 0,
        "consecutive_local_origin_failure": 3, "enforcing_consecutive_local_origin_failure": 100,
    });
    assert_eq!(found, by(detection, &panic(30.0)));
    let budget = cluster(&rule("r", "a", "{retryBudget: {percent: 12.5}}"), FIRST);
    let budget = &budget["circuit_breakers"]["thresholds"][0]["retry_budget"];
    assert_eq!(*budget, json!({"budget_percent": {"value": 12.5}, "min_retry_concurrency": 3}));
}

#[test]
fn a_destination_rule_is_its_hosts_and_what_it_says_of_a_port_inherits_nothing() {
    let limit = "connectionPool: {http: {http2MaxRequests: 4}}";
    let settings = format!("{{{limit}, portLevelSettings: [{{port: {{number: 81}}, loadBalancer: {{simple: RANDOM}}}}]}}");
    let unlimited = json!(u32::MAX);
    assert_eq!(requests(&rule("r", "a", &settings)), [json!(4), unlimited.clone()]);
    assert_eq!(cluster(&rule("r", "a", &settings), SECOND)["lb_policy"], "RANDOM");
    let limit = format!("{{{limit}}}");
    assert_eq!(requests(&rule("r", "A.shop.svc.cluster.local", &limit)), [json!(4), json!(4)]);
    for host in ["a.other.svc.cluster.local", "a.shop", "'*'", "'*.shop.svc.cluster.local'"] {
        assert_eq!(requests(&rule("r", host, &limit)), [unlimited.clone(), unlimited.clone()], "{host}");
    }
    let elsewhere = rule("r", "a.shop.svc.cluster.local", &limit).replace("namespace: shop", "namespace: other");
    assert_eq!(requests(&elsewhere), [unlimited.clone(), unlimited]);
    let out = cluster(&rule("r", "out.example.com", &limit), OUT);
    assert_eq!(out["circuit_breakers"]["thresholds"][0]["max_requests"], 4);
}

#[test]
fn where_a_destination_rule_asks_for_tls_requests_do_not_go_on_in_clear() {
    let leads = |mode: &str, more: &str, route: &str| {
        let objects = format!("{}{more}", rule("r", "a", &format!("{{tls: {{mode: {mode}}}}}")));
        let resources = of_waypoint(&format!("{AROUND}{objects}"));
        let (_, routes) = resources.routes.iter().find(|(name, _)| name == route).unwrap();
        render(routes).to_string()
    };
    for mode in ["SIMPLE", "MUTUAL"] {
        assert!(leads(mode, "", FIRST).contains("invalid-backend"), "{mode}");
        assert!(!leads(mode, "", OUT).contains("invalid-backend"), "{mode}");
        let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
                     spec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}\n";
        assert!(leads(mode, route, FIRST).contains("invalid-backend"), "{mode}");
        // A policy of ours says nothing of TLS, so that it does not take that back.
        let policy = policy("p", 0, &format!("{{{TO_A}, limits: {{requests: 5}}}}"));
        assert!(leads(mode, &policy, FIRST).contains("invalid-backend"), "{mode}");
    }
    for mode in ["DISABLE", "ISTIO_MUTUAL"] {
        assert!(!leads(mode, "", FIRST).contains("invalid-backend"), "{mode}");
    }
}

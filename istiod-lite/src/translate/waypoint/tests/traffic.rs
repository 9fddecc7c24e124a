//! What TrafficPolicies and DestinationRules make of clusters.

use serde_json::{Map, Value, json};

use super::{of_waypoint, render};

const AROUND: &str = with_waypoint!(
    r#"
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
"#
);

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
    let asked = [
        "circuit_breakers",
        "common_lb_config",
        "connect_timeout",
        "health_checks",
        "ignore_health_on_host_removal",
        "lb_policy",
        "least_request_lb_config",
        "outlier_detection",
        "round_robin_lb_config",
    ];
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
            "retry_budget": {"budget_percent": {"value": 20.0}},
        }]},
    });
    for (field, value) in fields.as_object().unwrap() {
        whole[field] = value.clone();
    }
    whole
}

/// What the filter of a port lets in at once, behind the one that knows probes; nothing where there are no such filters.
fn admission(objects: &str, name: &str) -> Option<Value> {
    let resources = of_waypoint(&format!("{AROUND}{objects}"));
    let (_, inner) = resources.listeners.iter().find(|(known, _)| known == "main_internal").unwrap();
    let inner = render(inner);
    let chain = inner["filter_chains"].as_array().unwrap().iter().find(|chain| chain["name"] == name).unwrap();
    let filters = chain["filters"][0]["typed_config"]["http_filters"].as_array().unwrap();
    let names: Vec<_> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
    let at = names.iter().position(|name| *name == "envoy.filters.http.adaptive_concurrency")?;
    let around = (names[at - 2], names[at - 1], names[at + 1]);
    let expected =
        ("envoy.filters.http.local_ratelimit", "envoy.filters.http.health_check", "envoy.filters.http.stateful_session");
    assert_eq!(around, expected);
    Some(filters[at]["typed_config"].clone())
}

#[test]
fn requests_are_let_in_by_what_they_take_where_a_policy_asks_for_it() {
    assert_eq!(admission("", FIRST), None);
    let everything = "{minConcurrency: 5, maxConcurrency: 50, normalLatency: 20ms, statusOnReject: 429}";
    let target = "targetRefs: [{kind: Service, name: a, sectionName: http}]";
    let one = policy("p", 0, &format!("{{{target}, admission: {everything}}}"));
    let made = admission(&one, FIRST).unwrap();
    assert_eq!(made["concurrency_limit_exceeded_status"], json!({"code": "TooManyRequests"}));
    let expected = json!({
        "concurrency_limit_params": {"max_concurrency_limit": 50, "concurrency_update_interval": "0.500s"},
        "min_rtt_calc_params": {"fixed_value": "0.020s", "min_concurrency": 5},
    });
    assert_eq!(made["gradient_controller_config"], expected);
    assert_eq!(admission(&one, SECOND), None, "another port");
    let nothing_said = admission(&policy("p", 0, &format!("{{{TO_A}, admission: {{}}}}")), SECOND).unwrap();
    let expected = json!({
        "concurrency_limit_params": {"concurrency_update_interval": "0.500s"},
        "min_rtt_calc_params": {"interval": "300s"},
    });
    assert_eq!(nothing_said["gradient_controller_config"], expected);
}

const TO_A: &str = "targetRefs: [{group: '', kind: Service, name: a}]";

#[test]
fn a_policy_is_what_it_says_and_changes_nothing_of_what_it_does_not_speak_of() {
    assert_eq!(cluster("", FIRST), with(&json!({})));
    let everything = format!(
        "{{{TO_A}, connectTimeout: 2s, limits: {{connections: 100, pendingRequests: 50, requests: 200}}, \
         retryBudget: {{percent: 10, minConcurrent: 5}}, loadBalancing: {{policy: LeastRequest}}, \
         outlierDetection: {{consecutiveErrors: 3, consecutiveGatewayErrors: 2, interval: 5s, baseEjectionTime: 1m, \
         maxEjectionPercent: 40, successRate: {{minimumHosts: 3, requestVolume: 10, stdevFactor: 1500}}, \
         failurePercentage: {{threshold: 90, minimumHosts: 2, requestVolume: 20}}}}}}"
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
        "enforcing_failure_percentage": 100, "failure_percentage_threshold": 90, "failure_percentage_minimum_hosts": 2,
        "failure_percentage_request_volume": 20,
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
    let budget = |said: &str| {
        let found = cluster(&rule("r", "a", &format!("{{retryBudget: {said}}}")), FIRST);
        found["circuit_breakers"]["thresholds"][0]["retry_budget"].clone()
    };
    assert_eq!(budget("{percent: 12.5}"), json!({"budget_percent": {"value": 12.5}}));
    // What is as in Envoy is said all the same if it is asked for: ours goes by it over time as well.
    assert_eq!(budget("{minRetryConcurrency: 3}"), json!({"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3}));
}

#[test]
fn new_endpoints_are_given_their_share_by_and_by_where_a_policy_or_a_rule_asks_for_it() {
    let by_policy = |said: &str| policy("p", 0, &format!("{{{TO_A}, loadBalancing: {{{said}}}}}"));
    let by_rule = |said: &str| rule("r", "a", &format!("{{loadBalancer: {{{said}}}}}"));
    let round = |slow: Value| with(&json!({"round_robin_lb_config": {"slow_start_config": slow}}));
    let least =
        |slow: Value| with(&json!({"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"slow_start_config": slow}}));
    let whole = |window: &str, aggression: f64, percent: f64| {
        json!({
            "slow_start_window": window,
            "aggression": {"default_value": aggression, "runtime_key": "ambit.slow_start.aggression"},
            "min_weight_percent": {"value": percent},
        })
    };
    for (objects, expected) in [
        (by_policy("slowStart: {}"), round(json!({"slow_start_window": "30s"}))),
        (
            by_policy("policy: LeastRequest, slowStart: {window: 1m, aggression: 1.5, minWeightPercent: 5}"),
            least(whole("60s", 1.5, 5.0)),
        ),
        (by_rule("warmup: {duration: 45s, minimumPercent: 2.5, aggression: 3}"), round(whole("45s", 3.0, 2.5))),
        (by_rule("simple: LEAST_REQUEST, warmupDurationSecs: 45s"), least(json!({"slow_start_window": "45s"}))),
        (by_rule("warmup: {duration: 9s, aggression: 0.5}, warmupDurationSecs: 45s"), round(json!({"slow_start_window": "9s"}))),
        (by_rule("warmup: {aggression: 2}"), with(&json!({}))),
        (by_rule("simple: RANDOM, warmup: {duration: 9s}"), with(&json!({"lb_policy": "RANDOM"}))),
    ] {
        assert_eq!(cluster(&objects, FIRST), expected, "{objects}");
    }
    // Only our own waypoint can do the same for one that was ejected, which Istio does not do.
    for (objects, asked) in
        [(by_policy("slowStart: {}"), true), (by_rule("warmup: {duration: 9s}"), false), (String::new(), false)]
    {
        let resources = of_waypoint(&format!("{AROUND}{objects}"));
        let (_, found) = resources.clusters.iter().find(|(known, _)| known == FIRST).unwrap();
        let own = render(found)["metadata"]["filter_metadata"]["io.ambit"].clone();
        assert_eq!((own["slow_start"] == "after_ejection", own["service"] == "shop/a"), (asked, true), "{own}");
    }
}

#[test]
fn who_was_ejected_is_on_probation_in_our_own_waypoint_where_a_policy_asks_for_outlier_detection() {
    let by_policy = |said: &str| policy("p", 0, &format!("{{{TO_A}, {said}}}"));
    for (objects, asked) in [
        (by_policy("outlierDetection: {}"), true),
        (by_policy("outlierDetection: {}, loadBalancing: {slowStart: {minWeightPercent: 100}}"), true),
        (by_policy("connectTimeout: 2s"), false),
        (rule("r", "a", "{outlierDetection: {}}"), false),
        (String::new(), false),
    ] {
        let resources = of_waypoint(&format!("{AROUND}{objects}"));
        for name in [FIRST, BYTES] {
            let (_, found) = resources.clusters.iter().find(|(known, _)| known == name).unwrap();
            let own = render(found)["metadata"]["filter_metadata"]["io.ambit"].clone();
            assert_eq!(own["outlier_detection"] == "probation", asked, "{name}: {own}");
        }
    }
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

#[test]
fn endpoints_are_checked_as_a_policy_says_and_those_in_tunnels_by_our_waypoint_alone() {
    let check = |said: &str, name: &str| cluster(&policy("p", 0, &format!("{{{TO_A}, healthCheck: {{{said}}}}}")), name);
    let found = check("http: {path: '/healthz?a'}", FIRST);
    let mut expected = json!({
        "timeout": "2s", "interval": "10s", "no_traffic_interval": "10s", "interval_jitter_percent": 10,
        "unhealthy_threshold": 3, "healthy_threshold": 2,
        "http_health_check": {"path": "/healthz?a", "host": "a.shop.svc.cluster.local"},
    });
    assert_eq!(found["health_checks"], json!([expected]));
    assert_eq!((&found["ignore_health_on_host_removal"], &found["outlier_detection"]), (&json!(true), &Value::Null));
    let said = "http: {path: /, host: b.example, expectedStatuses: [200, 404]}, interval: 1s, timeout: 500ms, unhealthyThreshold: 1, healthyThreshold: 5";
    expected = json!({
        "timeout": "0.500s", "interval": "1s", "no_traffic_interval": "1s", "interval_jitter_percent": 10,
        "unhealthy_threshold": 1, "healthy_threshold": 5,
    });
    let statuses = json!([{"start": 200, "end": 201}, {"start": 404, "end": 405}]);
    expected["http_health_check"] = json!({"path": "/", "host": "b.example", "expected_statuses": statuses});
    assert_eq!(check(said, FIRST)["health_checks"], json!([expected]));
    let grpc = json!({"service_name": "shop.Cart", "authority": "a.shop.svc.cluster.local"});
    assert_eq!(check("grpc: {service: shop.Cart}", FIRST)["health_checks"][0]["grpc_health_check"], grpc);
    assert_eq!(check("grpc: {}", BYTES).get("health_checks"), None, "bytes are not asked by gRPC");
    assert_eq!(check("tcp: {}", BYTES)["health_checks"][0]["tcp_health_check"], json!({}));
    // What answers a check well may fail at all else.
    let both = cluster(&policy("p", 0, &format!("{{{TO_A}, healthCheck: {{tcp: {{}}}}, outlierDetection: {{}}}}")), FIRST);
    assert_eq!(both["outlier_detection"]["successful_active_health_check_uneject_host"], false);
}

#[test]
fn endpoints_in_tunnels_are_told_apart_only_where_they_are_checked() {
    let pod = |name: &str, ip: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: a}}{more}}}\n\
             spec: {{serviceAccountName: a, nodeName: node-1, containers: [{{name: c, image: i}}]}}\n\
             status: {{podIPs: [{{ip: {ip}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        )
    };
    let enrolled = ", annotations: {ambient.istio.io/redirection: enabled}";
    let pods = format!("{}{}", pod("clear", "10.244.1.5", ""), pod("tunnel", "10.244.1.6", enrolled));
    let told = |objects: &str| {
        let resources = of_waypoint(&format!("{AROUND}{pods}{objects}"));
        let (_, endpoints) = resources.endpoints.iter().find(|(known, _)| known == FIRST).unwrap();
        render(endpoints).to_string()
    };
    let mark = "disable_active_health_check";
    assert!(!told("").contains(mark));
    let checked = told(&policy("p", 0, &format!("{{{TO_A}, healthCheck: {{tcp: {{}}}}}}")));
    let tunnelled = checked.matches("connect_originate").count();
    assert!(tunnelled > 0, "{checked}");
    assert_eq!(checked.matches(mark).count(), tunnelled, "{checked}");
    assert_eq!(checked.matches(r#""health_check":"tunnel""#).count(), tunnelled, "{checked}");
    let of_another_port =
        told(&policy("p", 0, "{targetRefs: [{kind: Service, name: a, sectionName: tcp}], healthCheck: {tcp: {}}}"));
    assert!(!of_another_port.contains(mark), "{of_another_port}");
}

/// An XBackendTrafficPolicy of namespace `shop` for the Service `a`, made in this second.
fn of_backend(name: &str, second: u32, said: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\nspec: {{{TO_A}, {said}}}\n"
    )
}

#[test]
fn the_budget_of_the_gateway_api_comes_before_ours_and_leaves_all_else_to_it() {
    let budget = |objects: &str| cluster(objects, FIRST)["circuit_breakers"]["thresholds"][0].clone();
    let said = |percent: f64, least: u32| json!({"budget_percent": {"value": percent}, "min_retry_concurrency": least});
    for (constraint, expected) in [
        ("{budget: {percent: 30, interval: 10s}, minRetryRate: {count: 5, interval: 1s}}", said(30.0, 5)),
        ("{minRetryRate: {count: 15, interval: 10s}}", said(20.0, 2)),
        ("{budget: {percent: 40}}", said(40.0, 10)),
        ("{}", said(20.0, 10)),
    ] {
        assert_eq!(
            budget(&of_backend("x", 0, &format!("retryConstraint: {constraint}")))["retry_budget"],
            expected,
            "{constraint}"
        );
    }
    let theirs = of_backend("x", 0, "retryConstraint: {budget: {percent: 30}}");
    for ours in ["retryBudget: {percent: 70}, limits: {requests: 4}", "limits: {requests: 4, retries: 9}"] {
        let both = budget(&format!("{theirs}{}", policy("p", 0, &format!("{{{TO_A}, {ours}}}"))));
        assert_eq!((&both["retry_budget"], &both["max_requests"], both.get("max_retries")), (&said(30.0, 10), &json!(4), None));
    }
    let with_rule =
        budget(&format!("{theirs}{}", rule("r", "a", "{connectionPool: {http: {maxRetries: 5, http2MaxRequests: 6}}}")));
    assert_eq!((&with_rule["retry_budget"], &with_rule["max_requests"]), (&said(30.0, 10), &json!(6)));
    // The oldest holds, whole: sessions alone say nothing of retries.
    let older = of_backend("z", 0, "sessionPersistence: {}");
    let newer = of_backend("a", 1, "retryConstraint: {budget: {percent: 30}}");
    let ours = policy("p", 0, &format!("{{{TO_A}, retryBudget: {{percent: 70}}}}"));
    assert_eq!(budget(&format!("{older}{newer}{ours}"))["retry_budget"], json!({"budget_percent": {"value": 70.0}}));
}

#[test]
fn sessions_with_a_service_hold_for_what_leads_to_it_alone_unless_the_rule_says_otherwise() {
    let leads = |objects: &str| {
        let resources = of_waypoint(&format!("{AROUND}{objects}"));
        let (_, routes) = resources.routes.iter().find(|(name, _)| name == FIRST).unwrap();
        render(routes).to_string()
    };
    let theirs = of_backend("x", 0, "sessionPersistence: {sessionName: theirs, absoluteTimeout: 1m}");
    let found = leads(&theirs);
    assert!(
        found.contains(r#""name":"theirs""#) && found.contains(r#""ttl":"60s""#) && found.contains(r#""path":"/""#),
        "{found}"
    );
    let named = leads(&of_backend("x", 0, "sessionPersistence: {type: Header}"));
    assert!(named.contains("envoy.http.stateful_session.header") && named.contains("ambit.shop.x"), "{named}");
    let route = |rule: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: a}}], rules: [{{{rule}}}]}}\n"
        )
    };
    for (rule, holds) in [
        ("backendRefs: [{name: a, port: 80}]", true),
        ("backendRefs: [{name: a, port: 80}, {name: a, port: 81, weight: 0}]", true),
        ("backendRefs: [{name: a, port: 80}, {name: a, port: 81}]", false),
        ("sessionPersistence: {sessionName: own}, backendRefs: [{name: a, port: 80}]", false),
    ] {
        assert_eq!(leads(&format!("{theirs}{}", route(rule))).contains("theirs"), holds, "{rule}");
    }
}

use super::*;

const ROOT: &str = "istio-system";

fn value(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// What is found in an object of namespace `shop`: errors and warnings, as `path: reason`.
fn found(kind: Kind, spec: &str) -> (Vec<String>, Vec<String>) {
    let version = kind.versions()[0];
    let object = format!(
        "{{apiVersion: {}/{version}, kind: {}, metadata: {{name: o, namespace: shop}}, spec: {spec}}}",
        kind.group(),
        kind.as_str()
    );
    let findings = judge(kind, value(&object), ROOT);
    let texts = |found: Vec<FieldError>| found.into_iter().map(|found| format!("{}: {}", found.path, found.reason)).collect();
    (texts(findings.errors), texts(findings.warnings))
}

#[track_caller]
fn refused(kind: Kind, spec: &str, part: &str) {
    let (errors, _) = found(kind, spec);
    assert!(errors.len() == 1 && errors[0].contains(part), "{spec}: {errors:#?}");
}

#[track_caller]
fn warned(kind: Kind, spec: &str, part: &str) {
    let (errors, warnings) = found(kind, spec);
    assert!(errors.is_empty() && warnings.len() == 1 && warnings[0].contains(part), "{spec}: {errors:#?} {warnings:#?}");
}

#[track_caller]
fn good(kind: Kind, spec: &str) {
    assert_eq!(found(kind, spec), (Vec::new(), Vec::new()), "{spec}");
}

#[test]
fn policies_that_would_be_ignored_or_deny_what_nobody_meant_are_refused() {
    let kind = Kind::AuthorizationPolicy;
    good(kind, "{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}], to: [{operation: {ports: ['80']}}]}]}");
    refused(kind, "{rules: [{from: [{source: {ipBlocks: [10.0.0]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0\"");
    refused(kind, "{ruls: []}", "spec.ruls: unknown field");
    refused(kind, "{action: AUDIT}", "spec.action: AUDIT has no effect");
    refused(kind, "{action: CUSTOM, provider: {name: p}}", "use ALLOW or DENY");
    good(kind, "{action: CUSTOM, provider: {name: p}, targetRefs: [{group: '', kind: Service, name: a}], rules: [{}]}");
    let class = "{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}";
    refused(kind, class, "spec.targetRefs[0].kind: only policies of namespace istio-system");
    let in_root = value(&format!("{{metadata: {{name: o, namespace: {ROOT}}}, spec: {class}}}"));
    assert_eq!(judge(kind, in_root, ROOT), Findings::default());
}

#[test]
fn what_a_node_proxy_cannot_judge_is_warned_of() {
    let kind = Kind::AuthorizationPolicy;
    let rules = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    warned(
        kind,
        &format!("{{{rules}}}"),
        "spec.rules[0].to: methods is not known at L4: the entry never matches; give targetRefs",
    );
    good(kind, &format!("{{targetRefs: [{{kind: Service, name: a}}], {rules}}}"));
    let odd = value("{metadata: {name: o, namespace: shop, annotations: {istio.io/dry-run: 'yes'}}, spec: {}}");
    let found = judge(kind, odd, ROOT);
    assert!(found.errors.is_empty() && found.warnings[0].reason.contains("the policy is enforced"), "{found:?}");
    let asks = "{action: CUSTOM, provider: {name: p}, targetRefs: [{group: '', kind: Service, name: a}], rules: [{}]}";
    let tried =
        value(&format!("{{metadata: {{name: o, namespace: shop, annotations: {{istio.io/dry-run: 'true'}}}}, spec: {asks}}}"));
    let found = judge(kind, tried, ROOT);
    assert!(found.errors.is_empty() && found.warnings[0].reason.contains("of CUSTOM there is no dry run"), "{found:?}");
    warned(Kind::PeerAuthentication, "{mtls: {mode: DISABLE}}", "spec.mtls.mode: DISABLE means PERMISSIVE");
    good(Kind::PeerAuthentication, "{mtls: {mode: STRICT}}");
    refused(Kind::PeerAuthentication, "{portLevelMtls: {'80': {mode: STRICT}}}", "needs a selector");
}

#[test]
fn what_a_waypoint_cannot_judge_is_warned_of() {
    let kind = Kind::AuthorizationPolicy;
    let at_waypoint = |action: &str, when: &str| {
        format!("{{action: {action}, targetRefs: [{{group: '', kind: Service, name: a}}], rules: [{{when: [{when}]}}]}}")
    };
    let address = "{key: destination.ip, values: [10.0.0.1]}";
    let sni = "{key: connection.sni, values: [a]}";
    warned(kind, &at_waypoint("ALLOW", sni), "spec.rules[0].when[0]: connection.sni is not known to a waypoint: the rule never");
    warned(kind, &at_waypoint("DENY", sni), "connection.sni is not known to a waypoint: the condition is left out");
    // It is known there, and is not what a node proxy takes it for.
    for action in ["ALLOW", "DENY"] {
        let what = "spec.rules[0].when[0]: destination.ip is at a waypoint the address that clients ask for: a Service's own";
        warned(kind, &at_waypoint(action, address), what);
    }
    good(kind, &at_waypoint("ALLOW", "{key: remote.ip, values: [10.0.0.1]}"));
    // Node proxies know where connections go.
    good(kind, &format!("{{rules: [{{when: [{address}]}}]}}"));
}

#[test]
fn what_is_read_and_not_carried_out_is_refused_or_warned_of_where_it_may_be_anothers() {
    let rules = "jwtRules: [{issuer: i}]";
    let to_a = |rule: &str| format!("{{targetRefs: [{{kind: Service, name: a}}], jwtRules: [{{issuer: i, {rule}}}]}}");
    let kind = Kind::RequestAuthentication;
    good(kind, &to_a("jwksUri: 'https://i/keys', timeout: 3s"));
    good(kind, &to_a("").replace("issuer: i", "issuer: 'https://i'"));
    refused(kind, &to_a("jwksUri: 'file:///keys'"), "spec.jwtRules[0].jwksUri: ");
    refused(kind, &to_a("jwksUri: 'i/keys'"), "spec.jwtRules[0].jwksUri: ");
    refused(kind, &to_a("jwksUri: 'https://i/keys', timeout: soon"), "spec.jwtRules[0].timeout: \"soon\" is not a duration");
    let nowhere = "spec.jwtRules[0].jwks: without it, and without jwksUri, the issuer is asked for its keys, and \"i\" is no address: no token";
    refused(kind, &to_a(""), nowhere);
    refused(kind, &to_a("jwks: '{}'"), "spec.jwtRules[0].jwks: no JSON object with a list of keys");
    let secret = r#"{"kty": "oct", "k": "AA"}"#;
    let refusal = "spec.jwtRules[0].jwks: none of its keys can be used, as keys[0]: it is a secret: no token of this issuer";
    refused(kind, &to_a(&format!(r#"jwks: '{{"keys": [{secret}]}}'"#)), refusal);
    let key = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    good(kind, &to_a(&format!(r#"jwks: '{{"keys": [{key}]}}'"#)));
    warned(
        kind,
        &to_a(&format!(r#"jwks: '{{"keys": [{key}, {secret}]}}'"#)),
        "spec.jwtRules[0].jwks: keys[1] is not used: it is a secret",
    );
    warned(Kind::RequestAuthentication, &format!("{{{rules}}}"), "spec: it has no effect: node proxies see connections");
    let other = "{metrics: [{providers: [{name: stackdriver}]}]}";
    warned(
        Kind::Telemetry,
        other,
        "spec.metrics[0].providers: of metrics this is not carried out: stackdriver: metrics are scraped",
    );
    warned(
        Kind::Telemetry,
        "{accessLogging: [{filter: {expression: has(a)}}]}",
        "spec.accessLogging[0].filter.expression: \"has(a)\" is not carried out",
    );
    good(Kind::Telemetry, "{accessLogging: [{disabled: true}, {filter: {expression: 'response.code>=500'}}]}");
    let to = |target: &str| {
        format!("{{targetRefs: [{{{target}, name: a}}], validation: {{hostname: h, wellKnownCACertificates: System}}}}")
    };
    warned(Kind::BackendTlsPolicy, &to("group: '', kind: Service"), "spec.targetRefs[0]: a waypoint begins no TLS to backends");
    good(Kind::BackendTlsPolicy, &to("group: e.x, kind: Bucket"));
    let (errors, _) = found(Kind::RequestAuthentication, "{jwtRules: [{fromHeaders: [{name: 'a b'}]}]}");
    assert!(errors.iter().any(|error| error.starts_with("spec.jwtRules[0].issuer: must not be empty")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("\"a b\" is not a header name")), "{errors:?}");
}

#[test]
fn a_traffic_policy_that_cannot_be_meant_is_refused() {
    let kind = Kind::TrafficPolicy;
    let asks = |what: &str| format!("{{targetRefs: [{{group: '', kind: Service, name: a}}], {what}}}");
    good(kind, &asks("outlierDetection: {}"));
    good(
        kind,
        &asks("healthCheck: {http: {path: '/healthz?full', host: a.example, expectedStatuses: [200, 404]}, interval: 1s}"),
    );
    good(kind, &asks("healthCheck: {grpc: {service: shop.Cart}, unhealthyThreshold: 1, healthyThreshold: 1}"));
    good(kind, &asks("healthCheck: {tcp: {}, timeout: 10ms}"));
    good(kind, &asks("admission: {}"));
    good(kind, &asks("loadBalancing: {slowStart: {}}"));
    good(kind, &asks("loadBalancing: {policy: PeakEwma, slowStart: {}}"));
    good(kind, &asks("loadBalancing: {policy: Maglev, hashOn: [{header: x-user}]}"));
    good(
        kind,
        &asks("loadBalancing: {policy: RingHash, hashOn: [{cookie: {name: c, ttl: 0s}}, {queryParameter: q}, {sourceIP: true}]}"),
    );
    good(kind, &asks("loadBalancing: {policy: LeastRequest, slowStart: {window: 1m30s, aggression: 1.5, minWeightPercent: 5}}"));
    good(kind, &asks("connectTimeout: 1m30s, limits: {connections: 1, retries: 0}, loadBalancing: {policy: Random}"));
    for (what, part) in [
        ("", "spec: it asks for nothing"),
        ("limits: {requests: 0}", "spec.limits.requests: must be at least 1"),
        ("limits: {requests: -1}", "spec.limits.requests: invalid value"),
        ("limits: {retries: 1}, retryBudget: {percent: 5}", "spec.limits.retries: only one of limits.retries and retryBudget"),
        ("retryBudget: {percent: 101}", "spec.retryBudget.percent: 101 is no percentage"),
        ("connectTimeout: 1.5s", "spec.connectTimeout: \"1.5s\" is not a duration"),
        ("connectTimeout: 0s", "spec.connectTimeout: \"0s\" is not a duration such as 10s or 1m30s, longer than nothing"),
        ("loadBalancing: {policy: Hash}", "spec.loadBalancing.policy: unknown variant"),
        (
            "loadBalancing: {policy: Random, slowStart: {}}",
            "spec.loadBalancing.slowStart: with policy Random endpoints are chosen",
        ),
        ("loadBalancing: {slowStart: {window: 1.5s}}", "spec.loadBalancing.slowStart.window: \"1.5s\" is not a duration"),
        ("loadBalancing: {slowStart: {aggression: 0}}", "spec.loadBalancing.slowStart.aggression: must be between 0.1 and 100"),
        ("loadBalancing: {slowStart: {minWeightPercent: 101}}", "spec.loadBalancing.slowStart.minWeightPercent: 101 is no"),
        ("outlierDetection: {maxEjectionPercent: 200}", "spec.outlierDetection.maxEjectionPercent: 200 is no percentage"),
        ("healthCheck: {interval: 1s}", "spec.healthCheck: just one of http, grpc and tcp is to be given, not 0"),
        ("healthCheck: {tcp: {}, grpc: {}}", "spec.healthCheck: just one of http, grpc and tcp is to be given, not 2"),
        ("healthCheck: {http: {path: healthz}}", "spec.healthCheck.http.path: \"healthz\" is no path"),
        ("healthCheck: {http: {path: '/a b'}}", "spec.healthCheck.http.path: \"/a b\" is no path"),
        ("healthCheck: {http: {path: /, host: 'a b'}}", "spec.healthCheck.http.host: \"a b\" is no host"),
        ("healthCheck: {http: {path: /, expectedStatuses: [99]}}", "spec.healthCheck.http.expectedStatuses: 99 is no status"),
        ("healthCheck: {tcp: {}, interval: 5ms}", "spec.healthCheck.interval: must be at least 10ms"),
        ("healthCheck: {tcp: {}, timeout: soon}", "spec.healthCheck.timeout: \"soon\" is not a duration"),
        ("healthCheck: {tcp: {}, healthyThreshold: 0}", "spec.healthCheck.healthyThreshold: must be at least 1"),
        ("loadBalancing: {policy: RingHash}", "spec.loadBalancing.hashOn: with policy RingHash or Maglev it is to say"),
        (
            "loadBalancing: {policy: PeakEwma, hashOn: [{header: a}]}",
            "spec.loadBalancing.hashOn: has no effect but with policy RingHash or Maglev",
        ),
        ("loadBalancing: {policy: Maglev, hashOn: [{}]}", "spec.loadBalancing.hashOn[0]: just one of header, cookie"),
        (
            "loadBalancing: {policy: Maglev, hashOn: [{header: a, sourceIP: true}]}",
            "spec.loadBalancing.hashOn[0]: just one of header, cookie, queryParameter and sourceIP is to be given, not 2",
        ),
        (
            "loadBalancing: {policy: Maglev, hashOn: [{header: 'a b'}]}",
            "spec.loadBalancing.hashOn[0].header: \"a b\" is not a header name",
        ),
        (
            "loadBalancing: {policy: Maglev, hashOn: [{cookie: {name: c, ttl: soon}}]}",
            "spec.loadBalancing.hashOn[0].cookie.ttl: it is no duration",
        ),
        (
            "loadBalancing: {policy: Maglev, hashOn: [{sourceIP: false}]}",
            "spec.loadBalancing.hashOn[0].sourceIP: false says nothing",
        ),
        (
            "loadBalancing: {policy: Maglev, hashOn: [{header: a}], slowStart: {}}",
            "spec.loadBalancing.slowStart: hashes lead to an endpoint with its whole share",
        ),
        ("admission: {minConcurrency: 0}", "spec.admission.minConcurrency: must be at least 1"),
        ("admission: {maxConcurrency: 2}", "spec.admission.maxConcurrency: 2 is less than minConcurrency, 3"),
        ("admission: {statusOnReject: 200}", "spec.admission.statusOnReject: must be 429 or 503"),
        ("admission: {normalLatency: 0s}", "spec.admission.normalLatency: \"0s\" is not a duration"),
        ("outlierDetection: {consecutiveErrors: 0}", "spec.outlierDetection.consecutiveErrors: with 0 and nothing besides"),
        ("outlierDetection: {failurePercentage: {threshold: 0}}", "spec.outlierDetection.failurePercentage.threshold: must be"),
        (
            "outlierDetection: {failurePercentage: {minimumHosts: 0}}",
            "spec.outlierDetection.failurePercentage.minimumHosts: must",
        ),
    ] {
        refused(kind, &asks(what), part);
    }
    for (target, part) in [
        ("{kind: Gateway, name: a, group: gateway.networking.k8s.io}", "spec.targetRefs[0].kind: Gateway of group"),
        ("{kind: Service, name: ''}", "spec.targetRefs[0].name: must not be empty"),
        ("{kind: Service, name: a}, {kind: Service, name: a}", "spec.targetRefs[1]: is given twice"),
    ] {
        refused(kind, &format!("{{targetRefs: [{target}], connectTimeout: 1s}}"), part);
    }
    refused(kind, "{connectTimeout: 1s}", "spec.targetRefs: at least one is required");
    warned(kind, &asks("connectTimeout: 1s, mirror: true"), "spec.mirror: unknown field, without effect");
}

#[test]
fn what_of_a_destination_rule_is_not_carried_out_is_refused_by_name() {
    let kind = Kind::DestinationRule;
    let traffic = |policy: &str| format!("{{host: a, trafficPolicy: {{{policy}}}}}");
    good(kind, &traffic("tls: {mode: ISTIO_MUTUAL}, loadBalancer: {simple: LEAST_CONN}, outlierDetection: {}"));
    good(kind, &traffic("loadBalancer: {warmup: {duration: 1m, minimumPercent: 5.5, aggression: 2}}"));
    good(kind, &traffic("loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 30s}"));
    let cookie = "httpCookie: {name: c, path: /, ttl: 0s, attributes: [{name: Secure}, {name: SameSite, value: Lax}]}";
    good(kind, &traffic(&format!("loadBalancer: {{consistentHash: {{{cookie}, maglev: {{tableSize: 251}}}}}}")));
    good(kind, &traffic("loadBalancer: {consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 64}}}"));
    good(kind, "{host: a, exportTo: ['.', '*']}");
    let places = |said: &str| traffic(&format!("loadBalancer: {{localityLbSetting: {{{said}}}}}"));
    good(kind, &places("enabled: true, failover: [{from: east, to: west}]"));
    good(kind, &places("failoverPriority: [topology.kubernetes.io/region=east, topology.kubernetes.io/zone]"));
    good(kind, &places("distribute: [{from: east/a/*, to: {east/a/*: 80, west/*: 20}}]"));
    let own = "trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}}]}";
    good(kind, &format!("{{host: a, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v-2.b, {own}}}]}}"));
    for (spec, part) in [
        ("{host: ''}", "spec.host: must not be empty"),
        ("{host: '*.shop'}", "spec.host: \"*.shop\": a waypoint goes by no wildcard"),
        ("{host: a, subsets: [{labels: {version: v1}}]}", "spec.subsets[0].name: \"\" is no name: 1 to 63"),
        ("{host: a, subsets: [{name: 'a|b'}]}", "spec.subsets[0].name: \"a|b\" is no name"),
        ("{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets[1]: \"v1\" is given before, which holds"),
        (
            "{host: a, subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE}}}]}",
            "spec.subsets[0].trafficPolicy.tls.mode: a waypoint begins no TLS",
        ),
        ("{host: a, exportTo: [b]}", "spec.exportTo[0]: \"b\": a rule holds for whoever"),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}}", "spec.workloadSelector: a rule holds for whoever"),
    ] {
        refused(kind, spec, part);
    }
    for (policy, part) in [
        ("tls: {mode: SIMPLE, sni: a}", "tls.mode: a waypoint begins no TLS to backends, and answers requests with 500"),
        ("tls: {mode: SIMPEL}", "tls.mode: a waypoint begins no TLS"),
        (
            "portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL}}]",
            "portLevelSettings[0].tls.mode: a waypoint begins no TLS",
        ),
        ("portLevelSettings: [{port: {number: 0}}]", "portLevelSettings[0].port.number: 0 is not a port"),
        ("tunnel: {}", "tunnel: a waypoint does not carry it out"),
        ("proxyProtocol: {}", "proxyProtocol: a waypoint does not carry it out"),
        ("retryBudget: {percent: 101}", "retryBudget.percent: it is no percentage"),
        ("loadBalancer: {simple: PASSTHROUGH}", "loadBalancer.simple: it is none of ROUND_ROBIN"),
        ("loadBalancer: {consistentHash: {}}", "loadBalancer.consistentHash: it says nothing to hash requests by"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}",
            "loadBalancer.consistentHash: only one of httpHeaderName",
        ),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}",
            "loadBalancer.consistentHash.httpHeaderName: \"a b\" is not a header name",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: soon}}}",
            "loadBalancer.consistentHash.httpCookie.ttl: it is no duration",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
            "loadBalancer.consistentHash.maglev.tableSize: it is no size of a table",
        ),
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "loadBalancer.simple: it has no effect beside consistentHash",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1s}}",
            "loadBalancer.warmup: hashes lead to an endpoint with its whole share",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: east}]}}",
            "loadBalancer.localityLbSetting.failover[0]: from and to must be two regions",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [app]}}",
            "loadBalancer.localityLbSetting.failoverPriority[0]: \"app\": a waypoint goes by where an endpoint runs",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [kubernetes.io/hostname], failover: [{from: a, to: b}]}}",
            "loadBalancer.localityLbSetting.failover: failoverPriority is given, which holds",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: \"*/a\", to: {\"*\": 100}}]}}",
            "loadBalancer.localityLbSetting.distribute[0].from: \"*/a\" is no place",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {a/*: 60, b/*: 50}}]}}",
            "loadBalancer.localityLbSetting.distribute[0].to: the shares are not between 1 and 100, or not 100",
        ),
        ("loadBalancer: {warmup: {}}", "loadBalancer.warmup.duration: without one it has no effect"),
        ("loadBalancer: {warmup: {duration: soon}}", "loadBalancer.warmup.duration: it is no duration"),
        ("loadBalancer: {warmup: {duration: 1s, aggression: 0.5}}", "loadBalancer.warmup.aggression: it is less than 1"),
        (
            "loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}",
            "loadBalancer.warmup.minimumPercent: it is no percentage",
        ),
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}", "loadBalancer.warmup: endpoints are chosen by chance"),
        ("loadBalancer: {warmupDurationSecs: soon}", "loadBalancer.warmupDurationSecs: it is no duration"),
        ("connectionPool: {tcp: {tcpKeepalive: {}}}", "connectionPool.tcp.tcpKeepalive: a waypoint does not"),
        ("connectionPool: {tcp: {connectTimeout: 1}}", "invalid type"),
        ("connectionPool: {tcp: {connectTimeout: soon}}", "connectionPool.tcp.connectTimeout: it is no duration"),
        ("connectionPool: {tcp: {maxConnections: -1}}", "connectionPool.tcp.maxConnections: it is no number of things"),
        ("connectionPool: {http: {maxRequestsPerConnection: 1}}", "connectionPool.http.maxRequestsPerConnection: a waypoint"),
        ("outlierDetection: {consecutiveErrors: 5}", "outlierDetection.consecutiveErrors: it has no effect: write"),
        ("outlierDetection: {maxEjectionPercent: 101}", "outlierDetection.maxEjectionPercent: it is no percentage"),
    ] {
        refused(kind, &traffic(policy), part);
    }
    warned(kind, &traffic("tls: {mode: DISABLE}"), "spec.trafficPolicy.tls.mode: DISABLE means that no TLS is added");
}

#[test]
fn what_of_a_virtual_service_is_not_carried_out_is_refused_by_name() {
    let kind = Kind::VirtualService;
    let rule = |rule: &str| format!("{{hosts: [a], http: [{{{rule}}}]}}");
    const TO_A: &str = "route: [{destination: {host: a}}]";
    good(kind, &rule(&format!("{TO_A}, match: [{{uri: {{prefix: /a}}, headers: {{x: {{}}}}}}], timeout: 0s")));
    good(kind, &format!("{{hosts: [a], gateways: [mesh], exportTo: ['*'], http: [{{{TO_A}}}]}}"));
    // For gateways of another mesh alone.
    warned(kind, "{hosts: [a], gateways: [front], http: [{delegate: {name: b}}]}", "spec.gateways[0]: \"front\"");
    for (spec, part) in [
        ("{http: []}", "spec.hosts: must not be empty"),
        ("{hosts: [a], gateways: [mesh, front]}", "spec.gateways[1]: \"front\": it holds in the mesh alone"),
        ("{hosts: [a], exportTo: [b]}", "spec.exportTo[0]: \"b\": it holds for whoever"),
        ("{hosts: [a], tcp: []}", "spec.tcp: it has no effect"),
    ] {
        refused(kind, spec, part);
    }
    for (more, part) in [
        ("match: [{ignoreUriCase: true}]", "match[0].ignoreUriCase: it is not carried out"),
        ("match: [{sourceLabels: {a: b}}]", "match[0].sourceLabels: it is not carried out"),
        ("match: [{uri: {regex: '('}}]", "match[0].uri.regex: \"(\" is not a regular expression"),
        ("match: [{headers: {'a b': {exact: c}}}]", "match[0].headers[a b]: \"a b\" is no name of a header"),
        ("redirect: {}", "spec.http[0]: it needs one of route, redirect and directResponse"),
        ("timeout: soon", "timeout: it is no duration"),
        ("fault: {abort: {httpStatus: 1}}", "fault.abort.httpStatus: it is no status"),
        ("fault: {delay: {fixedDelay: 5s, percentage: {value: 101}}}", "fault.delay.percentage: it is no percentage"),
        ("headers: {request: {set: {x: '%REQ(a)%'}}}", "headers.request: x: \"%REQ(a)%\" has a placeholder"),
        ("headers: {request: {set: {Host: b}}}", "headers.request: \"Host\" is no header that is changed here"),
        ("rewrite: {uriRegexRewrite: {match: a}}", "rewrite.uriRegexRewrite: it is not carried out"),
        ("corsPolicy: {allowOrigin: ['*']}", "corsPolicy.allowOrigin: it is not carried out"),
    ] {
        refused(kind, &rule(&format!("{TO_A}, {more}")), part);
    }
    good(kind, &rule("route: [{destination: {host: a, subset: b}}]"));
    let again = |on: &str| rule(&format!("{TO_A}, retries: {{attempts: 1, retryOn: '{on}'}}"));
    good(kind, &again("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,503"));
    warned(kind, &again("unavailable,nonsense"), "retries.retryOn: \"nonsense\" is left out, as it is none of 5xx");
    refused(kind, &rule("route: [{destination: {host: a, hash: b}}]"), "destination.hash: it is not carried out");
    refused(
        kind,
        &rule("route: [{destination: {host: a}}, {destination: {host: b}}]"),
        "spec.http[0].route: of several none has a weight",
    );
    refused(kind, &rule("delegate: {name: b}"), "delegate: it is not carried out");
}

#[test]
fn rules_that_a_waypoint_would_answer_with_errors_are_refused() {
    let kind = Kind::HttpRoute;
    let route = |parent: &str, rule: &str| format!("{{parentRefs: [{{{parent}}}], rules: [{{{rule}}}]}}");
    const SERVICE: &str = "group: '', kind: Service, name: a";
    let backend = "backendRefs: [{name: a, port: 80}]";
    good(kind, &route(SERVICE, backend));
    let auth = "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: b, port: 80}}}]";
    refused(
        kind,
        &route(SERVICE, &format!("{auth}, {backend}")),
        "spec.rules[0]: filter ExternalAuth is not supported; a waypoint",
    );
    refused(
        kind,
        &route(SERVICE, "matches: [{path: {type: RegularExpression, value: '(?=a)'}}]"),
        "\"(?=a)\" is not a regular expression",
    );
    refused(kind, &route("group: networking.istio.io, kind: ServiceEntry, name: a", backend), "a ServiceEntry has no routes");
    let session = |said: &str| route(SERVICE, &format!("sessionPersistence: {{{said}}}, {backend}"));
    good(kind, &session("sessionName: s"));
    warned(kind, &session("idleTimeout: 5m"), "sessionPersistence.idleTimeout: has no effect");
    refused(kind, &session("sessionName: 'a b'"), "sessionPersistence.sessionName: \"a b\" is no name of a cookie");
    warned(kind, &route(SERVICE, &format!("{backend}, colour: red")), "spec.rules[0].colour: unknown field, without effect");

    let tcp = |namespace: &str| route(&format!("{SERVICE}, namespace: {namespace}"), backend);
    good(Kind::TcpRoute, &tcp("shop"));
    refused(Kind::TcpRoute, &tcp("bank"), "spec.parentRefs[0].namespace: a TCPRoute holds only for Services of its own");
    let tls = |namespace: &str| {
        format!("{{parentRefs: [{{{SERVICE}, namespace: {namespace}}}], hostnames: [a.example], rules: [{{{backend}}}]}}")
    };
    good(Kind::TlsRoute, &tls("shop"));
    refused(Kind::TlsRoute, &tls("bank"), "a TLSRoute holds only for Services of its own");
}

#[test]
fn gateways_that_can_be_no_waypoint_are_refused() {
    let gateway = |listeners: &str| format!("{{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}");
    const HBONE: &str = "{name: mesh, port: 15008, protocol: HBONE}";
    good(Kind::Gateway, &gateway(HBONE));
    refused(Kind::Gateway, &gateway("{name: http, port: 80, protocol: HTTP}"), "spec.listeners: No listener has port 15008");
    let addressed = format!("{{gatewayClassName: istio-waypoint, addresses: [{{value: 10.0.0.1}}], listeners: [{HBONE}]}}");
    refused(Kind::Gateway, &addressed, "remove spec.addresses");
    warned(
        Kind::Gateway,
        &gateway(&format!("{HBONE}, {{name: http, port: 80, protocol: HTTP}}")),
        "spec.listeners[1]: Listener http: a waypoint speaks HBONE",
    );
}

#[test]
fn listeners_at_the_edge_that_do_not_serve_are_told() {
    let gateway = |listeners: &str| format!("{{gatewayClassName: ambit, listeners: [{listeners}]}}");
    const HTTP: &str = "{name: web, port: 80, protocol: HTTP}";
    good(Kind::Gateway, &gateway(HTTP));
    let tls = gateway(&format!("{HTTP}, {{name: tls, port: 443, protocol: HTTPS}}"));
    warned(Kind::Gateway, &tls, "spec.listeners[1].tls.certificateRefs: Listener tls: no certificate is named");
    let https = |tls: &str| {
        gateway(&format!("{HTTP}, {{name: tls, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: c}}]{tls}}}}}"))
    };
    good(Kind::Gateway, &https(""));
    warned(Kind::Gateway, &https(", mode: Passthrough"), "spec.listeners[1]: Listener tls: HTTPS with tls.mode Passthrough");
    warned(Kind::Gateway, &https(", options: {a: b}"), "spec.listeners[1]: Listener tls: tls.options are not carried out");
    let names = gateway(&format!("{HTTP}, {{name: dns, port: 53, protocol: UDP}}"));
    warned(Kind::Gateway, &names, "spec.listeners[1]: Listener dns: UDP is not carried out");
    good(
        Kind::Gateway,
        &gateway("{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, {name: db, port: 5432, protocol: TCP}"),
    );
    let ended = gateway(&format!("{HTTP}, {{name: tls, port: 443, protocol: TLS, tls: {{mode: Terminate}}}}"));
    warned(Kind::Gateway, &ended, "spec.listeners[1].tls.certificateRefs: Listener tls: no certificate is named");
    let addressed = format!("{{gatewayClassName: ambit, addresses: [{{value: 10.0.0.1}}], listeners: [{HTTP}]}}");
    warned(Kind::Gateway, &addressed, "spec.addresses: A Gateway is reached at");
}

#[test]
fn entries_are_judged_as_the_control_plane_reads_them() {
    refused(Kind::ServiceEntry, "{hosts: [a.example], resolution: DYNAMIC_DNS}", "DYNAMIC_DNS is not supported; DNS looks up");
    good(Kind::ServiceEntry, "{hosts: [a.example], ports: [{number: 80, name: http}], resolution: DNS}");
    refused(Kind::WorkloadEntry, "{address: '127.0.0.1'}", "is an address of no other machine");
}

#[test]
fn routes_and_gateways_of_other_controllers_are_their_business() {
    let route = |parent: &str| value(&format!("{{spec: {{parentRefs: [{{name: a, {parent}}}]}}}}"));
    let concerns = |kind: Kind, namespace: &str, object: &Value| {
        concerns(kind, namespace, object, &|gateway| *gateway == NamespacedName::new("edge", "a"))
    };
    for (parent, ours) in [
        ("group: '', kind: Service", true),
        ("group: core, kind: Service", true),
        ("group: networking.istio.io, kind: ServiceEntry", true),
        ("kind: Gateway", false),
        ("kind: Gateway, namespace: edge", true),
        ("group: gateway.networking.k8s.io, namespace: edge", true),
        ("group: example.com, kind: Gateway, namespace: edge", false),
        ("kind: Service", false),
        ("group: example.com, kind: Mesh", false),
    ] {
        assert_eq!(concerns(Kind::HttpRoute, "shop", &route(parent)), ours, "{parent}");
    }
    assert!(concerns(Kind::TcpRoute, "edge", &route("kind: Gateway")), "a Gateway beside it");
    assert!(!concerns(Kind::GrpcRoute, "shop", &value("{spec: {}}")));
    for (class, ours) in [("istio-waypoint", true), ("ambit", true), ("nginx", false)] {
        let gateway = value(&format!("{{spec: {{gatewayClassName: {class}}}}}"));
        assert_eq!(concerns(Kind::Gateway, "shop", &gateway), ours, "{class}");
    }
    assert!(concerns(Kind::AuthorizationPolicy, "shop", &value("{}")));
}

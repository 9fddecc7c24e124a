use super::*;

fn policy(rules: &str) -> Value {
    let text = format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {{rules: {rules}}}}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

const GOOD: &str = "[{from: [{source: {namespaces: [a]}}]}]";
const BROKEN: &str = "[{from: [{source: {ipBlocks: [10.0.0]}}]}]";

fn asked(operation: &str, object: &Value, old: &Value) -> Reviewed {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": operation, "object": object, "oldObject": old, "dryRun": false,
            "userInfo": {"username": "ada", "groups": ["g"]},
        },
    });
    review(body.to_string().as_bytes(), "istio-system", &|gateway| &*gateway.name == "edge").unwrap()
}

fn outcome(operation: &str, object: &Value, old: &Value) -> (bool, Vec<String>) {
    let Reviewed { answer, outcome, .. } = asked(operation, object, old);
    assert_eq!(answer["response"]["uid"], "u-1");
    let allowed = answer["response"]["allowed"].as_bool().unwrap();
    assert_eq!(allowed, outcome != "refused");
    (allowed, serde_json::from_value(answer["response"]["warnings"].clone()).unwrap())
}

#[test]
fn what_is_refused_is_told_with_the_object_the_field_and_the_reason() {
    let Reviewed { answer, refusal, outcome, kind } = asked("CREATE", &policy(BROKEN), &Value::Null);
    assert_eq!((outcome, kind), ("refused", "AuthorizationPolicy"));
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let why = "  spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0\" is neither an IP address nor a CIDR block";
    assert_eq!(
        answer["response"]["status"],
        json!({
            "code": 422, "reason": "Invalid",
            "message": format!("AuthorizationPolicy shop/p would be ignored or do harm:\n{why}\n`ambit check FILE` says this without a cluster"),
        })
    );
    let refusal = refusal.unwrap();
    assert_eq!(
        (refusal.user.as_str(), refusal.object.as_str(), refusal.why.as_str()),
        ("ada", "AuthorizationPolicy shop/p", why)
    );
}

#[test]
fn what_is_good_passes_and_what_is_odd_passes_with_a_warning() {
    assert_eq!(outcome("CREATE", &policy(GOOD), &Value::Null), (true, vec![]));
    let (allowed, warnings) = outcome("CREATE", &policy("[{to: [{operation: {methods: [GET]}}]}]"), &Value::Null);
    assert!(allowed && warnings.len() == 1 && warnings[0].starts_with("spec.rules[0].to: methods is not known"), "{warnings:?}");
}

#[test]
fn what_was_wrong_before_keeps_nobody_from_other_changes() {
    let (mut broken, good) = (policy(BROKEN), policy(GOOD));
    broken["metadata"]["labels"] = json!({"new": "label"});
    let (allowed, warnings) = outcome("UPDATE", &broken, &policy(BROKEN));
    assert!(allowed && warnings.len() == 1 && warnings[0].contains("10.0.0"), "{warnings:?}");
    assert!(!outcome("UPDATE", &broken, &good).0);
    let worse = "[{from: [{source: {ipBlocks: [10.0.0]}}]}, {to: [{operation: {ports: [http]}}]}]";
    let (allowed, warnings) = outcome("UPDATE", &policy(worse), &policy(BROKEN));
    assert!(!allowed && warnings.len() == 1, "{warnings:?}");
    assert!(outcome("UPDATE", &good, &policy(BROKEN)).0);
    // The finalizers of what goes are taken off by updates.
    broken["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(outcome("UPDATE", &broken, &good), (true, vec![]));
    assert_eq!(outcome("DELETE", &Value::Null, &policy(BROKEN)), (true, vec![]));
}

/// A route that becomes the mesh's by another parent is judged as if it were new.
#[test]
fn what_was_wrong_with_a_route_of_another_controller_counts_once_it_is_ours() {
    let route = |group: &str, kind: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": group, "kind": kind, "name": "a"}],
                "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "(?=a)"}}]}],
            },
        })
    };
    let (theirs, ours) = (route("gateway.networking.k8s.io", "Gateway"), route("", "Service"));
    assert_eq!(outcome("CREATE", &theirs, &Value::Null), (true, vec![]));
    assert!(!outcome("UPDATE", &ours, &theirs).0);
    assert!(outcome("UPDATE", &ours, &ours).0);
}

#[test]
fn kinds_that_nobody_reads_pass_and_what_is_no_review_is_said_to_be_none() {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    assert_eq!(outcome("CREATE", &secret, &Value::Null), (true, vec![]));
    for body in ["", "{}", "[", r#"{"request": {"uid": 1}}"#] {
        assert!(
            review(body.as_bytes(), "istio-system", &|gateway| &*gateway.name == "edge")
                .unwrap_err()
                .starts_with("it is no AdmissionReview"),
            "{body}"
        );
    }
}

/// What a change leaves as wrong as it was is no reason to refuse it, wherever in its list it then is.
#[test]
fn rules_may_be_moved_taken_out_and_mended_one_after_the_other() {
    let bad = "{from: [{source: {ipBlocks: [10.0.0]}}]}";
    let (good, other) = ("{from: [{source: {namespaces: [a]}}]}", "{to: [{operation: {ports: [http]}}]}");
    let rules = |rules: &[&str]| policy(&format!("[{}]", rules.join(", ")));
    let before = rules(&[good, bad, other]);
    for after in [&[bad, other][..], &[other, bad, good], &[good, good, bad], &[bad]] {
        let (allowed, warnings) = outcome("UPDATE", &rules(after), &before);
        assert!(allowed && !warnings.is_empty(), "{after:?}: {warnings:?}");
    }
    assert!(!outcome("UPDATE", &rules(&[bad, bad]), &before).0, "one more of the same is worse");
    let entry = |hosts: usize| {
        let hosts: Vec<String> = (0..hosts).map(|at| format!("h{at}.example")).collect();
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "e", "namespace": "shop"},
            "spec": {"hosts": hosts, "resolution": "NONE"},
        })
    };
    assert!(outcome("UPDATE", &entry(299), &entry(300)).0);
    assert!(!outcome("UPDATE", &entry(301), &entry(300)).0);
}

/// In every version that an API server has of it: those of a kind have the same fields.
#[test]
fn an_older_version_of_a_kind_is_judged_as_the_newest() {
    for version in ["v1", "v1beta1"] {
        let route = json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "a"}],
                "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}],
            },
        });
        assert!(!outcome("CREATE", &route, &Value::Null).0, "{version}");
    }
}

#[test]
fn a_status_and_what_is_neither_made_nor_changed_pass() {
    let asked = |operation: &str, sub_resource: &str| {
        let body = json!({"request": {
            "uid": "u-1", "operation": operation, "subResource": sub_resource, "object": policy(BROKEN), "dryRun": true,
        }});
        review(body.to_string().as_bytes(), "istio-system", &|gateway| &*gateway.name == "edge").unwrap()
    };
    assert!(asked("UPDATE", "").refusal.unwrap().dry_run);
    for (operation, sub_resource) in [("UPDATE", "status"), ("UPDATE", "scale"), ("DELETE", ""), ("CONNECT", "")] {
        assert_eq!(asked(operation, sub_resource).outcome, "allowed", "{operation} {sub_resource}");
    }
}

/// Whoever sends it, and whatever the API server would say of it.
#[test]
fn what_is_too_much_to_be_looked_at_passes_with_a_warning() {
    let many = format!(r#"{{"request": {{"uid": "u", "operation": "CREATE", "object": [{}0]}}}}"#, "0,".repeat(VALUES));
    let Reviewed { answer, outcome: noted, .. } =
        review(many.as_bytes(), "istio-system", &|gateway| &*gateway.name == "edge").unwrap();
    assert_eq!((noted, &answer["response"]["allowed"], &answer["response"]["uid"]), ("warned", &json!(true), &json!("u")));
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("more than 400000 values"), "{answer}");

    let route = |expressions: Vec<String>| {
        let values = |value: &String| json!({"headers": [{"type": "RegularExpression", "name": "a", "value": value}]});
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "a"}],
                "rules": [{"matches": expressions.iter().map(values).collect::<Vec<_>>()}],
            },
        })
    };
    let (allowed, warnings) = outcome("CREATE", &route(vec!["(".repeat(4096); 5]), &Value::Null);
    assert!(allowed && warnings.len() == 1 && warnings[0].contains("it was not looked at"), "{warnings:?}");
    let Reviewed { refusal, .. } = asked("CREATE", &route(vec!["a".repeat(4097)]), &Value::Null);
    assert!(refusal.unwrap().why.contains("must be at most 4096 bytes"));
}

/// An hour, when each is held against each.
#[test]
fn a_hundred_thousand_mistakes_are_judged_in_seconds() {
    let start = std::time::Instant::now();
    let rules = |address: &str| policy(&format!("[{{from: [{{source: {{ipBlocks: [{address}]}}}}]}}]"));
    let (mut object, mut old) = (rules("a"), rules("a"));
    let blocks = |text: &str| json!((0..100_000).map(|at| format!("{text}{at}")).collect::<Vec<_>>());
    object["spec"]["rules"][0]["from"][0]["source"]["ipBlocks"] = blocks("x");
    old["spec"]["rules"][0]["from"][0]["source"]["ipBlocks"] = blocks("y");
    assert!(!outcome("UPDATE", &object, &old).0);
    let parents: Vec<Value> = (0..60_000).map(|_| json!({"group": "networking.istio.io", "kind": "X", "name": "a"})).collect();
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute", "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]},
    });
    assert!(!outcome("CREATE", &route, &Value::Null).0);
    let endpoints: Vec<Value> = (0..20_000).map(|at| json!({"address": format!("192.0.2.{at}"), "ports": {"p": 1}})).collect();
    let ports: Vec<Value> = (0..20_000).map(|at| json!({"number": at, "name": format!("q{at}")})).collect();
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "e", "namespace": "shop"},
        "spec": {"hosts": ["a.example"], "resolution": "STATIC", "ports": ports, "endpoints": endpoints},
    });
    assert!(!outcome("CREATE", &entry, &Value::Null).0);
    let took = start.elapsed();
    println!("without regular expressions {took:?}");
    for text in [r"(?i)\PL", r"\PL", r"(?i)\w", r"(?i)[^a]", r"\p{Any}", r"(?i)\pL"] {
        let (prefix, text) = if let Some(text) = text.strip_prefix("(?i)") { ("(?i)", text) } else { ("", text) };
        let expression = format!("{prefix}{}", text.repeat(4000 / text.len()));
        let start = std::time::Instant::now();
        let found = ambit_model::route::Pattern::new(&expression).map_err(|error| error.to_string().len());
        println!("{prefix}{text}: {:?} {}", start.elapsed(), found.is_ok());
        let expression = format!("{prefix}{}", text.repeat(8));
        let start = std::time::Instant::now();
        let found = ambit_model::route::Pattern::new(&expression).map_err(|error| error.to_string().len());
        println!("short {prefix}{text}: {:?} {}", start.elapsed(), found.is_ok());
    }
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn answers_stay_short_whatever_is_wrong() {
    let long = "ü".repeat(2000);
    let rules: Vec<String> = (0..100).map(|_| format!("{{from: [{{source: {{ipBlocks: [{long}]}}}}]}}")).collect();
    let Reviewed { refusal, .. } = asked("CREATE", &policy(&format!("[{}]", rules.join(", "))), &Value::Null);
    let why = refusal.unwrap().why;
    assert!(why.ends_with("  and 84 more") && why.chars().count() < (LONG + 10) * (MOST + 1), "{}", why.len());
}

#[test]
fn a_route_of_a_gateway_at_the_edge_is_looked_at_and_one_of_anothers_is_not() {
    let route = |gateway: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [{"name": gateway}], "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}]},
        })
    };
    assert!(outcome("CREATE", &route("other"), &Value::Null).0);
    assert!(!outcome("CREATE", &route("edge"), &Value::Null).0);
    // What was wrong before is so, whoever it was for.
    assert!(!outcome("UPDATE", &route("edge"), &route("other")).0);
    assert!(outcome("UPDATE", &route("edge"), &route("edge")).0);
}

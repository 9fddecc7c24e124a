//! The webhook of the chart is the one that the control plane serves, and it is asked about every kind that it judges.

use istiod_lite::{source::Kind, validation};

use super::*;

fn configuration(settings: &Settings) -> Value {
    let objects = rendered(settings);
    objects.into_iter().find(|object| object["kind"] == "ValidatingWebhookConfiguration").unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn the_api_server_asks_where_the_control_plane_answers() {
    let settings = Settings::default();
    let configuration = configuration(&settings);
    assert_eq!(configuration["metadata"]["name"], validation::CONFIGURATION);
    let objects = rendered(&settings);
    let service = objects.iter().find(|object| object["kind"] == "Service").unwrap();
    let ports = service["spec"]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == "https-validation").unwrap();
    let istiod = &containers(&pods(&settings)["istiod-lite"])[0].clone();
    let listens =
        texts(&istiod["args"]).iter().find_map(|argument| argument.strip_prefix("--validation=[::]:")).map(str::to_owned);
    let named = istiod["ports"].as_array().unwrap().iter().find(|named| named["name"] == port["targetPort"]).unwrap();
    assert_eq!(listens, Some(named["containerPort"].to_string()));
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let name = webhook["name"].as_str().unwrap();
        let asked = &webhook["clientConfig"]["service"];
        assert_eq!(
            (&asked["name"], &asked["namespace"]),
            (&service["metadata"]["name"], &service["metadata"]["namespace"]),
            "{name}"
        );
        assert_eq!((asked["path"].as_str(), &asked["port"]), (Some(validation::PATH), &port["port"]), "{name}");
        assert!(webhook["clientConfig"]["caBundle"].is_null(), "the control plane writes it, and nobody takes it away: {name}");
        assert_eq!((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Ignore"), &json!("None")), "{name}");
        assert_eq!(webhook["matchPolicy"], "Equivalent", "{name}");
    }
    let role = |settings: &Settings| {
        let objects = rendered(settings);
        let is_role = |object: &&Value| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "istiod-lite";
        objects.iter().find(is_role).unwrap()["rules"].to_string().contains("validatingwebhookconfigurations")
    };
    let off = self::settings("validation.webhook=false");
    assert!(role(&settings) && !role(&off), "the right to change it comes with it");
    assert!(!pods(&off)["istiod-lite"].to_string().contains("15017"));
}

/// In each version that is read, for one that is not asked about passes.
#[test]
fn every_kind_whose_author_may_be_told_is_asked_about() {
    let configuration = configuration(&Settings::default());
    let rules: Vec<&Value> =
        configuration["webhooks"].as_array().unwrap().iter().flat_map(|webhook| webhook["rules"].as_array().unwrap()).collect();
    let mut asked = 0;
    // Of GatewayClasses and ReferenceGrants there is nothing to be said, and the API server itself judges its own kinds.
    let told = |kind: &&Kind| {
        !matches!(kind, Kind::GatewayClass | Kind::ReferenceGrant)
            && (kind.group().ends_with("istio.io") || ["ambit.dev", "gateway.networking.k8s.io"].contains(&kind.group()))
    };
    for kind in Kind::ALL.iter().filter(told) {
        let rule = rules
            .iter()
            .find(|rule| texts(&rule["apiGroups"]) == [kind.group()] && texts(&rule["resources"]).contains(&kind.plural()));
        let rule = rule.unwrap_or_else(|| panic!("{}", kind.as_str()));
        let versions = texts(&rule["apiVersions"]);
        assert!(kind.versions().iter().all(|version| versions.contains(version)), "{}: {versions:?}", kind.as_str());
        assert_eq!(texts(&rule["operations"]), ["CREATE", "UPDATE"]);
        asked += 1;
    }
    let resources: usize = rules.iter().map(|rule| texts(&rule["resources"]).len()).sum();
    assert_eq!(asked, resources, "and about no others");
}

#[test]
fn every_policy_is_bound_and_only_what_is_merely_without_effect_is_let_pass() {
    let objects = rendered(&Settings::default());
    let of = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
    let names = |objects: &[Value], path: &str| {
        objects.iter().map(|object| object.pointer(path).unwrap().as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (policies, bindings) = (of("ValidatingAdmissionPolicy"), of("ValidatingAdmissionPolicyBinding"));
    assert_eq!(names(&policies, "/metadata/name"), names(&bindings, "/spec/policyName"));
    for binding in &bindings {
        let name = binding["metadata"]["name"].as_str().unwrap();
        let warns = ["ambit-host-network", "ambit-never-captured"].contains(&name) || name.ends_with("-of-pods");
        assert_eq!(binding["spec"]["validationActions"], if warns { json!(["Warn"]) } else { json!(["Deny"]) }, "{binding}");
    }
    assert!(policies.iter().all(|policy| policy["spec"]["failurePolicy"] == "Ignore"));
    let excluded = rendered(&settings("node.excludeNamespaces={kube-system,monitoring}"));
    assert!(excluded.iter().any(|object| object.to_string().contains("in ['kube-system', 'monitoring']")));
}

#[test]
fn the_port_is_open_to_the_api_server_alone_where_its_address_is_known() {
    let from = |assignments: &str| {
        let objects = rendered(&settings(assignments));
        let is_one = |object: &&Value| object["kind"] == "NetworkPolicy" && object["metadata"]["name"] == "istiod-lite";
        let policy = objects.iter().find(is_one).unwrap();
        let rules = policy["spec"]["ingress"].as_array().unwrap().clone();
        rules.into_iter().find(|rule| rule["ports"][0]["port"] == 15017).map(|rule| rule["from"].clone())
    };
    assert_eq!(from("networkPolicies.enabled=true"), Some(Value::Null));
    assert_eq!(from("networkPolicies.enabled=true,validation.webhook=false"), None);
    assert_eq!(
        from("networkPolicies.enabled=true,networkPolicies.apiServer={10.0.0.1/32,fd00::/64}"),
        Some(json!([{"ipBlock": {"cidr": "10.0.0.1/32"}}, {"ipBlock": {"cidr": "fd00::/64"}}]))
    );
}

use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::rbac::v3::{permission::Rule as Permission, principal::Identifier};

use super::super::names::Layer;
use super::super::wire::ordered::Rules;
use super::{Enforcement, Place, compile};
use crate::source::crd::AuthorizationPolicy;

fn check(layer: Layer, spec: &str) -> Enforcement {
    let policy = serde_json::json!({
        "metadata": { "name": "p", "namespace": "shop" },
        "spec": serde_json::from_str::<serde_json::Value>(spec).unwrap(),
    });
    let policy: Arc<AuthorizationPolicy> = Arc::new(serde_json::from_value(policy).unwrap());
    compile(&[&policy], Place { layer, port: Some(80), trust_domain: "cluster.local" })
}

fn keys(rules: Option<&Rules>) -> Option<Vec<&str>> {
    rules.map(|rules| rules.policies.keys().map(String::as_str).collect())
}

/// The one rule that is left matches everything.
fn matches_all(rules: Option<&Rules>) -> bool {
    let policy = rules.and_then(|rules| rules.policies.values().next());
    policy.is_some_and(|policy| {
        policy.principals[0].identifier == Some(Identifier::Any(true))
            && policy.permissions[0].rule == Some(Permission::Any(true))
    })
}

/// All that is left is an entry that never matches and names the policy.
fn matches_nothing(rules: Option<&Rules>) -> bool {
    let never = Permission::NotRule(Box::new(super::permission::boxed(Permission::Any(true))));
    let only = rules.filter(|rules| rules.policies.len() == 1).and_then(|rules| rules.policies.get("ns[shop]-policy[p]"));
    only.is_some_and(|policy| policy.permissions.len() == 1 && policy.permissions[0].rule.as_ref() == Some(&never))
}

#[test]
fn an_allow_policy_without_rules_refuses_everything() {
    let none = check(Layer::Http, "{}");
    assert!(matches_nothing(none.allow.as_ref()));
    assert_eq!(none.deny, None);
}

#[test]
fn a_deny_policy_without_rules_refuses_nothing() {
    assert_eq!(check(Layer::Http, r#"{"action": "DENY"}"#), Enforcement::default());
}

#[test]
fn an_empty_rule_matches_everything() {
    assert!(matches_all(check(Layer::Http, r#"{"rules": [{}]}"#).allow.as_ref()));
    assert!(matches_all(check(Layer::Tcp, r#"{"action": "DENY", "rules": [{}]}"#).deny.as_ref()));
}

#[test]
fn what_cannot_be_expressed_never_lets_more_through() {
    let unknown = [
        r#"{"from": [{"source": {"remoteIpBlocks": ["10.0.0.0/8"]}}]}"#,
        r#"{"from": [{"source": {"ipBlocks": ["not an address"]}}]}"#,
        r#"{"from": [{"source": {"notIpBlocks": ["not an address"]}}]}"#,
        r#"{"from": [{"source": {"serviceAccounts": ["a*"]}}]}"#,
        r#"{"to": [{"operation": {"ports": ["eighty"]}}]}"#,
        r#"{"to": [{"operation": {"notPorts": ["eighty"]}}]}"#,
        r#"{"to": [{"operation": {"paths": ["/{*}x"]}}]}"#,
        r#"{"to": [{"operation": {"notPaths": ["/{name}"]}}]}"#,
        r#"{"when": [{"key": "request.auth.claims", "values": ["x"]}]}"#,
        r#"{"when": [{"key": "request.auth.claims[]", "values": ["x"]}]}"#,
        r#"{"when": [{"key": "request.auth.claims[a]b]", "values": ["x"]}]}"#,
        r#"{"when": [{"key": "request.auth.claims[a].b", "notValues": ["x"]}]}"#,
        r#"{"when": [{"key": "request.auth.subject", "values": ["x"]}]}"#,
        r#"{"when": [{"key": "request.headers[:path]", "values": ["/x"]}]}"#,
        r#"{"when": [{"key": "experimental.nonsense", "notValues": ["x"]}]}"#,
    ];
    for rule in unknown {
        let allow = check(Layer::Http, &format!(r#"{{"rules": [{rule}]}}"#));
        assert!(matches_nothing(allow.allow.as_ref()), "ALLOW {rule}");
        let deny = check(Layer::Http, &format!(r#"{{"action": "DENY", "rules": [{rule}]}}"#));
        assert!(matches_all(deny.deny.as_ref()), "DENY {rule}");
    }
}

#[test]
fn a_known_value_beside_an_unknown_one_still_allows() {
    let allow = check(Layer::Http, r#"{"rules": [{"from": [{"source": {"ipBlocks": ["nonsense", "10.0.0.1"]}}]}]}"#);
    let rules = allow.allow.unwrap();
    let identifier = rules.policies.values().next().unwrap().principals[0].identifier.clone();
    assert!(matches!(identifier, Some(Identifier::RemoteIp(range)) if range.address_prefix == "10.0.0.1"));
}

#[test]
fn attributes_of_requests_are_unknown_on_connections() {
    for field in [r#""methods": ["GET"]"#, r#""notMethods": ["GET"]"#, r#""paths": ["/"]"#, r#""hosts": ["h"]"#] {
        let rule = format!(r#"{{"to": [{{"operation": {{{field}}}}}]}}"#);
        let allow = check(Layer::Tcp, &format!(r#"{{"rules": [{rule}]}}"#));
        assert!(matches_nothing(allow.allow.as_ref()), "ALLOW {field}");
        let deny = check(Layer::Tcp, &format!(r#"{{"action": "DENY", "rules": [{rule}]}}"#));
        assert!(matches_all(deny.deny.as_ref()), "DENY {field}");
    }
}

#[test]
fn what_a_token_says_is_unknown_on_connections() {
    let source = |field: &str| format!(r#"{{"from": [{{"source": {{"{field}": ["*"]}}}}]}}"#);
    let when = |key: &str| format!(r#"{{"when": [{{"key": "request.auth.{key}", "values": ["i/x"]}}]}}"#);
    let sources = ["requestPrincipals", "notRequestPrincipals"].map(source);
    let conditions = ["principal", "audiences", "presenter", "claims[a]"].map(when);
    for rule in sources.iter().chain(&conditions) {
        let allow = check(Layer::Tcp, &format!(r#"{{"rules": [{rule}]}}"#));
        assert!(matches_nothing(allow.allow.as_ref()), "ALLOW {rule}");
        let deny = check(Layer::Tcp, &format!(r#"{{"action": "DENY", "rules": [{rule}]}}"#));
        assert!(matches_all(deny.deny.as_ref()), "DENY {rule}");
        let allow = check(Layer::Http, &format!(r#"{{"rules": [{rule}]}}"#));
        assert!(!matches_nothing(allow.allow.as_ref()), "{rule}");
        assert_ne!(keys(allow.allow.as_ref()), None, "{rule}");
    }
}

#[test]
fn rules_for_another_port_are_left_out_and_keep_their_number() {
    let rules = r#"[{"to": [{"operation": {"ports": ["81"]}}]}, {"to": [{"operation": {"ports": ["80"]}}]}]"#;
    let allow = check(Layer::Http, &format!(r#"{{"rules": {rules}}}"#));
    assert_eq!(keys(allow.allow.as_ref()), Some(vec!["ns[shop]-policy[p]-rule[1]"]));
}

#[test]
fn a_policy_that_asks_a_provider_nobody_has_denies() {
    let custom = check(Layer::Http, r#"{"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}"#);
    assert!(matches_all(custom.deny.as_ref()));
}

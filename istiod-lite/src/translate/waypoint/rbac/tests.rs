use std::net::IpAddr;
use std::sync::Arc;

use ambit_api::envoy::pb::envoy::config::rbac::v3::{permission::Rule as Permission, principal::Identifier};

use super::super::names::Layer;
use super::super::wire::ordered::Rules;
use super::unknown::UNKNOWN;
use super::{Enforcement, Place, compile};
use crate::source::crd::AuthorizationPolicy;

fn check(layer: Layer, spec: &str) -> Enforcement {
    compiled(layer, spec, &serde_json::json!({}))
}

/// As a policy in dry run.
fn in_dry_run(layer: Layer, spec: &str) -> Enforcement {
    compiled(layer, spec, &serde_json::json!({ "istio.io/dry-run": "true" }))
}

fn compiled(layer: Layer, spec: &str, annotations: &serde_json::Value) -> Enforcement {
    let address = [IpAddr::from([10, 96, 0, 10])];
    at(Place { layer, port: Some(80), addresses: Some(&address), trust_domain: "cluster.local" }, spec, annotations)
}

fn at(place: Place<'_>, spec: &str, annotations: &serde_json::Value) -> Enforcement {
    let policy = serde_json::json!({
        "metadata": { "name": "p", "namespace": "shop", "annotations": annotations },
        "spec": serde_json::from_str::<serde_json::Value>(spec).unwrap(),
    });
    let policy: Arc<AuthorizationPolicy> = Arc::new(serde_json::from_value(policy).unwrap());
    compile(&[&policy], place)
}

/// What is left of a rule that asks for the destination's address.
#[derive(Debug, PartialEq)]
enum Left {
    Everything,
    Nothing,
    /// It is asked for, as this range.
    Range(String, u32),
    /// It is asked for, as none of this range.
    Not(String, u32),
}

fn destination(layer: Layer, addresses: Option<&[IpAddr]>, action: &str, values: &str) -> Left {
    let place = Place { layer, port: addresses.map(|_| 80), addresses, trust_domain: "cluster.local" };
    let spec = format!(r#"{{"action": "{action}", "rules": [{{"when": [{{"key": "destination.ip", {values}}}]}}]}}"#);
    let enforcement = at(place, &spec, &serde_json::json!({}));
    let rules = if action == "DENY" { enforcement.deny } else { enforcement.allow };
    if matches_all(rules.as_ref()) {
        return Left::Everything;
    }
    let Some(policy) = rules.as_ref().and_then(|rules| rules.policies.get("ns[shop]-policy[p]-rule[0]")) else {
        return Left::Nothing;
    };
    let range = |rule: Option<&Permission>| match rule {
        Some(Permission::DestinationIp(range)) => {
            (range.address_prefix.clone(), range.prefix_len.map_or(0, |length| length.value))
        }
        other => panic!("{other:?}"),
    };
    match policy.permissions[0].rule.as_ref() {
        Some(Permission::NotRule(not)) => {
            let (address, length) = range(not.rule.as_ref());
            Left::Not(address, length)
        }
        rule => {
            let (address, length) = range(rule);
            Left::Range(address, length)
        }
    }
}

#[test]
fn the_address_that_is_asked_for_is_known_beforehand_for_a_service_and_asked_for_where_there_are_several() {
    let one = [IpAddr::from([10, 96, 0, 10])];
    let two = [IpAddr::from([10, 96, 0, 10]), "fd00::10".parse().unwrap()];
    let written_as_ipv6 = ["::ffff:10.96.0.10".parse::<IpAddr>().unwrap()];
    let network = r#""values": ["10.96.0.0/16"]"#;
    let mapped = r#""values": ["::ffff:10.96.0.0/112"]"#;
    let others = r#""values": ["10.97.0.0/16", "10.96.0.11"]"#;
    let not_network = r#""notValues": ["10.96.0.0/16"]"#;
    let range = || Left::Range("10.96.0.0".into(), 16);
    let not_range = || Left::Not("10.96.0.0".into(), 16);
    for action in ["ALLOW", "DENY"] {
        for layer in [Layer::Http, Layer::Tcp] {
            let of = |addresses: Option<&[IpAddr]>, values: &str| destination(layer, addresses, action, values);
            assert_eq!(of(Some(&one), network), Left::Everything);
            assert_eq!(of(Some(&one), mapped), Left::Everything);
            assert_eq!(of(Some(&written_as_ipv6), network), Left::Everything);
            assert_eq!(of(Some(&one), others), Left::Nothing);
            assert_eq!(of(Some(&one), not_network), Left::Nothing);
            assert_eq!(of(Some(&one), r#""notValues": ["10.97.0.0/16"]"#), Left::Everything);
            // Pods that are asked for by their own addresses.
            assert_eq!(of(None, network), range());
            assert_eq!(of(None, mapped), range());
            assert_eq!(of(None, not_network), not_range());
        }
        assert_eq!(destination(Layer::Http, Some(&two), action, network), range());
        assert_eq!(destination(Layer::Http, Some(&two), action, not_network), not_range());
    }
    // Where it is not known, nothing more passes: before a tunnel stands, and at the edge of the mesh.
    for (layer, addresses) in [(Layer::Tcp, two.as_slice()), (Layer::Http, &[] as &[IpAddr])] {
        for values in [network, not_network] {
            assert_eq!(destination(layer, Some(addresses), "ALLOW", values), Left::Nothing);
            assert_eq!(destination(layer, Some(addresses), "DENY", values), Left::Everything);
        }
    }
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
        r#"{"from": [{"source": {"remoteIpBlocks": ["not an address"]}}]}"#,
        r#"{"from": [{"source": {"notRemoteIpBlocks": ["not an address"]}}]}"#,
        r#"{"when": [{"key": "remote.ip", "values": ["not an address"]}]}"#,
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
fn the_address_of_the_client_is_the_one_that_the_tunnel_tells_by_either_name() {
    for (field, key) in [("ipBlocks", "source.ip"), ("remoteIpBlocks", "remote.ip")] {
        let not_field = format!("not{}{}", field[..1].to_uppercase(), &field[1..]);
        let from = |field: &str| format!(r#"{{"from": [{{"source": {{"{field}": ["10.1.2.0/24"]}}}}]}}"#);
        let when = |values: &str| format!(r#"{{"when": [{{"key": "{key}", "{values}": ["10.1.2.0/24"]}}]}}"#);
        for (rule, negated) in
            [(from(field), false), (from(&not_field), true), (when("values"), false), (when("notValues"), true)]
        {
            for layer in [Layer::Http, Layer::Tcp] {
                let rules = check(layer, &format!(r#"{{"rules": [{rule}]}}"#)).allow.unwrap();
                let asked = rules.policies.values().next().unwrap().principals[0].identifier.clone().unwrap();
                let asked = match (asked, negated) {
                    (Identifier::NotId(asked), true) => asked.identifier.unwrap(),
                    (asked, _) => asked,
                };
                let Identifier::RemoteIp(range) = asked else { panic!("{rule}: {asked:?}") };
                assert_eq!((range.address_prefix.as_str(), range.prefix_len.unwrap().value), ("10.1.2.0", 24), "{rule}");
            }
        }
    }
}

#[test]
fn an_ipv4_network_that_is_written_as_one_of_ipv6_is_one_of_ipv4() {
    let nets = [
        ("::ffff:10.1.2.3", "10.1.2.3", 32),
        ("::ffff:10.1.2.3/120", "10.1.2.0", 24),
        ("::ffff:0:0/96", "0.0.0.0", 0),
        // A larger one is of IPv6.
        ("::/0", "::", 0),
        ("fd00::/8", "fd00::", 8),
    ];
    for (net, prefix, length) in nets {
        let rules = check(Layer::Http, &format!(r#"{{"rules": [{{"from": [{{"source": {{"ipBlocks": ["{net}"]}}}}]}}]}}"#));
        let rules = rules.allow.unwrap();
        let asked = rules.policies.values().next().unwrap().principals[0].identifier.clone().unwrap();
        let Identifier::RemoteIp(range) = asked else { panic!("{net}: {asked:?}") };
        assert_eq!((range.address_prefix.as_str(), range.prefix_len.unwrap().value), (prefix, length), "{net}");
    }
}

#[test]
fn a_policy_in_dry_run_is_compiled_as_it_would_hold_and_refuses_nothing() {
    for layer in [Layer::Http, Layer::Tcp] {
        for rules in [r#"[{"from": [{"source": {"namespaces": ["a"]}}]}]"#, "[{}]"] {
            let allow = format!(r#"{{"rules": {rules}}}"#);
            let deny = format!(r#"{{"action": "DENY", "rules": {rules}}}"#);
            let (allowing, denying) = (in_dry_run(layer, &allow), in_dry_run(layer, &deny));
            assert_eq!(allowing, Enforcement { dry_run: allowing.dry_run.clone(), ..Enforcement::default() });
            assert_eq!(denying, Enforcement { dry_run: denying.dry_run.clone(), ..Enforcement::default() });
            assert_eq!((allowing.dry_run.allow, allowing.dry_run.deny), (check(layer, &allow).allow, None));
            assert_eq!((denying.dry_run.allow, denying.dry_run.deny), (None, check(layer, &deny).deny));
        }
        assert!(matches_nothing(in_dry_run(layer, "{}").dry_run.allow.as_ref()));
        assert_eq!(in_dry_run(layer, r#"{"action": "DENY"}"#), Enforcement::default());
        // Nobody is asked, and nothing is refused instead.
        assert_eq!(
            in_dry_run(layer, r#"{"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}"#),
            Enforcement::default()
        );
    }
}

#[test]
fn rule_sets_of_one_action_stand_together_and_dry_runs_are_called_as_in_istio() {
    let both = |enforced: Enforcement, dry: Enforcement| Enforcement { dry_run: dry.dry_run, ..enforced };
    let sets = |enforcement: &Enforcement| {
        let sets = enforcement.of_actions();
        sets.map(|of| (of.enforced.is_some(), of.dry_run.is_some(), of.prefix())).collect::<Vec<_>>()
    };
    let (allow, deny) = (r#"{"rules": [{}]}"#, r#"{"action": "DENY", "rules": [{}]}"#);
    let http = Layer::Http;
    let named = |action: &str| format!("istio_dry_run_{action}_");
    assert!(sets(&Enforcement::default()).is_empty());
    assert_eq!(sets(&check(http, deny)), [(true, false, String::new())]);
    assert_eq!(sets(&in_dry_run(http, deny)), [(false, true, named("deny"))]);
    assert_eq!(sets(&both(check(http, allow), in_dry_run(http, allow))), [(true, true, named("allow"))]);
    assert_eq!(
        sets(&both(check(http, allow), in_dry_run(http, deny))),
        [(false, true, named("deny")), (true, false, String::new())]
    );
}

#[test]
fn what_is_said_to_be_unknown_to_waypoints_is() {
    for key in UNKNOWN {
        let key = if key.ends_with('.') { format!("{key}x") } else { key.to_owned() };
        let rules = format!(r#""rules": [{{"when": [{{"key": "{key}", "values": ["10.0.0.1"]}}]}}]"#);
        assert!(matches_nothing(check(Layer::Http, &format!("{{{rules}}}")).allow.as_ref()), "{key}");
        assert!(matches_all(check(Layer::Http, &format!(r#"{{"action": "DENY", {rules}}}"#)).deny.as_ref()), "{key}");
    }
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

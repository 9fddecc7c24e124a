//! AuthorizationPolicies of a service.

use serde_json::{Value, json};

use super::METHODS;
use crate::dice::Dice;

const PATHS: [&str; 11] = ["/a", "/a*", "/a/*", "*/b", "*", "/", "/{*}/b", "/a/{**}", "/caf%C3%A9", "/pkg.Echo/*", "/A*"];
const HOSTS: [&str; 5] = ["svc.shop", "*.shop", "SVC.shop", "other.example", "other.*"];
const PRINCIPALS: [&str; 4] =
    ["cluster.local/ns/shop/sa/web", "cluster.local/ns/tests/sa/web", "*/sa/intruder", "cluster.local/ns/shop/*"];
const NAMESPACES: [&str; 4] = ["shop", "tests", "strangers", "s*"];
/// The client is in the first two.
const ADDRESSES: [&str; 4] = ["10.244.0.0/16", "0.0.0.0/0", "192.0.2.0/24", "fd00::/8"];
const VALUES: [&str; 6] = ["v1", "v*", "*2", "*", "1", "v1,v2"];

/// Mostly none. What is said of addresses, and which of them are in dry run, is by dice of their own: the rest of a corpus is what it is without.
pub fn of_service(dice: &mut Dice, of_addresses: &mut Dice, service: &str) -> Vec<Value> {
    if !dice.one_in(3) {
        return Vec::new();
    }
    let mut policies = Vec::new();
    for number in 0..=dice.below(2) {
        let mut policy = policy(dice, service, number);
        with_addresses(of_addresses, &mut policy);
        policies.push(policy);
    }
    policies
}

/// Has some of its rules be about the client's address as well, or all of it be in dry run.
fn with_addresses(dice: &mut Dice, policy: &mut Value) {
    if dice.one_in(6) {
        policy["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    }
    for rule in policy["spec"]["rules"].as_array_mut().into_iter().flatten() {
        if !dice.one_in(4) {
            continue;
        }
        let blocks = dice.some(2, |dice| dice.of(&ADDRESSES));
        if dice.one_in(2) {
            if rule["from"].is_null() {
                rule["from"] = json!([{"source": {}}]);
            }
            let name = dice.of(&["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"]);
            rule["from"][0]["source"][name] = blocks.into();
        } else {
            let mut when = json!({"key": dice.of(&["source.ip", "remote.ip"])});
            when[if dice.one_in(3) { "notValues" } else { "values" }] = blocks.into();
            if rule["when"].is_null() {
                rule["when"] = json!([]);
            }
            rule["when"].as_array_mut().expect("a list").push(when);
        }
    }
}

fn policy(dice: &mut Dice, service: &str, number: usize) -> Value {
    let allows = dice.one_in(2);
    let mut rules = dice.some(3, rule);
    if allows && !dice.one_in(3) {
        // So that more than what is refused is seen.
        rules.push(json!({"from": [{"source": {"notPrincipals": ["*/sa/intruder"]}}], "to": [{"operation": {"notMethods": ["DELETE"]}}]}));
    }
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("{service}-{number}"), "namespace": "shop"},
        "spec": {
            "action": if allows { "ALLOW" } else { "DENY" },
            "targetRefs": [{"group": "", "kind": "Service", "name": service}],
            "rules": rules,
        },
    })
}

fn rule(dice: &mut Dice) -> Value {
    let mut rule = json!({});
    if dice.one_in(2) {
        let (name, values) = match dice.below(4) {
            0 => ("principals", dice.some(2, |dice| dice.of(&PRINCIPALS))),
            1 => ("notPrincipals", dice.some(2, |dice| dice.of(&PRINCIPALS))),
            2 => ("namespaces", dice.some(2, |dice| dice.of(&NAMESPACES))),
            _ => ("notNamespaces", dice.some(2, |dice| dice.of(&NAMESPACES))),
        };
        let mut source = json!({});
        source[name] = values.into();
        rule["from"] = json!([{"source": source}]);
    }
    if !dice.one_in(4) {
        rule["to"] = dice.some(2, |dice| json!({"operation": operation(dice)})).into();
    }
    if dice.one_in(3) || rule["to"].is_null() {
        let (key, values) = match dice.below(6) {
            0 => ("source.namespace", NAMESPACES.as_slice()),
            1 => ("source.principal", PRINCIPALS.as_slice()),
            2 => ("request.headers[X-Two]", VALUES.as_slice()),
            3 => ("request.headers[user-agent]", VALUES.as_slice()),
            _ => ("request.headers[x-one]", VALUES.as_slice()),
        };
        let field = if dice.one_in(3) { "notValues" } else { "values" };
        let mut when = json!({"key": key});
        when[field] = dice.some(2, |dice| dice.of(values)).into();
        rule["when"] = json!([when]);
    }
    rule
}

fn operation(dice: &mut Dice) -> Value {
    let mut operation = json!({});
    for _ in 0..=dice.below(2) {
        let (name, values) = match dice.below(9) {
            0..=2 => ("paths", dice.some(3, |dice| dice.of(&PATHS))),
            3 => ("notPaths", dice.some(2, |dice| dice.of(&PATHS))),
            4 => ("methods", dice.some(3, |dice| dice.of(&METHODS))),
            5 => ("notMethods", dice.some(2, |dice| dice.of(&METHODS))),
            6 => ("hosts", dice.some(2, |dice| dice.of(&HOSTS))),
            7 => ("notHosts", dice.some(2, |dice| dice.of(&HOSTS))),
            _ => ("ports", dice.some(1, |dice| dice.of(&["80", "8080"]))),
        };
        operation[name] = values.into();
    }
    operation
}

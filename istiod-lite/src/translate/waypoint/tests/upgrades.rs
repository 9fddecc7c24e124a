//! What RequestPolicies say of upgrades.

use super::{of_waypoint, render};

const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}]}
"#
);
const ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r";
const RULE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one";
const SERVICE: &str = "group: '', kind: Service, name: a";
const IRC: &str = "upgrades: [IRC/6.9, b]";

/// A route of `a` with one rule.
fn route(namespace: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: a, namespace: shop}}], rules: [{{name: one, {rule}}}]}}\n"
    )
}

fn sends_on(namespace: &str) -> String {
    route(namespace, "backendRefs: [{name: a, namespace: shop, port: 80}]")
}

fn policy(name: &str, target: &str, said: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{{{target}}}], {said}}}\n"
    )
}

/// Of the first route of `a` that upgrades are said of: which, and the policy that it names for them.
#[track_caller]
fn check(objects: &[String], expected: Option<(&[&str], &str)>) {
    let resources = of_waypoint(&format!("{AROUND}{}", objects.concat()));
    let (_, table) = resources.routes.iter().find(|(name, _)| name == "inbound-vip|80|http|a.shop.svc.cluster.local").unwrap();
    let table = render(table);
    let hosts = table["virtual_hosts"].as_array().unwrap();
    let mut routes = hosts.iter().flat_map(|host| host["routes"].as_array().unwrap());
    let found = routes.find_map(|route| {
        let upgrades = route["route"]["upgrade_configs"].as_array().filter(|upgrades| !upgrades.is_empty())?;
        let names: Vec<String> = upgrades.iter().map(|said| said["upgrade_type"].as_str().unwrap().to_owned()).collect();
        Some((names, route["metadata"]["filter_metadata"]["ambit.dev"]["upgrades"].as_str()?.to_owned()))
    });
    let expected =
        expected.map(|(names, by)| (names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>(), by.to_owned()));
    assert_eq!(found, expected, "{objects:#?}");
}

#[test]
fn upgrades_that_a_policy_names_are_said_by_the_routes_it_is_for() {
    let both: &[&str] = &["b", "irc/6.9"];
    check(&[sends_on("shop")], None);
    for target in [RULE, ROUTE, SERVICE] {
        check(&[sends_on("shop"), policy("shop/irc", target, IRC)], Some((both, "shop/irc")));
    }
    // Without a route as well.
    check(&[policy("shop/irc", SERVICE, IRC)], Some((both, "shop/irc")));
    // Of several policies one holds as a whole.
    let faults = policy("shop/faults", ROUTE, "fault: {abort: {status: 503}}");
    check(&[sends_on("shop"), faults, policy("shop/irc", SERVICE, IRC)], None);
    // What is not sent on is not upgraded.
    let moved = route("shop", "filters: [{type: RequestRedirect, requestRedirect: {hostname: b.example}}]");
    check(&[moved, policy("shop/irc", SERVICE, IRC)], None);
}

#[test]
fn nobody_but_who_serves_them_lets_clients_have_upgrades() {
    let asks = || sends_on("callers");
    check(&[asks(), policy("callers/own", ROUTE, IRC)], None);
    let both: &[&str] = &["b", "irc/6.9"];
    let own = policy("callers/own", ROUTE, "upgrades: [own/1]");
    check(&[asks(), own, policy("shop/irc", SERVICE, IRC)], Some((both, "shop/irc")));
}

#[test]
fn calls_of_grpc_are_not_upgraded() {
    let calls = route("shop", "backendRefs: [{name: a, port: 80}]").replace("HTTPRoute", "GRPCRoute");
    check(&[calls, policy("shop/irc", SERVICE, IRC)], None);
}

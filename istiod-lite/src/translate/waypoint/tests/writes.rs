//! What RequestPolicies say of retries of writes.

use serde_json::Value;

use super::{of_waypoint, render};

const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: a}, ports: [{name: http, port: 80}]}
"#
);
const UNSEEN: &str = "connect-failure,refused-stream,reset-before-request";
const ALL: &str = "connect-failure,refused-stream,reset,retriable-status-codes";

/// A route of `a` with one rule that retries.
fn route(namespace: &str, condition: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: a, namespace: shop}}], \
         rules: [{{name: one, {condition}backendRefs: [{{name: a, namespace: shop, port: 80}}], retry: {{codes: [503]}}}}]}}\n"
    )
}

fn policy(name: &str, target: &str, said: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{{{target}}}], {said}}}\n"
    )
}

const ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r";
const RULE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one";
const SERVICE: &str = "group: '', kind: Service, name: a";
const ALLOWED: &str = "retries: {writes: Allowed}";
const ONLY_UNSEEN: &str = "retries: {writes: Unseen}";

/// Of each route of `a` that retries on what, and the policy that it names for that.
#[track_caller]
fn check(objects: &[String], expected: &[(&str, Option<&str>)]) {
    let resources = of_waypoint(&format!("{AROUND}{}", objects.concat()));
    let (_, table) = resources.routes.iter().find(|(name, _)| name == "inbound-vip|80|http|a.shop.svc.cluster.local").unwrap();
    let table = render(table);
    let routes = table["virtual_hosts"][0]["routes"].as_array().unwrap();
    let of = |route: &Value| {
        let by = &route["metadata"]["filter_metadata"]["ambit.dev"]["retries"];
        Some((route["route"]["retry_policy"]["retry_on"].as_str()?.to_owned(), by.as_str().map(str::to_owned)))
    };
    let found: Vec<_> = routes.iter().filter_map(of).collect();
    let expected: Vec<_> = expected.iter().map(|(on, by)| ((*on).to_owned(), by.map(str::to_owned))).collect();
    assert_eq!(found, expected, "{objects:#?}");
}

#[test]
fn writes_are_sent_again_after_they_were_seen_only_where_a_policy_says_so() {
    let any = || route("shop", "");
    let of_method = |method: &str| route("shop", &format!("matches: [{{method: {method}}}], "));
    let twice = Some("shop/twice");
    check(&[any()], &[(ALL, None), (UNSEEN, None)]);
    for target in [RULE, ROUTE, SERVICE] {
        check(&[any(), policy("shop/twice", target, ALLOWED)], &[(ALL, twice)]);
        check(&[of_method("POST"), policy("shop/twice", target, ALLOWED)], &[(ALL, twice)]);
        check(&[of_method("GET"), policy("shop/twice", target, ALLOWED)], &[(ALL, None)]);
        check(&[any(), policy("shop/once", target, ONLY_UNSEEN)], &[(ALL, None), (UNSEEN, None)]);
    }
    // Of several policies one holds as a whole.
    let faults = policy("shop/faults", ROUTE, "fault: {abort: {status: 503}}");
    check(&[of_method("POST"), faults, policy("shop/twice", SERVICE, ALLOWED)], &[(UNSEEN, None)]);
}

#[test]
fn who_serves_writes_says_before_others_whether_they_may_arrive_twice() {
    let asks = || route("callers", "matches: [{method: POST}], ");
    let own = || policy("callers/own", ROUTE, ALLOWED);
    check(&[asks(), own()], &[(ALL, Some("callers/own"))]);
    check(&[asks(), own(), policy("shop/never", SERVICE, ONLY_UNSEEN)], &[(UNSEEN, None)]);
    check(&[asks(), policy("shop/twice", SERVICE, ALLOWED)], &[(ALL, Some("shop/twice"))]);
    check(&[asks(), policy("shop/elsewhere", ROUTE, ALLOWED)], &[(UNSEEN, None)]);
}

#[test]
fn a_policy_of_a_service_holds_for_the_retries_of_a_virtual_service() {
    let rules = |method: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: shop}}\n\
             spec: {{hosts: [a], http: [{{{method}route: [{{destination: {{host: a}}}}], retries: {{attempts: 2, retryOn: 5xx}}}}]}}\n"
        )
    };
    let twice = || policy("shop/twice", SERVICE, ALLOWED);
    check(&[rules("")], &[("5xx", None), (UNSEEN, None)]);
    check(&[rules(""), twice()], &[("5xx", Some("shop/twice"))]);
    check(&[rules("match: [{method: {exact: POST}}], "), twice()], &[("5xx", Some("shop/twice"))]);
    check(&[rules("match: [{method: {exact: PUT}}], "), twice()], &[("5xx", None)]);
}

#[test]
fn calls_are_sent_again_after_their_statuses_only_where_a_policy_says_so() {
    const ISTIO: &str = "connect-failure,refused-stream,unavailable,cancelled";
    let rule = |method: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: shop}}\n\
             spec: {{hosts: [a], http: [{{{method}route: [{{destination: {{host: a}}}}], retries: {{attempts: 2, retryOn: '{ISTIO}'}}}}]}}\n"
        )
    };
    let post = "match: [{method: {exact: POST}}], ";
    let twice = || policy("shop/twice", SERVICE, ALLOWED);
    check(&[rule("")], &[(ISTIO, None), (UNSEEN, None)]);
    check(&[rule(post)], &[(UNSEEN, None)]);
    check(&[rule(""), twice()], &[(ISTIO, Some("shop/twice"))]);
    check(&[rule(post), twice()], &[(ISTIO, Some("shop/twice"))]);
    check(&[rule(post), policy("shop/never", SERVICE, ONLY_UNSEEN)], &[(UNSEEN, None)]);
}

//! What TrafficPolicies and DestinationRules say of themselves.

use super::{GATEWAY, mesh, service};
use crate::source::{Kind, NamespacedName, ObjectKey, Origin, Problem, Severity};
use crate::status::patch::patch;
use crate::status::{ObjectStatus, of, traffic};

const KIND: &str = "ambit.dev/v1alpha1\nkind: TrafficPolicy";
const RULE: &str = "networking.istio.io/v1\nkind: DestinationRule";
const LIMIT: &str = "limits: {requests: 5}";

/// An object of namespace `shop`, made in this second.
fn made(kind: &str, name: &str, second: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: {kind}\nmetadata: {{name: {name}, namespace: shop, generation: 7, \
         creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\nspec: {spec}\n"
    )
}

/// A mesh in which `a` goes through a waypoint and `plain` does not, with these objects besides: the status of the one named `x`.
fn status(kind: Kind, objects: &str) -> ObjectStatus {
    let services = [service("a", "shop", "gate"), service("plain", "shop", "none")].concat();
    let pods = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: outside, namespace: shop, labels: {app: a}}\n\
                spec: {containers: []}\nstatus: {podIP: 10.0.0.9}\n";
    let services = services.replacen("spec: {ports", "spec: {selector: {app: a}, ports", 1);
    let index = mesh(&format!("{GATEWAY}{services}{pods}{objects}"));
    of(&index, &ObjectKey { kind, name: NamespacedName::new("shop", "x") }, None).unwrap()
}

/// `type=status reason: message` of each condition, with the ancestor before it if there is one.
fn said(kind: Kind, objects: &str) -> Vec<String> {
    let conditions = status(kind, objects).conditions;
    assert!(conditions.iter().all(|condition| condition.observed_generation == Some(7)));
    let text = |c: crate::status::Condition| {
        let ancestor = c.parent.map(|parent| format!("{parent}: ")).unwrap_or_default();
        format!("{ancestor}{}={} {}: {}", c.r#type, c.status, c.reason, c.message)
    };
    conditions.into_iter().map(text).collect()
}

fn policy(name: &str, second: u32, target: &str) -> String {
    made(KIND, name, second, &format!("{{targetRefs: [{target}], {LIMIT}}}"))
}

const A: &str = "{group: '', kind: Service, name: a}";
const PORT: &str = "{group: '', kind: Service, name: a, sectionName: http}";

#[test]
fn a_traffic_policy_says_of_each_target_whether_it_holds_and_what_holds_in_its_place() {
    let check = |objects: &[String], expected: &[&str]| assert_eq!(said(Kind::TrafficPolicy, &objects.concat()), expected);
    check(&[policy("x", 1, A)], &["Service shop/a: Accepted=True Accepted: Attached to the waypoint of Service shop/a"]);
    check(
        &[policy("x", 1, "{kind: Service, name: gone}, {kind: Service, name: a, sectionName: https}")],
        &[
            "Service shop/gone: Accepted=False TargetNotFound: Service shop/gone does not exist",
            "Service shop/a port https: Accepted=False TargetNotFound: Service shop/a has no port https",
        ],
    );
    let conflict = "Service shop/a: Accepted=False Conflicted: TrafficPolicy shop/o has the same target and is older, and holds in its place";
    check(&[policy("x", 2, A), policy("o", 1, A)], &[conflict]);
    // Of one age the first by name.
    check(&[policy("x", 1, A), policy("o", 1, A)], &[conflict]);
    check(
        &[policy("x", 1, A), policy("o", 2, A)],
        &["Service shop/a: Accepted=True Accepted: Attached to the waypoint of Service shop/a"],
    );
    check(
        &[policy("x", 1, A), policy("o", 2, PORT)],
        &[
            "Service shop/a: Accepted=True Accepted: Attached to the waypoint of Service shop/a, but for what holds in its place: TrafficPolicy shop/o for port 80",
        ],
    );
    check(
        &[policy("x", 2, PORT), policy("o", 1, A)],
        &["Service shop/a port http: Accepted=True Accepted: Attached to the waypoint of Service shop/a"],
    );
    check(
        &[policy("x", 1, "{kind: Service, name: plain}")],
        &[
            "Service shop/plain: Accepted=False AncestorNotBound: Service shop/plain has no waypoint: the policy holds only where a route leads to it from a Service that has one, or from a Gateway at the edge",
        ],
    );
}

#[test]
fn that_nobody_takes_over_where_nobody_is_found_to_fail_is_said() {
    let policy = |more: &str| {
        let spec = format!("{{targetRefs: [{A}], loadBalancing: {{locality: {{failover: true}}}}{more}}}");
        said(Kind::TrafficPolicy, &made(KIND, "x", 1, &spec)).concat()
    };
    let idle = "Attached to the waypoint of Service shop/a. loadBalancing.locality.failover has no effect without outlierDetection or healthCheck";
    assert!(policy("").ends_with(idle), "{}", policy(""));
    assert!(policy(", outlierDetection: {}").ends_with("shop/a"), "{}", policy(", outlierDetection: {}"));
    let rule = |setting: &str, more: &str| {
        let spec = format!("{{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{{setting}}}}}{more}}}}}");
        said(Kind::DestinationRule, &made(RULE, "x", 1, &spec)).concat()
    };
    let idle = ". localityLbSetting has no effect without outlierDetection, but for distribute";
    assert!(rule("enabled: true", "").ends_with(idle), "{}", rule("enabled: true", ""));
    for (setting, more) in
        [("enabled: true", ", outlierDetection: {}"), ("enabled: false", ""), ("distribute: [{from: a, to: {a: 100}}]", "")]
    {
        assert!(!rule(setting, more).contains("no effect"), "{}", rule(setting, more));
    }
}

#[test]
fn the_status_of_a_traffic_policy_is_a_policy_status_and_leaves_those_of_others() {
    let wanted = status(Kind::TrafficPolicy, &policy("x", 1, PORT));
    let others = serde_json::json!({"ancestors": [{"ancestorRef": {"name": "a"}, "controllerName": "e.x/y", "conditions": []}]});
    let written = patch(Some(&others), &wanted, "2026-01-01T00:00:00Z").unwrap();
    let expected = serde_json::json!({"ancestors": [
        others["ancestors"][0],
        {
            "ancestorRef": {"group": "", "kind": "Service", "namespace": "shop", "name": "a", "sectionName": "http"},
            "controllerName": "istio.io/mesh-controller",
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 7,
                "message": "Attached to the waypoint of Service shop/a", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    ]});
    assert_eq!(written, expected);
    assert_eq!(patch(Some(&written), &wanted, "2026-02-02T00:00:00Z"), None, "it is said already");
    let mut invalid = wanted.conditions;
    let problem = Problem {
        origin: Origin::Cluster,
        object: None,
        field: "spec.limits".into(),
        reason: "bad".into(),
        severity: Severity::Error,
    };
    traffic::unreadable(&mut invalid, &problem);
    let said = (invalid[0].status, invalid[0].reason, invalid[0].message.as_str());
    assert_eq!(said, ("False", "Invalid", "spec.limits: bad. Until this is mended, its last good version holds"));
}

#[test]
fn a_destination_rule_says_what_of_it_holds() {
    let rule = |name: &str, second: u32, host: &str, more: &str| {
        let limit = "connectionPool: {http: {http2MaxRequests: 5}}";
        made(RULE, name, second, &format!("{{host: {host}, trafficPolicy: {{{limit}{more}}}}}"))
    };
    #[track_caller]
    fn check(objects: &[String], expected: &str) {
        let said = said(Kind::DestinationRule, &objects.concat());
        assert!(said.len() == 1 && said[0].contains(expected), "{expected}: {said:#?}");
    }
    check(&[rule("x", 1, "a", "")], "Accepted=True Accepted: Attached to the waypoint of a");
    check(&[rule("x", 1, "a.shop.svc.cluster.local", "")], "Accepted=True Accepted: ");
    check(&[rule("x", 1, "gone", "")], "Accepted=False TargetNotFound: Namespace shop has no Service \"gone\"");
    check(&[rule("x", 1, "plain", "")], "Accepted=False AncestorNotBound: plain has no waypoint");
    check(
        &[rule("x", 2, "a", ""), rule("o", 1, "a.shop.svc.cluster.local", "")],
        "Accepted=False Conflicted: DestinationRule shop/o has the same host and is older",
    );
    check(
        &[rule("x", 1, "a", ""), policy("p", 2, A)],
        "Accepted=False Conflicted: A TrafficPolicy comes before a DestinationRule: TrafficPolicy shop/p for port 80",
    );
    check(
        &[rule("x", 1, "a", ", loadBalancer: {consistentHash: {}}")],
        "Accepted=False UnsupportedValue: spec.trafficPolicy.loadBalancer.consistentHash: it says nothing to hash requests by, and has no effect: give httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName. The rest holds",
    );
    let tls = "spec.trafficPolicy.tls.mode: a waypoint begins no TLS to backends, and answers requests with 500";
    check(&[rule("x", 1, "a", ", tls: {mode: SIMPLE}")], &format!("Accepted=False UnsupportedValue: {tls}"));
    // It is said whatever else is.
    check(&[rule("x", 1, "plain", ", tls: {mode: SIMPLE}")], tls);
    check(&[rule("x", 1, "a", ", tls: {mode: DISABLE}")], "Accepted=True Accepted: ");
    check(
        &[rule("x", 1, "a", ", tls: {mode: ISTIO_MUTUAL}")],
        "Accepted=False UnsupportedValue: tls.mode ISTIO_MUTUAL: these endpoints are not in the mesh, and are reached in clear: outside",
    );
}

#[test]
fn a_destination_rule_says_of_its_subsets_what_it_says_of_all_endpoints() {
    let rule = |subset: &str| made(RULE, "x", 1, &format!("{{host: a, subsets: [{{name: v1, {subset}}}]}}"));
    #[track_caller]
    fn check(objects: &[String], expected: &str) {
        let said = said(Kind::DestinationRule, &objects.concat());
        assert!(said.len() == 1 && said[0].contains(expected), "{expected}: {said:#?}");
    }
    let mutual = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}";
    check(&[rule(mutual)], "are not in the mesh, and are reached in clear: outside");
    check(&[rule(&format!("labels: {{version: none}}, {mutual}"))], "Accepted=True Accepted: Attached to the waypoint of a");
    // A TrafficPolicy says nothing of who belongs to a subset.
    check(&[rule("labels: {version: v1}"), policy("p", 2, A)], "Accepted=True Accepted: Attached to the waypoint of a");
    let limit = "trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5}}}";
    check(
        &[rule(limit), policy("p", 2, A)],
        "Accepted=False Conflicted: A TrafficPolicy comes before a DestinationRule: TrafficPolicy shop/p for port 80; its subsets",
    );
}

#[test]
fn a_policy_of_the_gateway_api_says_whether_it_holds_and_what_of_it_does_not() {
    const THEIRS: &str = "gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy";
    let one = |name: &str, second: u32, said: &str| made(THEIRS, name, second, &format!("{{targetRefs: [{A}], {said}}}"));
    let check = |objects: &[String], expected: &[&str]| assert_eq!(said(Kind::BackendTrafficPolicy, &objects.concat()), expected);
    let budget = "retryConstraint: {budget: {percent: 20}}";
    let attached = "Service shop/a: Accepted=True Accepted: Attached to the waypoint of Service shop/a";
    check(&[one("x", 1, budget)], &[attached]);
    let idle = format!("{attached}, but: sessionPersistence.idleTimeout has no effect");
    check(&[one("x", 1, "sessionPersistence: {idleTimeout: 1m}")], &[&idle]);
    let conflict = "Service shop/a: Accepted=False Conflicted: XBackendTrafficPolicy shop/o has the same target and is older, and holds in its place";
    check(&[one("x", 2, budget), one("o", 1, budget)], &[conflict]);
    let elsewhere =
        "{targetRefs: [{group: '', kind: Service, name: gone}, {group: e.x, kind: Bucket, name: b}], retryConstraint: {}}";
    check(
        &[made(THEIRS, "x", 1, elsewhere)],
        &[
            "Service shop/gone: Accepted=False TargetNotFound: Service shop/gone does not exist",
            "Bucket shop/b: Accepted=False Invalid: Bucket of group \"e.x\" cannot be targeted; Service of group \"\" can",
        ],
    );
}

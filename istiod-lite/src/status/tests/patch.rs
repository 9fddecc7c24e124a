//! From conditions to patches: nothing of others is touched, and what is said is not said again.

use serde_json::{Value, json};

use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::patch::patch;
use crate::status::{Condition, Listener, ObjectStatus};

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-02-02T00:00:00Z";

fn wanted(kind: Kind, conditions: Vec<Condition>) -> ObjectStatus {
    let object = ObjectKey { kind, name: NamespacedName::new("shop", "x") };
    ObjectStatus { object, conditions, addresses: None, listeners: Vec::new() }
}

fn condition(r#type: &'static str, good: bool, reason: &'static str) -> Condition {
    Condition { observed_generation: Some(2), ..Condition::new(r#type, good, reason, "why") }
}

fn of_parent(parent: &Value, condition: Condition) -> Condition {
    Condition { parent_ref: Some(parent.clone()), ..condition }
}

fn written(r#type: &str, status: &str, reason: &str, since: &str) -> Value {
    json!({"type": r#type, "status": status, "reason": reason, "message": "why", "lastTransitionTime": since, "observedGeneration": 2})
}

#[test]
fn what_is_said_already_is_not_said_again() {
    let wanted = wanted(Kind::Service, vec![condition("istio.io/WaypointBound", true, "WaypointAccepted")]);
    let held = json!({"loadBalancer": {}, "conditions": [written("istio.io/WaypointBound", "True", "WaypointAccepted", THEN)]});
    assert_eq!(patch(Some(&held), &wanted, NOW), None);
    let first = patch(None, &wanted, NOW).unwrap();
    assert_eq!(first, json!({"conditions": [written("istio.io/WaypointBound", "True", "WaypointAccepted", NOW)]}));
    assert_eq!(patch(Some(&first), &wanted, "2026-03-03T00:00:00Z"), None);
}

#[test]
fn the_time_of_transition_is_that_of_the_status_alone() {
    let held = json!({"conditions": [written("istio.io/WaypointBound", "False", "WaypointIsNotReady", THEN)]});
    let other_reason = wanted(Kind::Service, vec![condition("istio.io/WaypointBound", false, "AttachmentDenied")]);
    let now = patch(Some(&held), &other_reason, NOW).unwrap();
    assert_eq!(now, json!({"conditions": [written("istio.io/WaypointBound", "False", "AttachmentDenied", THEN)]}));
    let other_status = wanted(Kind::Service, vec![condition("istio.io/WaypointBound", true, "WaypointAccepted")]);
    let now = patch(Some(&held), &other_status, NOW).unwrap();
    assert_eq!(now, json!({"conditions": [written("istio.io/WaypointBound", "True", "WaypointAccepted", NOW)]}));
    let mut later = condition("istio.io/WaypointBound", false, "WaypointIsNotReady");
    later.observed_generation = Some(3);
    let now = patch(Some(&held), &wanted(Kind::Service, vec![later]), NOW).unwrap();
    assert_eq!(now["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn conditions_of_others_stay_and_ours_go_when_they_hold_no_more() {
    let theirs = json!({"type": "example.com/Checked", "status": "True", "extra": {"kept": true}});
    let held = json!({"conditions": [written("istio.io/WaypointBound", "True", "WaypointAccepted", THEN), theirs]});
    let gone = patch(Some(&held), &wanted(Kind::Service, Vec::new()), NOW).unwrap();
    assert_eq!(gone, json!({"conditions": [theirs]}));
    // Nothing of ours there, and nothing to say.
    assert_eq!(patch(Some(&json!({"conditions": [theirs]})), &wanted(Kind::Service, Vec::new()), NOW), None);
    assert_eq!(patch(None, &wanted(Kind::Service, Vec::new()), NOW), None);
}

#[test]
fn a_route_has_one_entry_of_ours_for_each_parent_as_it_names_it() {
    let (a, b) =
        (json!({"group": "", "kind": "Service", "name": "a"}), json!({"name": "gate", "sectionName": "mesh", "port": 15008}));
    let theirs = json!({"parentRef": a, "controllerName": "example.com/gateway", "conditions": [{"type": "Accepted", "status": "False"}], "more": 1});
    let gone = json!({"parentRef": {"name": "gone"}, "controllerName": "istio.io/mesh-controller", "conditions": [written("Accepted", "True", "Accepted", THEN)]});
    let ours = |parent: &Value, conditions: Value| json!({"parentRef": parent, "controllerName": "istio.io/mesh-controller", "conditions": conditions});
    let partially = written("PartiallyInvalid", "True", "UnsupportedValue", THEN);
    let held = json!({"parents": [gone, theirs, ours(&a, json!([written("Accepted", "True", "Accepted", THEN), partially]))]});
    let wanted = wanted(
        Kind::HttpRoute,
        vec![
            of_parent(&a, condition("Accepted", true, "Accepted")),
            of_parent(&a, condition("ResolvedRefs", true, "ResolvedRefs")),
            of_parent(&b, condition("Accepted", false, "NoMatchingParent")),
        ],
    );
    let now = patch(Some(&held), &wanted, NOW).unwrap();
    let expected = json!({"parents": [
        theirs,
        ours(&a, json!([written("Accepted", "True", "Accepted", THEN), written("ResolvedRefs", "True", "ResolvedRefs", NOW)])),
        ours(&b, json!([written("Accepted", "False", "NoMatchingParent", NOW)])),
    ]});
    assert_eq!(now, expected);
    assert_eq!(patch(Some(&now), &wanted, "2026-03-03T00:00:00Z"), None);
}

#[test]
fn entries_of_others_are_not_pushed_out_by_ours() {
    let theirs =
        |n: usize| json!({"parentRef": {"name": format!("p{n}")}, "controllerName": "example.com/gateway", "conditions": []});
    let held = json!({"parents": (0..32).map(theirs).collect::<Vec<_>>()});
    let wanted = wanted(Kind::HttpRoute, vec![of_parent(&json!({"name": "gate"}), condition("Accepted", true, "Accepted"))]);
    assert_eq!(patch(Some(&held), &wanted, NOW), None);
}

#[test]
fn a_gateway_has_addresses_and_listeners() {
    let mut wanted = wanted(Kind::Gateway, vec![condition("Accepted", true, "Accepted")]);
    wanted.addresses = Some(vec!["10.0.0.1".into()]);
    wanted.listeners = vec![Listener {
        name: "mesh".into(),
        attached_routes: 2,
        supported_kinds: vec!["HTTPRoute"],
        conditions: vec![condition("Accepted", true, "Accepted")],
    }];
    let unknown = json!({"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"});
    let now = patch(Some(&json!({"conditions": [unknown]})), &wanted, NOW).unwrap();
    let accepted = written("Accepted", "True", "Accepted", NOW);
    assert_eq!(
        now,
        json!({
            "conditions": [accepted],
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
            "listeners": [{
                "name": "mesh",
                "attachedRoutes": 2,
                "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
                "conditions": [accepted],
            }],
        })
    );
    assert_eq!(patch(Some(&now), &wanted, "2026-03-03T00:00:00Z"), None);
    wanted.addresses = Some(Vec::new());
    assert_eq!(patch(Some(&now), &wanted, NOW), Some(json!({"addresses": []})));
    // What others say of a listener stays, what we have said of it and do not any more goes.
    let mut held = now.clone();
    let theirs = written("example.com/Seen", "True", "Seen", THEN);
    held["listeners"][0]["conditions"] = json!([accepted, written("Conflicted", "True", "HostnameConflict", THEN), theirs]);
    wanted.addresses = None;
    let listeners = patch(Some(&held), &wanted, NOW).unwrap()["listeners"].clone();
    assert_eq!(listeners[0]["conditions"], json!([accepted, theirs]));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let mut long = condition("Accepted", false, "Invalid");
    long.message = "ä".repeat(5000);
    let now = patch(None, &wanted(Kind::GatewayClass, vec![long]), NOW).unwrap();
    assert_eq!(now["conditions"][0]["message"].as_str().unwrap(), "ä".repeat(2048));
}

#[test]
fn entries_of_a_policys_ancestors_are_as_those_of_a_routes_parents() {
    let ancestor = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "gate"});
    let theirs = json!({"ancestorRef": ancestor, "controllerName": "example.com/gateway", "conditions": []});
    let wanted = wanted(Kind::BackendTlsPolicy, vec![of_parent(&ancestor, condition("Accepted", false, "Invalid"))]);
    let first = patch(Some(&json!({"ancestors": [theirs]})), &wanted, THEN).unwrap();
    let ours = json!({
        "ancestorRef": ancestor, "controllerName": "istio.io/mesh-controller",
        "conditions": [written("Accepted", "False", "Invalid", THEN)],
    });
    assert_eq!(first, json!({"ancestors": [theirs, ours]}));
    assert_eq!(patch(Some(&first), &wanted, NOW), None);
    // 16 are as many as there may be.
    let full = json!({"ancestors": vec![theirs; 16]});
    assert_eq!(patch(Some(&full), &wanted, NOW), None);
    let object = ObjectKey { kind: Kind::BackendTlsPolicy, name: NamespacedName::new("shop", "x") };
    let nothing = ObjectStatus { object, conditions: Vec::new(), addresses: None, listeners: Vec::new() };
    assert_eq!(patch(Some(&first), &nothing, NOW), Some(json!({"ancestors": [first["ancestors"][0]]})));
    assert_eq!(patch(None, &nothing, NOW), None);
}

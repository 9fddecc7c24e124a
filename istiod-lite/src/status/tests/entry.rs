//! What ServiceEntries and WorkloadEntries say of themselves.

use serde_json::{Value, json};

use super::{GATEWAY, check, mesh};
use crate::source::crd::networking::{ServiceEntryStatus, WorkloadEntryStatus};
use crate::source::{Kind, NamespacedName, ObjectKey, Origin, Problem, Severity};
use crate::status::patch::patch;
use crate::status::{ObjectStatus, of, traffic};

const NOW: &str = "2026-02-02T00:00:00Z";
const LATER: &str = "2026-03-03T00:00:00Z";
const READY: &str = "status: {addresses: [{value: 10.0.0.1}]}\n";
const OF_GATEWAY: [&str; 2] =
    ["Gateway shop/gate: Accepted=True Accepted @3", "Gateway shop/gate: Programmed=True Programmed @3"];

/// A ServiceEntry of namespace `shop`, made in this second, with these labels.
fn entry(name: &str, second: u32, labels: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop, generation: 7, \
         labels: {{{labels}}}, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\n\
         spec: {{{spec}, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 192.0.2.1}}]}}\n"
    )
}

fn workload(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: shop, generation: 5}}\n\
         spec: {{address: {address}}}\n"
    )
}

/// What an object named `x` says of itself.
fn status(kind: Kind, objects: &str) -> ObjectStatus {
    of(&mesh(objects), &ObjectKey { kind, name: NamespacedName::new("shop", "x") }, None).unwrap()
}

fn said(status: &ObjectStatus) -> Vec<String> {
    let line = |c: &crate::status::Condition| format!("{}={} {}: {}", c.r#type, c.status, c.reason, c.message);
    status.conditions.iter().map(line).collect()
}

#[test]
fn a_service_entry_says_whether_its_hosts_go_through_the_waypoint() {
    let asks = |waypoint: &str| format!("istio.io/use-waypoint: {waypoint}");
    let at = |host: &str| format!("hosts: [{host}.example], addresses: [240.0.0.1]");
    let entries = [
        entry("absent", 1, &asks("nowhere"), &at("absent")),
        entry("around", 1, &asks("gate"), "hosts: [around.example]"),
        entry("bound", 1, &asks("gate"), &at("bound")),
        entry("out", 1, &asks("none"), &at("out")),
    ];
    let expected = [
        "ServiceEntry shop/absent: Accepted=True Accepted @7",
        "ServiceEntry shop/absent: istio.io/WaypointBound=False WaypointIsNotReady @7",
        "ServiceEntry shop/around: Accepted=True Accepted @7",
        "ServiceEntry shop/around: istio.io/WaypointBound=False NoVirtualAddress @7",
        "ServiceEntry shop/bound: Accepted=True Accepted @7",
        "ServiceEntry shop/bound: istio.io/WaypointBound=True WaypointAccepted @7",
        "ServiceEntry shop/out: Accepted=True Accepted @7",
    ];
    check(&format!("{GATEWAY}{READY}{}", entries.concat()), &[&expected[..], &OF_GATEWAY].concat());
    // By the label of its namespace.
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: gate}}\n";
    let by_namespace = format!("{GATEWAY}{READY}{namespace}{}", entry("x", 1, "", &at("x")));
    assert_eq!(
        said(&status(Kind::ServiceEntry, &by_namespace)),
        [
            "Accepted=True Accepted: Its hosts are services of the mesh",
            "istio.io/WaypointBound=True WaypointAccepted: Traffic goes through waypoint shop/gate",
        ]
    );
}

#[test]
fn a_service_entry_says_which_hosts_are_not_its_own() {
    let x = |hosts: &str| entry("x", 2, "istio.io/use-waypoint: gate", &format!("hosts: [{hosts}], addresses: [240.0.0.1]"));
    let older = entry("o", 1, "", "hosts: [A.example]");
    let younger = entry("y", 3, "", "hosts: [b.example]");
    let service =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    let told = |hosts: &str| said(&status(Kind::ServiceEntry, &[GATEWAY, READY, &x(hosts), &older, &younger, service].concat()));
    let conflict =
        "Accepted=False Conflicted: ServiceEntry shop/o has the host a.example too and is older, and holds in its place";
    assert_eq!(told("a.example"), [format!("{conflict}; so it has no effect")]);
    let bound = "istio.io/WaypointBound=True WaypointAccepted: Traffic goes through waypoint shop/gate";
    assert_eq!(told("a.example, b.example"), [format!("{conflict}; it holds for its other hosts"), bound.to_owned()]);
    let web = "Accepted=False Conflicted: web.shop.svc.cluster.local is the name of Service shop/web, which comes before a ServiceEntry";
    assert_eq!(told("web.shop.svc.cluster.local"), [format!("{web}; so it has no effect")]);
}

#[test]
fn a_workload_entry_says_whether_a_pod_has_its_address() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: bank}\nspec: {containers: []}\nstatus: {phase: Running, podIP: 10.1.0.1}\n";
    let text = [pod, &workload("named", "vm.example"), &workload("vm", "192.0.2.2"), &workload("x", "10.1.0.1")].concat();
    check(
        &text,
        &[
            "WorkloadEntry shop/named: Accepted=True Accepted @5",
            "WorkloadEntry shop/vm: Accepted=True Accepted @5",
            "WorkloadEntry shop/x: Accepted=False Conflicted @5",
        ],
    );
    assert_eq!(
        said(&status(Kind::WorkloadEntry, &text)),
        ["Accepted=False Conflicted: 10.1.0.1 is the address of pod bank/web-1, which says more of itself, so it has no effect"]
    );
}

#[test]
fn what_entries_say_is_written_once_and_what_others_wrote_stays() {
    let bound = entry("x", 1, "istio.io/use-waypoint: gate", "hosts: [x.example], addresses: [240.0.0.1]");
    let wanted = status(Kind::ServiceEntry, &format!("{GATEWAY}{READY}{bound}"));
    let held = json!({"addresses": [{"value": "240.0.0.9", "host": "x.example"}]});
    let written = patch(Some(&held), &wanted, NOW).unwrap();
    let types = |written: &Value| -> Vec<Value> {
        written["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].clone()).collect()
    };
    assert_eq!(types(&written), ["Accepted", "istio.io/WaypointBound"]);
    assert_eq!(written.get("addresses"), None, "what was allocated stays as it is");
    // As the index has it after it was read again.
    let read: ServiceEntryStatus = serde_json::from_value(written).unwrap();
    let shown = serde_json::to_value(&read).unwrap();
    assert_eq!(patch(Some(&shown), &wanted, LATER), None);
    let unbound = status(Kind::ServiceEntry, &entry("x", 1, "", "hosts: [x.example]"));
    assert_eq!(types(&patch(Some(&shown), &unbound, LATER).unwrap()), ["Accepted"]);

    let wanted = status(Kind::WorkloadEntry, &workload("x", "192.0.2.2"));
    let healthy = json!({"type": "Healthy", "status": "True", "lastProbeTime": NOW});
    let written = patch(Some(&json!({"conditions": [healthy]})), &wanted, NOW).unwrap();
    assert_eq!(types(&written), ["Healthy", "Accepted"]);
    assert_eq!(written["conditions"][0], healthy);
    let read: WorkloadEntryStatus = serde_json::from_value(written).unwrap();
    assert_eq!(patch(Some(&serde_json::to_value(&read).unwrap()), &wanted, LATER), None);
}

#[test]
fn an_entry_that_cannot_be_read_any_more_stays_bound() {
    let bound = entry("x", 1, "istio.io/use-waypoint: gate", "hosts: [x.example], addresses: [240.0.0.1]");
    let mut status = status(Kind::ServiceEntry, &format!("{GATEWAY}{READY}{bound}"));
    let problem = Problem {
        origin: Origin::Cluster,
        object: None,
        field: "spec.hosts[0]".into(),
        reason: "bad".into(),
        severity: Severity::Error,
    };
    traffic::unreadable(&mut status.conditions, &problem);
    assert_eq!(
        said(&status),
        [
            "Accepted=False Invalid: spec.hosts[0]: bad. Until this is mended, its last good version holds",
            "istio.io/WaypointBound=True WaypointAccepted: Traffic goes through waypoint shop/gate",
        ]
    );
}

//! Status on a real API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::deploy::bed::{Bed, said};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gate, namespace: shop}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: gate, set: many}}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn route(parents: &str, backend: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{parents}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}\n"
    )
}

const TO_A: &str = "{group: '', kind: Service, name: a, port: 80}";
const POLICY: &str = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rules: [{to: [{operation: {ports: ['80']}}]}]}\n";

/// An entry of another controller, with fields that we do not know.
fn theirs(message: &str) -> Value {
    json!({
        "parentRef": {"group": "", "kind": "Service", "name": "a"},
        "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    })
}

fn entry<'a>(route: &'a Value, controller: &str) -> Option<&'a Value> {
    route["status"]["parents"].as_array()?.iter().find(|entry| entry["controllerName"] == controller)
}

fn ours(route: &Value) -> Vec<String> {
    entry(route, "istio.io/mesh-controller").map(|entry| said(&entry["conditions"])).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_written_once_and_entries_of_other_controllers_stay() {
    let bed = Bed::start().await;
    bed.apply(&format!("{GATEWAY}{}{}{POLICY}", service("a"), route(TO_A, "a"))).await;
    bed.patch("httproute", "r", &json!({"status": {"parents": [theirs("first")]}}), true).await;
    let _writers = bed.writers();

    let good = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
    let written = bed.until("httproute", "r", |route| ours(route) == good).await;
    assert_eq!(entry(&written, "example.com/gateway"), Some(&theirs("first")));
    let own = entry(&written, "istio.io/mesh-controller").unwrap();
    assert_eq!(own["parentRef"], written["spec"]["parentRefs"][0], "the reference is given as the route has it");
    assert_eq!(own["conditions"][0]["observedGeneration"], written["metadata"]["generation"]);
    let bound = bed
        .until("service", "a", |service| {
            said(&service["status"]["conditions"]) == ["istio.io/WaypointBound=False WaypointIsNotReady"]
        })
        .await;
    assert!(bound["status"]["conditions"][0]["message"].as_str().unwrap().contains("shop/gate has no address yet"));
    bed.until("authorizationpolicy", "p", |policy| said(&policy["status"]["conditions"]) == ["ZtunnelAccepted=True Accepted"])
        .await;
    bed.until("gateway", "gate", |gateway| said(&gateway["status"]["conditions"]).len() == 2).await;
    bed.assert_quiet(&[("httproute", "r"), ("service", "a"), ("authorizationpolicy", "p"), ("gateway", "gate")]).await;

    bed.apply(&route(TO_A, "gone")).await;
    let broken = bed
        .until("httproute", "r", |route| ours(route) == ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"])
        .await;
    let conditions = &entry(&broken, "istio.io/mesh-controller").unwrap()["conditions"];
    assert_eq!(conditions[1]["observedGeneration"], broken["metadata"]["generation"]);
    assert_eq!(conditions[0]["lastTransitionTime"], own["conditions"][0]["lastTransitionTime"], "its status did not change");

    // Another controller writes all the time, while ours has something to say.
    let other = async {
        for n in 0..20 {
            let parents = bed.get("httproute", "r").await["status"]["parents"].clone();
            let mut parents: Vec<Value> = serde_json::from_value(parents).unwrap();
            parents.retain(|entry| entry["controllerName"] != "example.com/gateway");
            parents.push(theirs(&format!("n{n}")));
            bed.patch("httproute", "r", &json!({"status": {"parents": parents}}), true).await;
        }
    };
    let change = async {
        sleep(Duration::from_millis(300)).await;
        bed.apply(&route(TO_A, "a")).await;
    };
    tokio::join!(other, change);
    let both = bed.until("httproute", "r", |route| ours(route) == good).await;
    assert_eq!(entry(&both, "example.com/gateway"), Some(&theirs("n19")));

    bed.apply(&route("{group: example.com, kind: Bucket, name: b}", "a")).await;
    let left = bed.until("httproute", "r", |route| entry(route, "istio.io/mesh-controller").is_none()).await;
    assert_eq!(left["status"]["parents"], json!([theirs("n19")]));
    bed.patch("service", "a", &json!({"metadata": {"labels": {"istio.io/use-waypoint": null}}}), false).await;
    bed.until("service", "a", |service| said(&service["status"]["conditions"]).is_empty()).await;
}

/// How many services say what they should, as the control plane has read: in no time, so that a writer is caught in the middle.
fn told(bed: &Bed) -> usize {
    let index = bed.mesh().index();
    let conditions = |service: &Service| service.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let is_told = |service: &Service| conditions(service).iter().any(|condition| condition.reason == "WaypointIsNotReady");
    index.objects().services.iter().filter(|(_, service)| is_told(service)).count()
}

/// Waits until so many are told.
async fn until_told(bed: &Bed, count: usize) {
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    while told(bed) < count {
        assert!(tokio::time::Instant::now() < end, "only {} of {count} were told", told(bed));
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_writer_left_is_completed_by_the_next_also_after_the_api_server_was_away() {
    // Several times what a writer may write at once.
    const SERVICES: usize = 400;
    let mut bed = Bed::start().await;
    bed.apply(&format!("{GATEWAY}{}", (0..SERVICES).map(|n| service(&format!("s{n}"))).collect::<String>())).await;
    for round in 1..=3 {
        let writers = bed.writers();
        until_told(&bed, told(&bed) + 10).await;
        drop(writers);
        assert!(told(&bed) < SERVICES, "round {round}: the writer left nothing to do");
    }
    let _writers = bed.writers();
    bed.api.kill_api_server();
    sleep(Duration::from_secs(2)).await;
    assert!(told(&bed) < SERVICES, "nothing was left to do when the API server went away");
    bed.api.start_api_server().await.unwrap();
    until_told(&bed, SERVICES).await;
    bed.assert_quiet(&[("service", "s0"), ("service", "s77"), ("service", "s399")]).await;
}

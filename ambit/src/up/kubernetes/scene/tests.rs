use serde_json::json;

use super::*;

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn status(address: &str) -> serde_json::Value {
    json!({"phase": "Running", "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]})
}

fn everything() -> Everything {
    let web = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "1", "labels": {"app": "web"}, "annotations": {CAPTURED: "enabled"}},
        "spec": {"nodeName": "node-1", "serviceAccountName": "web", "containers": [{"name": "web", "command": ["ambit", "demo", "web"]}]},
        "status": status("10.1.0.2"),
    });
    let waypoint = json!({
        "metadata": {"name": "waypoint-5d8f-x2", "namespace": "shop", "uid": "2",
            "labels": {CLASS: "istio-waypoint", GATEWAY: "waypoint", "pod-template-hash": "5d8f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "waypoint-5d8f", "uid": "r", "controller": true}]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "istio-proxy"}]},
        "status": status("10.1.0.3"),
    });
    let ztunnel = json!({
        "metadata": {"name": "ztunnel-abc", "namespace": NAMESPACE, "uid": "3", "labels": {PART: "ztunnel"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "ztunnel"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "ztunnel", "restartCount": 2, "ready": true, "image": "", "imageID": ""}]},
    });
    let stranger = json!({
        "metadata": {"name": "other", "namespace": "elsewhere"}, "spec": {"containers": [{"name": "c"}]}, "status": status("10.1.0.9"),
    });
    Everything {
        nodes: vec![read(json!({"metadata": {"name": "node-1"}}))],
        namespaces: vec![read(json!({"metadata": {"name": "shop", "labels": {MODE: "ambient"}}}))],
        pods: [web, waypoint, ztunnel, stranger].map(read).into(),
        services: vec![read(json!({
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"app": "web"}, "clusterIPs": ["10.96.0.7", "fd96::7"]},
        }))],
    }
}

fn shop() -> Scenery {
    everything().seen(&BTreeSet::from(["shop".to_owned()]))
}

#[test]
fn pods_proxies_and_services_of_the_namespaces_are_seen_and_no_others() {
    let scenery = shop();
    let topology = &scenery.topology;
    let web = &topology.pods[&NamespacedName::new("shop", "web-1")];
    assert!(web.enrolled && web.captured && web.guarded && web.ready && !web.waypoint, "{web:?}");
    assert_eq!((web.workload.as_str(), web.services.as_slice()), ("web", &[NamespacedName::new("shop", "web")][..]));
    assert_eq!(topology.pods.len(), 2, "{:?}", topology.pods);
    assert_eq!(topology.services[&NamespacedName::new("shop", "web")].len(), 2);
    assert_eq!(topology.waypoints, [NamespacedName::new("shop", "waypoint")]);
    assert_eq!(scenery.restarts["3"], ("ztunnel/node-1".to_owned(), 2));
}

#[test]
fn a_waypoint_is_known_by_the_name_that_proxies_have_for_it_and_is_not_captured() {
    let topology = shop().topology;
    let pod = NamespacedName::new("shop", "waypoint-5d8f-x2");
    assert_eq!(topology.pod_called(&NamespacedName::new("shop", "waypoint")), Some(&pod));
    assert_eq!(topology.workload(&pod), Some(NamespacedName::new("shop", "waypoint")));
    assert!(topology.pods[&pod].waypoint && !topology.pods[&pod].enrolled);
}

#[test]
fn the_proxies_and_the_programs_of_the_demonstration_are_listened_to() {
    let speakers = shop().speakers;
    let heard: Vec<_> = speakers.iter().map(|speaker| (&*speaker.container, speaker.proxy.as_deref())).collect();
    assert_eq!(heard, [("web", None), ("istio-proxy", Some("waypoint/shop/waypoint")), ("ztunnel", Some("ztunnel/node-1"))]);
}

#[test]
fn a_label_alone_guards_nothing_but_a_pod_without_address_sends_nothing() {
    let mut everything = everything();
    let mut pod = (*everything.pods[0]).clone();
    pod.metadata.annotations = None;
    everything.pods[0] = Arc::new(pod.clone());
    let facts = |everything: &Everything| {
        everything.seen(&BTreeSet::from(["shop".to_owned()])).topology.pods[&NamespacedName::new("shop", "web-1")].clone()
    };
    let labelled = facts(&everything);
    assert!(labelled.enrolled && !labelled.captured && !labelled.guarded, "{labelled:?}");
    pod.status = None;
    everything.pods[0] = Arc::new(pod);
    assert!(facts(&everything).guarded);
}

#[test]
fn a_pod_that_does_not_start_says_why() {
    let mut everything = everything();
    let mut pod = (*everything.pods[0]).clone();
    pod.status = serde_json::from_value(json!({"phase": "Pending", "containerStatuses": [{
        "name": "web", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
    }]}))
    .unwrap();
    everything.pods[0] = Arc::new(pod);
    let scenery = everything.seen(&BTreeSet::from(["shop".to_owned()]));
    let reason = &scenery.stuck[&NamespacedName::new("shop", "web-1")];
    assert!(reason.contains("ErrImagePull"), "{reason}");
    assert_eq!(scenery.speakers.len(), 2);
}

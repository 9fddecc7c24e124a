//! Gateways in, objects out: each `golden/<case>.in.yaml` has its `golden/<case>.out.yaml`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p istiod-lite --lib deploy::` writes the expected files; read the difference.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ambit_identity::TrustDomain;
use gateway_api::gateways::Gateway;
use serde_json::{Value, json};

use super::*;
use crate::index::{Index, MeshConfig};
use crate::source::Event;
use crate::source::testing::objects;

#[derive(serde::Deserialize)]
struct Input {
    gateway: Gateway,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

fn made(case: &str) -> Vec<Manifest> {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/deploy/golden");
    let text = std::fs::read_to_string(golden.join(format!("{case}.in.yaml"))).unwrap();
    let input: Input = serde_saphyr::from_str(&text).unwrap();
    let mesh = MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes");
    desired(&input.gateway, &Parameters::read(&input.parameters).unwrap(), &mesh, &Options::default(), "ambit:1.2")
}

fn check(case: &str) {
    let objects = made(case).into_iter().map(|manifest| {
        let mut value = manifest.value;
        // A hash of the rest, which is all here.
        value["metadata"]["annotations"].as_object_mut().unwrap().remove(APPLIED).unwrap();
        value
    });
    let text = serde_saphyr::to_string(&objects.collect::<Vec<_>>()).unwrap();
    let expected = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/deploy/golden/{case}.out.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, &text).unwrap();
    }
    let held = std::fs::read_to_string(&expected).unwrap_or_default();
    assert!(held == text, "{} differs; made now:\n{text}", expected.display());
}

#[test]
fn a_gateway_becomes_an_account_a_service_and_a_deployment_without_privileges() {
    check("plain");
}

#[test]
fn infrastructure_and_parameters_of_a_gateway_are_laid_over_its_waypoint() {
    check("parameters");
}

#[test]
fn replicas_are_nobodys_business_unless_the_parameters_say_so() {
    let deployment = |case| made(case).into_iter().find(|manifest| manifest.part == Part::Deployment).unwrap().value;
    assert_eq!(deployment("plain").pointer("/spec/replicas"), None);
    assert_eq!(deployment("parameters").pointer("/spec/replicas"), None, "an autoscaler was asked for");
}

#[test]
fn a_gateway_at_the_edge_becomes_a_service_with_the_ports_of_its_listeners() {
    let gateway: Gateway = serde_json::from_value(json!({
        "metadata": {"name": "edge", "namespace": "shop", "uid": "u1"},
        "spec": {
            "gatewayClassName": "ambit",
            "listeners": [
                {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"},
                {"name": "b", "port": 80, "protocol": "HTTP"},
                {"name": "c", "port": 8080, "protocol": "HTTP"},
                {"name": "d", "port": 443, "protocol": "HTTPS"},
                {"name": "e", "port": 8443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
                {"name": "f", "port": 5432, "protocol": "TCP"},
            ],
        },
    }))
    .unwrap();
    let mesh = MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes");
    let role = Role::Edge { service_type: "NodePort" };
    let manifests = super::made(&gateway, role, &Parameters::default(), &mesh, &Options::default(), "ambit:1.2");
    let spec = |part| manifests.iter().find(|manifest| manifest.part == part).unwrap().value["spec"].clone();
    let service = spec(Part::Service);
    assert_eq!(service["type"], "NodePort");
    let expected = json!([
        {"name": "http-80", "port": 80, "protocol": "TCP", "targetPort": 10080, "appProtocol": "http"},
        {"name": "https-443", "port": 443, "protocol": "TCP", "targetPort": 10443, "appProtocol": "https"},
        {"name": "tcp-5432", "port": 5432, "protocol": "TCP", "targetPort": 5432, "appProtocol": "tcp"},
        {"name": "http-8080", "port": 8080, "protocol": "TCP", "targetPort": 8080, "appProtocol": "http"},
        {"name": "tls-8443", "port": 8443, "protocol": "TCP", "targetPort": 8443, "appProtocol": "tls"},
    ]);
    assert_eq!(service["ports"], expected);
    let template = &spec(Part::Deployment)["template"];
    assert_eq!(template["metadata"]["labels"].get("networking.istio.io/tunnel"), None, "it does not take tunnels for its ports");
    let container = &template["spec"]["containers"][0];
    let ports: Vec<&Value> = container["ports"].as_array().unwrap().iter().map(|port| &port["containerPort"]).collect();
    assert_eq!(ports, [15008, 15020, 15021], "a listener that comes or goes starts no pod anew");
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn the_type_of_the_service_at_the_edge_is_said_by_an_annotation() {
    let role = |annotation: &str| {
        let mut index = Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"));
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop, annotations: {{{annotation}}}}}\nspec: {{gatewayClassName: ambit, listeners: []}}\n"
        );
        for object in objects(&text) {
            index.apply(Event::Upsert(object));
        }
        let gateway = index.objects().gateways.values().next().unwrap().clone();
        Role::of(&index, &gateway).map(Role::service_type)
    };
    assert_eq!(role(""), Ok("LoadBalancer"));
    assert_eq!(role("networking.istio.io/service-type: ClusterIP"), Ok("ClusterIP"));
    let error = role("networking.istio.io/service-type: ExternalName").unwrap_err();
    assert!(error.contains("\"ExternalName\" is none of LoadBalancer, NodePort, ClusterIP"), "{error}");
}

#[test]
fn a_gateway_at_the_edge_can_be_told_to_keep_the_addresses_of_its_clients() {
    let gateway: Gateway = serde_json::from_value(json!({
        "metadata": {"name": "edge", "namespace": "shop", "uid": "u1"},
        "spec": {"gatewayClassName": "ambit", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]},
    }))
    .unwrap();
    let mesh = MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes");
    let policy = |parameters: &Parameters| {
        let role = Role::Edge { service_type: "LoadBalancer" };
        let manifests = super::made(&gateway, role, parameters, &mesh, &Options::default(), "ambit:1.2");
        let service = manifests.iter().find(|manifest| manifest.part == Part::Service).unwrap().value["spec"].clone();
        assert_eq!(service["ports"].as_array().unwrap().len(), 1, "{service:#}");
        service["externalTrafficPolicy"].clone()
    };
    assert_eq!(policy(&Parameters::default()), Value::Null);
    let local = [("service".to_owned(), "spec: {externalTrafficPolicy: Local}".to_owned())];
    assert_eq!(policy(&Parameters::read(&local.into()).unwrap()), "Local");
}

fn refused(key: &str, text: &str) -> String {
    Parameters::read(&[(key.to_owned(), text.to_owned())].into()).unwrap_err()
}

#[test]
fn parameters_cannot_give_a_pod_what_its_author_could_not() {
    let starts = |error: String, start: &str| assert!(error.starts_with(start), "{error}");
    let spec = |field: &str| format!("spec: {{template: {{spec: {{{field}}}}}}}");
    starts(
        refused("deployment", &spec("hostNetwork: true")),
        "deployment: spec.template.spec.hostNetwork cannot be set; these can:",
    );
    starts(refused("deployment", &spec("serviceAccountName: admin")), "deployment: spec.template.spec.serviceAccountName cannot");
    starts(refused("deployment", &spec("volumes: []")), "deployment: spec.template.spec.volumes cannot be set");
    let privileged = spec("containers: [{name: istio-proxy, securityContext: {privileged: true}}]");
    starts(refused("deployment", &privileged), "deployment: spec.template.spec.containers.securityContext cannot be set");
    starts(
        refused("deployment", &spec("containers: [{name: shell, resources: {}}]")),
        "deployment: spec.template.spec.containers must",
    );
    starts(refused("deployment", "spec: {selector: {matchLabels: {a: b}}}"), "deployment: spec.selector cannot be set");
    starts(refused("service", "spec: {selector: {app: other}}"), "service: spec.selector cannot be set");
    starts(refused("service", "- a"), "service is not a mapping");
    starts(refused("service", "a: ["), "service is not YAML");
    starts(refused("pod", ""), "pod is not a part of a waypoint; serviceAccount, service,");
    starts(refused("deployment", "kind: DaemonSet"), "deployment: kind cannot be set");
    starts(refused("deployment", "spec: 5"), "deployment: spec cannot be set");
}

#[test]
fn labels_of_users_do_not_take_a_waypoint_apart() {
    let gateway: Gateway = serde_json::from_value(json!({
        "metadata": {"name": "gate", "namespace": "shop", "uid": "u1"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            "infrastructure": {"labels": {"gateway.networking.k8s.io/gateway-name": "other", "istio.io/dataplane-mode": "ambient", "team": "a"}},
        },
    }))
    .unwrap();
    let mesh = MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes");
    for manifest in desired(&gateway, &Parameters::default(), &mesh, &Options::default(), "ambit:1.2") {
        let labels = &manifest.value["metadata"]["labels"];
        assert_eq!(labels["gateway.networking.k8s.io/gateway-name"], "gate");
        assert_eq!(labels["team"], "a");
        if manifest.part == Part::Deployment {
            let labels = &manifest.value["spec"]["template"]["metadata"]["labels"];
            assert_eq!(
                [&labels["gateway.networking.k8s.io/gateway-name"], &labels["istio.io/dataplane-mode"], &labels["team"]],
                ["gate", "none", "a"]
            );
        }
    }
}

#[test]
fn what_a_server_adds_is_no_difference_and_what_it_lacks_is_named() {
    let desired = json!({
        "metadata": {"labels": {"a": "1"}, "annotations": {}},
        "spec": {"template": {"spec": {"containers": [
            {"name": "istio-proxy", "image": "ambit:1", "resources": {"limits": {"cpu": "1000m"}}, "env": [{"name": "A", "value": "x"}]}
        ]}}, "sources": [{"a": {"p": 1}}]},
    });
    let mut live = desired.clone();
    live["metadata"].as_object_mut().unwrap().remove("annotations");
    live["metadata"]["labels"]["b"] = json!("2");
    live["spec"]["replicas"] = json!(7);
    let container = "/spec/template/spec/containers/0";
    live.pointer_mut(container).unwrap()["terminationMessagePath"] = json!("/dev/termination-log");
    live.pointer_mut(container).unwrap()["resources"]["limits"]["cpu"] = json!("1");
    live.pointer_mut(container).unwrap()["env"].as_array_mut().unwrap().insert(0, json!({"name": "B", "value": "y"}));
    live["spec"]["sources"][0]["a"]["defaultMode"] = json!(420);
    assert_eq!(covers(&live, &desired), Ok(()));
    let differs = |change: &dyn Fn(&mut Value)| {
        let mut live = live.clone();
        change(&mut live);
        covers(&live, &desired).unwrap_err()
    };
    assert_eq!(differs(&|live| live["metadata"]["labels"]["a"] = json!("3")), "metadata.labels.a");
    let image = differs(&|live| live.pointer_mut(container).unwrap()["image"] = json!("evil:1"));
    assert_eq!(image, "spec.template.spec.containers[istio-proxy].image");
    let cpu = differs(&|live| live.pointer_mut(container).unwrap()["resources"]["limits"]["cpu"] = json!("2"));
    assert_eq!(cpu, "spec.template.spec.containers[istio-proxy].resources.limits.cpu");
    let env = differs(&|live| _ = live.pointer_mut(container).unwrap()["env"].as_array_mut().unwrap().pop());
    assert_eq!(env, "spec.template.spec.containers[istio-proxy].env[A]");
    assert_eq!(differs(&|live| live["spec"]["sources"] = json!([])), "spec.sources");
}

#[test]
fn what_the_server_writes_in_another_way_is_no_difference() {
    let desired = json!({"spec": {
        "ipFamilies": ["IPv6"],
        "resources": {"limits": {"cpu": 2, "memory": "1024Mi"}, "requests": {"cpu": 0.7}},
        "metrics": [{"type": "Pods", "pods": {"target": {"averageValue": "1024Mi"}}}, {"type": "Object", "object": {"target": {"value": 2000}}}],
    }});
    let live = json!({"spec": {
        "ipFamilies": ["IPv6", "IPv4"],
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "700m"}},
        "metrics": [{"type": "Pods", "pods": {"target": {"averageValue": "1Gi"}}}, {"type": "Object", "object": {"target": {"value": "2k"}}}],
    }});
    assert_eq!(covers(&live, &desired), Ok(()));
    for (pointer, value, path) in [
        ("/spec/ipFamilies", json!(["IPv4", "IPv6"]), "spec.ipFamilies"),
        ("/spec/ipFamilies", json!([]), "spec.ipFamilies"),
        ("/spec/resources/limits/cpu", json!("3"), "spec.resources.limits.cpu"),
        ("/spec/resources/limits/memory", json!("1G"), "spec.resources.limits.memory"),
        ("/spec/metrics/1/object/target/value", json!("3k"), "spec.metrics[Object].object.target.value"),
    ] {
        let mut live = live.clone();
        *live.pointer_mut(pointer).unwrap() = value;
        assert!(covers(&live, &desired).unwrap_err().starts_with(path), "{pointer}");
    }
}

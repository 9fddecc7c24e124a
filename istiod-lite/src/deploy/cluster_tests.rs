//! Waypoints as resources of a real API server.

use serde_json::{Value, json};

use super::bed::{Bed, said};

fn gateway(class: &str, infrastructure: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gate, namespace: shop}}\nspec: {{gatewayClassName: {class}, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]{infrastructure}}}\n"
    )
}

const PARTS: [&str; 3] = ["serviceaccount", "service", "deployment"];

fn image(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]["image"]
}

/// The owners of an object, which must be this Gateway alone.
fn is_owned_by(object: &Value, gateway: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    owners.len() == 1 && owners[0]["uid"] == gateway["metadata"]["uid"] && owners[0]["controller"] == true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_becomes_a_waypoint_that_stays_as_its_gateway_wants_it() {
    let bed = Bed::start().await;
    let _writers = bed.writers();
    bed.apply(&gateway("istio-waypoint", "")).await;
    let programmed =
        |reason: &'static str| move |gateway: &Value| said(&gateway["status"]["conditions"]).iter().any(|c| c.ends_with(reason));
    let of_gateway = bed.until("gateway", "gate", programmed("AddressNotAssigned")).await;
    assert_eq!(said(&of_gateway["status"]["conditions"]), ["Accepted=True Accepted", "Programmed=False AddressNotAssigned"]);
    assert_eq!(of_gateway["status"]["addresses"], Value::Null);
    for part in PARTS {
        let object = bed.until(part, "gate", Value::is_object).await;
        assert!(is_owned_by(&object, &of_gateway), "{object:#}");
    }
    let class = bed
        .until("gatewayclass", "istio-waypoint", |class| said(&class["status"]["conditions"]) == ["Accepted=True Accepted"])
        .await;
    assert_eq!(class["spec"]["controllerName"], "istio.io/mesh-controller");

    // A pod gets ready: the address is that of the Service.
    bed.apply("{apiVersion: v1, kind: Pod, metadata: {name: gate-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}}, spec: {containers: [{name: c, image: i}]}}").await;
    let ready = json!({"status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}});
    bed.patch("pod", "gate-1", &ready, true).await;
    let of_gateway = bed.until("gateway", "gate", programmed("Programmed=True Programmed")).await;
    let service = bed.get("service", "gate").await;
    let addresses = of_gateway["status"]["addresses"].as_array().unwrap().iter().map(|address| address["value"].clone());
    assert_eq!(addresses.collect::<Value>(), service["spec"]["clusterIPs"]);
    assert_eq!(of_gateway["status"]["listeners"][0]["attachedRoutes"], 0);

    let all = [
        ("gateway", "gate"),
        ("gatewayclass", "istio-waypoint"),
        ("deployment", "gate"),
        ("service", "gate"),
        ("serviceaccount", "gate"),
    ];
    bed.assert_quiet(&all).await;
    drift(&bed).await;
    bed.assert_quiet(&all).await;
    on_request(&bed).await;
    to_an_autoscaler(&bed).await;
    made_anew(&bed).await;
    at_the_edge(&bed).await;

    // Another class: nothing of it is wanted any more.
    bed.apply(&gateway("other", "")).await;
    for part in PARTS {
        bed.until(part, "gate", Value::is_null).await;
    }
}

/// A Gateway of the other class has a Service with the ports of its listeners, and a route on it is told so in the name of its controller.
async fn at_the_edge(bed: &Bed) {
    let class =
        bed.until("gatewayclass", "ambit", |class| said(&class["status"]["conditions"]) == ["Accepted=True Accepted"]).await;
    assert_eq!(class["spec"]["controllerName"], "ambit.dev/gateway-controller");
    bed.apply(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, annotations: {networking.istio.io/service-type: NodePort}}
spec:
  gatewayClassName: ambit
  listeners:
  - {name: web, port: 80, protocol: HTTP, hostname: '*.example.com'}
  - {name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
  - {name: other, port: 444, protocol: UDP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [www.example.com]}
---
{apiVersion: v1, kind: Pod, metadata: {name: edge-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: edge}}, spec: {containers: [{name: c, image: i}]}}
",
    )
    .await;
    let ready = json!({"status": {"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}});
    bed.patch("pod", "edge-1", &ready, true).await;
    let gateway = bed
        .until("gateway", "edge", |gateway| {
            let first = &gateway["status"]["listeners"][0];
            said(&gateway["status"]["conditions"]) == ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]
                && first["attachedRoutes"] == 1
        })
        .await;
    let of_listener = |at: usize| said(&gateway["status"]["listeners"][at]["conditions"]);
    assert_eq!(
        of_listener(1)[..3],
        ["Accepted=True Accepted", "Programmed=False Invalid", "ResolvedRefs=False InvalidCertificateRef"]
    );
    assert_eq!(of_listener(2)[0], "Accepted=False UnsupportedProtocol");
    let service = bed.get("service", "edge").await;
    assert!(is_owned_by(&service, &gateway), "{service:#}");
    let port = &service["spec"]["ports"][0];
    assert_eq!((&service["spec"]["type"], &port["port"], &port["targetPort"]), (&json!("NodePort"), &json!(80), &json!(10080)));
    // Of the one without its certificate, too, which may come at any time.
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 2);
    let parents = |route: &Value| route["status"]["parents"].clone();
    let route = bed.until("httproute", "edge", |route| parents(route).is_array()).await;
    assert_eq!(parents(&route)[0]["controllerName"], "ambit.dev/gateway-controller");
    assert_eq!(said(&parents(&route)[0]["conditions"]), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    bed.assert_quiet(&[("gateway", "edge"), ("httproute", "edge"), ("service", "edge"), ("deployment", "edge")]).await;
}

/// What is edited by hand is corrected, but for the replicas, which are an autoscaler's.
async fn drift(bed: &Bed) {
    bed.api.kubectl(&["scale", "deployment", "gate", "-n", "shop", "--replicas=4"]).await.unwrap();
    bed.api.kubectl(&["set", "image", "deployment/gate", "-n", "shop", "istio-proxy=evil:1"]).await.unwrap();
    bed.until("deployment", "gate", |deployment| image(deployment) == "ambit:1.2").await;
    bed.patch("service", "gate", &json!({"metadata": {"labels": null}, "spec": {"selector": {"app": "evil"}}}), false).await;
    bed.until("service", "gate", |service| {
        service["spec"]["selector"]["gateway.networking.k8s.io/gateway-name"] == "gate"
            && service["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "istiod-lite"
    })
    .await;
    bed.api.kubectl(&["delete", "serviceaccount", "gate", "-n", "shop"]).await.unwrap();
    bed.until("serviceaccount", "gate", Value::is_object).await;
    assert_eq!(bed.get("deployment", "gate").await["spec"]["replicas"], 4);
}

/// A PodDisruptionBudget comes and goes with the parameters; wrong parameters are told and change nothing.
async fn on_request(bed: &Bed) {
    let parameters = |data: &str| {
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: parameters, namespace: shop}}, data: {{{data}}}}}")
    };
    let with = ", infrastructure: {labels: {team: a}, parametersRef: {group: '', kind: ConfigMap, name: parameters}}";
    // The API server writes the 2 as a text. The budget is made after the deployment, if that is as it should be.
    let container = "template: {spec: {containers: [{name: istio-proxy, resources: {limits: {cpu: 2}}}]}}";
    let deployment = format!("deployment: 'spec: {{minReadySeconds: 7, {container}}}'");
    bed.apply(&parameters(&format!("podDisruptionBudget: 'spec: {{maxUnavailable: 1}}', {deployment}"))).await;
    bed.apply(&gateway("istio-waypoint", with)).await;
    let budget = bed.until("poddisruptionbudget", "gate", Value::is_object).await;
    assert_eq!((&budget["spec"]["maxUnavailable"], &budget["spec"]["minAvailable"]), (&json!(1), &Value::Null));
    let deployment = bed.until("deployment", "gate", |deployment| deployment["spec"]["minReadySeconds"] == 7).await;
    assert_eq!(deployment["metadata"]["labels"]["team"], "a");
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"], "2");

    bed.apply(&parameters("deployment: 'spec: {template: {spec: {hostNetwork: true}}}'")).await;
    let renamed = with.replace("team: a", "team: b");
    bed.apply(&gateway("istio-waypoint", &renamed)).await;
    let refused = bed
        .until("gateway", "gate", |gateway| {
            said(&gateway["status"]["conditions"]).contains(&"Accepted=False InvalidParameters".into())
        })
        .await;
    let message = refused["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("hostNetwork cannot be set"), "{message}");
    assert_eq!(bed.get("deployment", "gate").await["spec"]["template"]["spec"]["hostNetwork"], Value::Null);

    bed.apply(&gateway("istio-waypoint", "")).await;
    bed.until("poddisruptionbudget", "gate", Value::is_null).await;
    let plain = bed.until("deployment", "gate", |deployment| deployment["spec"]["minReadySeconds"] == Value::Null).await;
    assert_eq!(plain["metadata"]["labels"]["team"], Value::Null, "what is not wished for any more goes");
    assert_eq!(plain["spec"]["replicas"], 4);
}

/// Replicas that the parameters have set stay when an autoscaler is to set them.
async fn to_an_autoscaler(bed: &Bed) {
    let parameters = async |data: &str, team: &str| {
        bed.apply(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: parameters, namespace: shop}}, data: {{{data}}}}}"
        ))
        .await;
        let with = format!(
            ", infrastructure: {{labels: {{team: {team}}}, parametersRef: {{group: '', kind: ConfigMap, name: parameters}}}}"
        );
        bed.apply(&gateway("istio-waypoint", &with)).await;
    };
    parameters("deployment: 'spec: {replicas: 3}'", "c").await;
    bed.until("deployment", "gate", |deployment| deployment["spec"]["replicas"] == 3).await;
    parameters("horizontalPodAutoscaler: ''", "d").await;
    bed.until("horizontalpodautoscaler", "gate", Value::is_object).await;
    let deployment = bed.get("deployment", "gate").await;
    assert_eq!((&deployment["metadata"]["labels"]["team"], &deployment["spec"]["replicas"]), (&json!("d"), &json!(3)));
    bed.apply(&gateway("istio-waypoint", "")).await;
    bed.until("horizontalpodautoscaler", "gate", Value::is_null).await;
}

/// A Gateway that is deleted and made again owns what the old one left, where no garbage collector was quicker.
async fn made_anew(bed: &Bed) {
    bed.api.kubectl(&["delete", "gateway", "gate", "-n", "shop"]).await.unwrap();
    bed.apply(&gateway("istio-waypoint", "")).await;
    let anew = bed.get("gateway", "gate").await;
    for part in PARTS {
        bed.until(part, "gate", |object| is_owned_by(object, &anew)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_has_the_name_of_a_gateway_is_never_taken_over() {
    let bed = Bed::start().await;
    bed.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: gate, namespace: shop}}").await;
    let before = bed.get("serviceaccount", "gate").await;
    let _writers = bed.writers();
    bed.apply(&gateway("istio-waypoint", "")).await;
    let conflict = bed
        .until("gateway", "gate", |gateway| said(&gateway["status"]["conditions"]).contains(&"Programmed=False Invalid".into()))
        .await;
    let message = conflict["status"]["conditions"][1]["message"].as_str().unwrap();
    assert_eq!(message, "ServiceAccount shop/gate exists and is not this Gateway's; give the Gateway another name, or delete it");
    assert_eq!(bed.get("serviceaccount", "gate").await, before);
    for part in ["service", "deployment"] {
        assert_eq!(bed.get(part, "gate").await, Value::Null);
    }
}

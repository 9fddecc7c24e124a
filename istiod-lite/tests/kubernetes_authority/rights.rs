//! Each right that an installation gives the control plane is needed for something.

use std::{path::Path, time::Duration};

use ambit_cluster::{ApiServerOptions, manifests::Channel};
use ambit_tls::authority::{Authority, KEY_FILE};
use istiod_lite::roots::remote;

use crate::bed::{AUDIENCE, Bed, eventually};

/// What `kubectl apply -f` installs.
const INSTALLED: &str = include_str!("../../../manifests/ambit.yaml");

/// One object of every kind that something is written about, and a waypoint that wants all that there is.
const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}, spec: {ports: [{name: web, port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: shop}, spec: {gatewayClassName: ambit, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: parameters, namespace: shop}, data: {podDisruptionBudget: '', horizontalPodAutoscaler: ''}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], hostnames: [web.example], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY}}
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: web}], jwtRules: [{issuer: web}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: web.example, wellKnownCACertificates: System}}}
---
{apiVersion: ambit.dev/v1alpha1, kind: RequestPolicy, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: web}], fault: {abort: {status: 503}}}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: web, namespace: shop}, spec: {tracing: [{}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: shop}, spec: {host: web, subsets: [{name: one}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: one}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: web, namespace: shop}, spec: {hosts: [outside.example], addresses: [240.0.0.1], resolution: STATIC, ports: [{number: 80, name: web, protocol: HTTP}], endpoints: [{address: 192.0.2.1}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: web, namespace: shop}, spec: {address: 192.0.2.2}}
---
{apiVersion: ambit.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{kind: Service, name: web}], limits: {requests: 5}}}
---
{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {name: web, namespace: shop}, spec: {targetRefs: [{group: '', kind: Service, name: web}], retryConstraint: {budget: {percent: 20}}}}
";

/// The Gateway of a waypoint with its parameters, of one without, or of no waypoint.
fn gateway(class: &str, infrastructure: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gate, namespace: shop}}, \
         spec: {{gatewayClassName: {class}, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]{infrastructure}}}}}"
    )
}

/// A Secret `cacerts`: an authority of its own, and its list of one revoked certificate.
async fn plug_with_a_list(bed: &Bed) {
    let directory = bed.directory.path().join("plugged");
    std::fs::create_dir(&directory).unwrap();
    let authority = Authority::load_or_create(&directory, &"cluster.local".parse().unwrap()).unwrap();
    let list = authority.revocation_list(&["07"], Duration::from_hours(24)).unwrap();
    let key = std::fs::read_to_string(directory.join(KEY_FILE)).unwrap();
    let root = authority.root_pem();
    let keys =
        [("ca-cert.pem", root), ("ca-key.pem", &key), ("cert-chain.pem", ""), ("root-cert.pem", root), ("ca-crl.pem", &list)];
    bed.plug(&keys).await;
}

/// The control plane does all that it ever asks the API server for, under the account and the roles of an installation, and the API server
/// writes down who asks for what. The test fails and names the right
/// - when a verb is taken out of the roles: then the API server refuses the request that takes it, and a refusal fails the test;
/// - when the roles have a verb, resource or name that no request takes, or that another rule gives as well.
///
/// So each verb has a request here that the API server allows for it alone.
#[tokio::test(flavor = "multi_thread")]
async fn each_right_of_the_control_plane_is_needed_and_none_is_missing() {
    let bed = Bed::with(ApiServerOptions { audit: true, ..ApiServerOptions::default() }).await;
    bed.api.install_gateway_api(Channel::Experimental).await.unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds").read_dir().unwrap();
    bed.api.install_definitions(&ours.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()).await.unwrap();
    bed.api
        .apply(&gateway("istio-waypoint", ", infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: parameters}}"))
        .await
        .unwrap();
    bed.api.apply(OBJECTS).await.unwrap();
    let webhook = INSTALLED.split("\n---\n").find(|part| part.contains("\nkind: ValidatingWebhookConfiguration\n"));
    bed.api.apply(webhook.unwrap()).await.unwrap();
    let replica = bed.replica(3600, 300).await;

    let web = bed.token("shop/web", Some("web"), AUDIENCE).await;
    bed.ask(&replica, &web, "spiffe://cluster.local/ns/shop/sa/web", false).await.unwrap();
    let there = async |kind: &str| {
        let said = bed.api.kubectl(&["get", kind, "gate", "-n", "shop", "--ignore-not-found", "-o", "name"]).await.unwrap();
        !said.is_empty()
    };
    for kind in ["poddisruptionbudget", "horizontalpodautoscaler"] {
        eventually(kind, async || there(kind).await.then_some(())).await;
    }
    // It takes back what it has made: what the parameters asked for, then all of it.
    bed.api.apply(&gateway("istio-waypoint", "")).await.unwrap();
    for kind in ["poddisruptionbudget", "horizontalpodautoscaler"] {
        eventually("its end", async || (!there(kind).await).then_some(())).await;
    }
    bed.api.apply(&gateway("other", "")).await.unwrap();
    for kind in ["deployment", "service", "serviceaccount"] {
        eventually("its end", async || (!there(kind).await).then_some(())).await;
    }
    // The authority: a rotation of its own, then one that is plugged in.
    let before = bed.secret("ambit-ca").await.unwrap().metadata.resource_version;
    remote::rotate(bed.client.clone(), "istio-system", true).await.unwrap();
    eventually("a rotation", async || (bed.secret("ambit-ca").await?.metadata.resource_version != before).then_some(())).await;
    plug_with_a_list(&bed).await;

    bed.api.uses_each_right(&bed.account, |_| true).await.unwrap();
    assert!(bed.account.rights().len() > 60, "{:?}", bed.account.rights());
    for kind in ["serviceentry", "workloadentry"] {
        let path = "jsonpath={.status.conditions[*].reason}";
        eventually(kind, async || {
            let said = bed.api.kubectl(&["get", kind, "web", "-n", "shop", "-o", path]).await.unwrap();
            (said.trim() == "Accepted").then_some(())
        })
        .await;
    }

    // That a verb that is missing is seen: without it the next namespace gets no roots, and the request is found.
    let role = ["clusterrole", "istiod-lite"];
    let rules = bed.api.kubectl(&["get", role[0], role[1], "-o", "json"]).await.unwrap();
    let mut rules: serde_json::Value = serde_json::from_str(&rules).unwrap();
    let of_maps = |rule: &&mut serde_json::Value| rule["resourceNames"][0] == "istio-ca-root-cert";
    let rule = rules["rules"].as_array_mut().unwrap().iter_mut().find(of_maps).unwrap();
    rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != "patch");
    let patch = serde_json::json!({"rules": rules["rules"]}).to_string();
    bed.api.kubectl(&["patch", role[0], role[1], "--type=merge", "-p", &patch]).await.unwrap();
    let refused = eventually("a refusal", async || {
        bed.api
            .apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: later-{}}}}}", fastrand::u32(..)))
            .await
            .unwrap();
        bed.api.uses_each_right(&bed.account, |_| false).await.err()
    })
    .await
    .to_string();
    assert!(refused.contains("patch /api/v1/namespaces/") && refused.contains("/configmaps/istio-ca-"), "{refused}");
    without_secrets(&bed, &mut rules["rules"]).await;
    replica.stop().await;
}

/// A control plane that may not read Secrets goes on without those that are named from then on, says so of the listener that names one, and reads
/// it once it may.
async fn without_secrets(bed: &Bed, rules: &mut serde_json::Value) {
    let give = async |rules: &serde_json::Value| {
        let patch = serde_json::json!({"rules": rules}).to_string();
        bed.api.kubectl(&["patch", "clusterrole", "istiod-lite", "--type=merge", "-p", &patch]).await.unwrap();
    };
    let with = rules.clone();
    rules.as_array_mut().unwrap().retain(|rule| rule["resources"] != serde_json::json!(["secrets"]));
    give(&*rules).await;
    let names = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: late, namespace: shop}, spec: {gatewayClassName: \
                 ambit, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: late}]}}]}}";
    bed.api.apply(names).await.unwrap();
    let says = async |part: &str| {
        let path = "jsonpath={.status.listeners[0].conditions}";
        let said = bed.api.kubectl(&["get", "gateway", "late", "-n", "shop", "-o", path]).await.unwrap();
        (said.contains("InvalidCertificateRef") && said.contains(part)).then_some(())
    };
    let lacking = "the control plane has not the right to read it; give its service account the verbs list and watch on secrets";
    eventually("a word on the right that is missing", async || says(lacking).await).await;
    give(&with).await;
    eventually("a look at the Secret", async || says("Secret shop/late does not exist").await).await;
}

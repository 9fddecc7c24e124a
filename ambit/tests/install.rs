//! `ambit install`, `check --pre` and `uninstall` as a user runs them, on a real API server without nodes.

use std::collections::BTreeMap;
use std::process::Command;

use ambit::install::kinds::KNOWN;
use ambit_cluster::ApiServer;
use ambit_cluster::manifests::Channel;
use kube::Client;
use kube::api::{DynamicObject, ListParams};

/// Runs `ambit` against the cluster: exit code, what it printed, and its errors.
fn ambit(api: &ApiServer, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
    let output = command.args(arguments).arg("--kubeconfig").arg(api.kubeconfig()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn good(api: &ApiServer, arguments: &[&str]) -> String {
    let (code, said, error) = ambit(api, arguments);
    assert_eq!(code, 0, "{arguments:?}:\n{said}{error}");
    said
}

#[track_caller]
fn refused(api: &ApiServer, arguments: &[&str], parts: &[&str]) {
    let (code, said, error) = ambit(api, arguments);
    assert_ne!(code, 0, "{arguments:?}:\n{said}{error}");
    assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?}: {parts:?}:\n{said}{error}");
}

/// The version of every object of the kinds that an installation is made of, by kind and name.
async fn versions(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for known in KNOWN {
        let Ok(list) = known.api(client, None).list(&ListParams::default()).await else { continue };
        for DynamicObject { metadata, .. } in list.items {
            let name = format!("{} {:?}/{:?}", known.kind, metadata.namespace, metadata.name);
            // What the API server itself keeps up is none of ours, and changes by itself.
            let itself = metadata.labels.is_some_and(|labels| labels.contains_key("kubernetes.io/bootstrapping"));
            let itself = itself || metadata.namespace.is_some_and(|namespace| namespace.starts_with("kube-"));
            let itself = itself || (known.kind == "Service" && metadata.name.as_deref() == Some("kubernetes"));
            if !itself && known.kind != "Namespace" {
                found.insert(name, metadata.resource_version.unwrap_or_default());
            }
        }
    }
    found
}

#[tokio::test]
async fn an_installation_comes_stays_as_it_is_changes_and_goes() {
    let api = ApiServer::start().await.unwrap();
    let client = api.client().await.unwrap();
    api.kubectl(&["create", "namespace", "istio-system"]).await.unwrap();
    let before = versions(&client).await;

    // What is wrong is said before anything is written.
    refused(&api, &["install", "--set", "istiod.replica=3"], &["there is none of that name"]);
    refused(&api, &["upgrade"], &["there is no installation in namespace istio-system", "ambit install"]);
    refused(&api, &["uninstall"], &["nothing in this cluster was installed"]);
    refused(&api, &["install", "--set", "podMonitors.enabled=true"], &["the cluster has no kind PodMonitor", "install its CRDs"]);
    good(&api, &["install"]);
    good(&api, &["uninstall"]);
    assert_eq!(versions(&client).await, before, "nothing is left");

    let said = good(&api, &["install", "--set", "istiod.replicas=3"]);
    assert!(said.contains("DaemonSet istio-system/ztunnel created"), "{said}");
    let installed = versions(&client).await;
    assert!(installed.len() > before.len() + 15, "{installed:#?}");

    let said = good(&api, &["install", "--set", "istiod.replicas=3"]);
    assert!(said.contains("0 created, 0 changed"), "{said}");
    assert_eq!(versions(&client).await, installed, "a second installation changes nothing");

    // An upgrade keeps the settings; what they have no more is deleted.
    let said = good(&api, &["upgrade", "--set", "networkPolicies.enabled=true"]);
    assert!(said.contains("NetworkPolicy istio-system/ztunnel created"), "{said}");
    let replicas = ["get", "-n", "istio-system", "deployment", "istiod-lite", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(api.kubectl(&replicas).await.unwrap(), "3");
    let said = good(&api, &["upgrade", "--set", "networkPolicies.enabled=false"]);
    assert!(said.contains("NetworkPolicy istio-system/ztunnel deleted"), "{said}");

    // What somebody else has changed is not overruled without being asked to.
    api.kubectl(&["scale", "-n", "istio-system", "deployment", "istiod-lite", "--replicas=5"]).await.unwrap();
    refused(&api, &["upgrade"], &["Deployment istio-system/istiod-lite", ".spec.replicas", "--force-conflicts"]);
    good(&api, &["upgrade", "--force-conflicts"]);
    assert_eq!(api.kubectl(&replicas).await.unwrap(), "3");

    // Nobody starts pods here.
    refused(
        &api,
        &["install", "--wait", "--timeout", "1", "--set", "istiod.replicas=3"],
        &["not ready after 1 s", "not yet seen by its controller"],
    );

    // What the control plane makes while it runs goes, too, in whatever namespace.
    let made = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio-ca-root-cert, namespace: default, labels: {app.kubernetes.io/managed-by: istiod-lite}}\n";
    api.apply(made).await.unwrap();

    // Pods that are in the mesh would reach nobody without it.
    api.kubectl(&["label", "namespace", "default", "istio.io/dataplane-mode=ambient"]).await.unwrap();
    refused(&api, &["uninstall"], &["these are in the mesh", "namespace default", "--unlabel"]);

    // Policies are not lost by the way.
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: DENY}\n";
    api.apply(policy).await.unwrap();
    let said = good(&api, &["uninstall", "--unlabel"]);
    assert!(said.contains("namespace default is no longer in the mesh"), "{said}");
    assert!(said.contains("authorizationpolicies.security.istio.io: there are 1 objects of it"), "{said}");
    assert!(api.kubectl(&["get", "-n", "default", "authorizationpolicy", "p"]).await.is_ok());
    let said = good(&api, &["uninstall", "--with-policies"]);
    assert!(said.contains("nothing is left"), "{said}");
    assert_eq!(versions(&client).await, before, "nothing is left");
}

#[tokio::test]
async fn what_belongs_to_others_is_left_to_them() {
    let api = ApiServer::start().await.unwrap();
    let istios = "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {pod-security.kubernetes.io/enforce: baseline}}\n---\n\
                  apiVersion: v1\nkind: Service\nmetadata: {name: istiod, namespace: istio-system, labels: {app.kubernetes.io/managed-by: Helm}}\n\
                  spec: {ports: [{port: 15012}]}\n---\n\
                  apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: istiod-default-validator}\n\
                  webhooks: [{name: validation.istio.io, sideEffects: None, admissionReviewVersions: [v1], \
                  clientConfig: {service: {name: istiod, namespace: istio-system, path: /validate}}, \
                  rules: [{apiGroups: [security.istio.io], apiVersions: ['*'], resources: ['*'], operations: [CREATE]}]}]\n";
    api.apply(istios).await.unwrap();
    let parts = ["Service istio-system/istiod belongs to Helm", "enforce=privileged"];
    refused(&api, &["install"], &parts);
    assert!(api.kubectl(&["get", "-n", "istio-system", "daemonsets"]).await.unwrap().trim().is_empty(), "nothing was written");
    let (code, said, _) = ambit(&api, &["check", "--pre"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("fail  the mesh's namespace may run privileged pods"), "{said}");
    assert!(said.contains("fail  no other webhook judges the mesh's objects: istiod-default-validator"), "{said}");
}

/// What would be lost with the mesh and is nowhere else stays, and so does what only looks like ours.
#[tokio::test]
async fn what_is_somebody_elses_stays_when_the_mesh_goes() {
    let api = ApiServer::start().await.unwrap();
    api.install_gateway_api(Channel::Standard).await.unwrap();
    good(&api, &["install"]);
    let issuer = "{apiVersion: v1, kind: Secret, metadata: {name: ambit-ca, namespace: istio-system, labels: {app.kubernetes.io/managed-by: istiod-lite}}}";
    let theirs = "{apiVersion: v1, kind: Secret, metadata: {name: cacerts, namespace: istio-system}}\n---\n\
                  {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: everywhere, namespace: istio-system}, spec: {action: DENY}}\n---\n\
                  {apiVersion: v1, kind: Secret, metadata: {name: alike, namespace: default, labels: {app.kubernetes.io/managed-by: istiod-lite}}}\n---\n\
                  {apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio-waypoint}, spec: {controllerName: example.com/mesh}}";
    let captured = "{apiVersion: v1, kind: Pod, metadata: {name: held, namespace: default, annotations: {ambient.istio.io/redirection: pending}}, spec: {containers: [{name: c, image: i}]}}";
    api.apply(&format!("{issuer}\n---\n{theirs}\n---\n{captured}\n")).await.unwrap();
    // Its rules would stay when nobody is left who takes them away.
    refused(&api, &["uninstall", "--timeout", "1"], &["1 pods are still captured", "default/held"]);
    let ended = r#"{"status": {"phase": "Succeeded"}}"#;
    api.kubectl(&["patch", "pod", "held", "--type=merge", "--subresource=status", "-p", ended]).await.unwrap();
    let said = good(&api, &["uninstall"]);
    assert!(said.contains("Secret istio-system/ambit-ca deleted"), "{said}");
    let kept =
        said.lines().find(|line| line.contains("Namespace istio-system: there are others' objects in it: ")).unwrap_or_default();
    assert!(
        kept.contains("Secret cacerts") && kept.contains("AuthorizationPolicy everywhere") && !kept.contains("ambit-ca"),
        "{said}"
    );
    assert!(said.contains("authorizationpolicies.security.istio.io: there are 1 objects of it"), "{said}");
    // The policy that holds for the whole mesh is lost only when that is asked for, and nothing else with it.
    api.kubectl(&["get", "authorizationpolicy", "everywhere", "-n", "istio-system"]).await.unwrap();
    let said = good(&api, &["uninstall", "--with-policies"]);
    let kept = said.lines().find(|line| line.contains("Namespace istio-system: ")).unwrap_or_default();
    assert!(kept.contains("Secret cacerts") && !kept.contains("AuthorizationPolicy"), "{said}");
    for (kind, namespace, name) in
        [("secret", "istio-system", "cacerts"), ("secret", "default", "alike"), ("gatewayclass", "default", "istio-waypoint")]
    {
        let there = api.kubectl(&["get", kind, name, "-n", namespace, "-o", "jsonpath={.metadata.deletionTimestamp}"]).await;
        assert_eq!(there.unwrap(), "", "{kind} {name}");
    }
}

#[tokio::test]
async fn the_cluster_is_checked_before() {
    let mut api = ApiServer::start().await.unwrap();
    let (code, said, error) = ambit(&api, &["check", "--pre"]);
    assert_eq!(code, 0, "{said}{error}");
    for line in [
        "ok    Kubernetes 1.31 or newer: v1.",
        "ok    who installs may",
        "warn  CRDs of the Gateway API, v1.2 or newer: they are not there",
        "the cluster has no nodes",
        "ok    ValidatingAdmissionPolicies of the API server: they are there",
        "ok    no other webhook judges the mesh's objects: none",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
    let stranger = api.kubeconfig_of("stranger", None).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
    let output = command.args(["check", "--pre", "--json", "--kubeconfig"]).arg(stranger).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(found[1]["requirement"], "rights");
    assert!(found[1]["found"].as_str().unwrap().contains("create daemonsets"), "{found:#}");
    api.kill_api_server();
    let (code, _, error) = ambit(&api, &["check", "--pre"]);
    assert_eq!(code, 2);
    assert!(error.contains("the API server does not answer") && error.contains("how to get it:"), "{error}");
}

/// The CRDs are such that the API server takes them, and refuse what they should.
#[tokio::test]
async fn policies_that_cannot_be_meant_are_refused_by_their_schema() {
    let api = ApiServer::start().await.unwrap();
    good(&api, &["install"]);
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n"
        )
    };
    let asks = |spec: &str| {
        format!("apiVersion: ambit.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n")
    };
    let to_s = "{targetRefs: [{group: '', kind: Service, name: s}]";
    let of_requests = |spec: &str| {
        let targets = "[{group: '', kind: Service, name: s}]";
        format!(
            "apiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {{targetRefs: {targets}, {spec}}}\n"
        )
    };
    for (text, part) in [
        (of_requests("rateLimit: {local: {requests: 1, per: hour, header: x}}"), "header goes with by: Header"),
        (of_requests("rateLimit: {}"), "must have local or global"),
        (
            of_requests("rateLimit: {global: {provider: p, domain: d, descriptors: [{entries: [{from: Value, header: x}]}]}}"),
            "header goes with from: Header",
        ),
        (of_requests("fault: {headers: []}"), "must have delay or abort"),
        (of_requests("limits: {}"), "must have maxBodyBytes or maxHeaderBytes"),
        (of_requests("timeouts: {}"), "must have idle or stream"),
        (of_requests("retries: {writes: Sometimes}"), "Unsupported value"),
        (of_requests("upgrades: ['a b']"), "should match"),
        (of_requests("upgrades: [irc/6.9, H2C]"), "is never passed on"),
        (of_requests("externalProcessing: {provider: ''}"), "should be at least 1 chars long"),
        (of_requests("fault: {delay: {fixed: 5s, percent: 101}}"), "should be less than or equal to 100"),
        (policy("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}"), "only one of selector, targetRef and targetRefs"),
        (policy("{action: MAYBE}"), "Unsupported value"),
        (policy("{ruls: []}"), "field not declared in schema"),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {portLevelMtls: {\"80\": {mode: STRICT}}}\n".to_owned(),
            "portLevelMtls needs a selector",
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: p, namespace: default}\nspec: {hosts: []}\n".to_owned(),
            "should have at least 1 items",
        ),
        (asks("{targetRefs: [], connectTimeout: 1s}"), "should have at least 1 items"),
        (asks(&format!("{to_s}}}")), "it asks for nothing"),
        (asks(&format!("{to_s}, limits: {{requests: 0}}}}")), "should be greater than or equal to 1"),
        (asks(&format!("{to_s}, connectTimeout: 0s}}")), "must be longer than nothing"),
        (asks(&format!("{to_s}, limits: {{retries: 1}}, retryBudget: {{}}}}")), "only one of limits.retries and retryBudget"),
        (asks(&format!("{to_s}, outlierDetection: {{consecutiveErrors: 0}}}}")), "no endpoint is ever ejected"),
        (asks("{targetRefs: [{kind: Service, name: s}, {kind: Service, name: s}], connectTimeout: 1s}"), "a target is given twice"),
        (asks("{targetRefs: [{kind: Gateway, name: s}], connectTimeout: 1s}"), "Unsupported value"),
    ] {
        let error = api.apply(&text).await.unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    api.apply(&policy(
        "{rules: [{from: [{source: {principals: [a]}}], to: [{operation: {ports: [\"80\"]}}], when: [{key: a, values: [b]}]}]}",
    ))
    .await
    .unwrap();
    api.apply(&asks(&format!(
        "{to_s}, connectTimeout: 1s500ms, outlierDetection: {{consecutiveErrors: 0, successRate: {{}}}}}}"
    )))
    .await
    .unwrap();
    let both = "fault: {abort: {status: 503, percent: 0.5}}, rateLimit: {local: {requests: 5, per: 10s, by: Identity}}";
    api.apply(&of_requests(both)).await.unwrap();
}

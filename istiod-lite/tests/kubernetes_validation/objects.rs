//! Objects of the mesh, judged by the control plane.

use crate::bed::{BROKEN, Bed, eventually, policy};

/// A route of namespace `shop` to Service `a`.
fn route(kind: &str, name: &str, parent: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{parentRefs: [{{{parent}}}], rules: [{{{rule}}}]}}\n"
    )
}

fn gateway(name: &str, class: &str, listener: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{gatewayClassName: {class}, listeners: [{{name: l, {listener}}}]}}\n"
    )
}

fn entry(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

fn of_tokens(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, namespace: shop}}\nspec: {spec}\n"
    )
}

const TELEMETRY: &str = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t, namespace: shop}\nspec: {metrics: [{providers: [{name: stackdriver}]}], tracing: [{enableIstioTags: true}]}\n";
const TO_BACKENDS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: b, namespace: shop}\n\
                           spec: {targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.example, wellKnownCACertificates: System}}\n";
const SERVICE: &str = "group: '', kind: Service, name: a";
const TO_A: &str = "backendRefs: [{name: a, port: 80}]";
const AUTHORIZED: &str = "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: b, port: 80}, http: {}}}], backendRefs: [{name: a, port: 80}]";
const HBONE: &str = "port: 15008, protocol: HBONE";

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_ignored_or_do_harm_is_refused_and_passes_while_nobody_answers() {
    let bed = Bed::new().await;
    bed.install(&["ValidatingWebhookConfiguration"]).await;
    // Nobody answers yet.
    bed.apply(&policy("early", BROKEN)).await.good();
    let control_plane = bed.control_plane(3600, 300).await;
    eventually("roots in the configuration", async || bed.bundles().await.is_some()).await;
    eventually("a refusal", async || !bed.try_out(&policy("p", BROKEN)).await.done).await;
    let parts = [
        "admission webhook \"objects.validation.ambit.dev\" denied the request: AuthorizationPolicy shop/p would be ignored or do harm",
        "spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0\" is neither an IP address nor a CIDR block",
        "`ambit check FILE` says this without a cluster",
    ];
    bed.apply(&policy("p", BROKEN)).await.refused(&parts);

    each_kind_is_judged(&bed).await;
    what_is_others_is_left_to_them(&bed).await;
    what_was_there_before_stays_and_goes(&bed).await;

    let patch = r#"{"webhooks": [{"name": "objects.validation.ambit.dev", "clientConfig": {"caBundle": null}}]}"#;
    bed.api
        .kubectl(&["patch", "validatingwebhookconfiguration", "ambit-validation", "--type=strategic", "-p", patch])
        .await
        .unwrap();
    eventually("the roots again", async || bed.bundles().await.is_some()).await;
    eventually("a refusal again", async || !bed.try_out(&policy("p", BROKEN)).await.done).await;

    let before = bed.bundles().await;
    control_plane.stop().await;
    bed.apply(&policy("late", BROKEN)).await.good();
    // Whoever leads next: the roots are the cluster's, and nothing is waited for.
    let control_plane = bed.control_plane(3600, 300).await;
    eventually("a refusal by the next", async || !bed.try_out(&policy("p", BROKEN)).await.done).await;
    assert_eq!(bed.bundles().await, before);
    control_plane.stop().await;
}

async fn each_kind_is_judged(bed: &Bed) {
    let peers =
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: m, namespace: shop}\nspec: {mtls: {mode: ";
    let good = [
        policy("good", "[{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]"),
        format!("{peers}STRICT}}}}\n"),
        entry("ServiceEntry", "e", "{hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}"),
        entry("WorkloadEntry", "w", "{address: 192.0.2.1}"),
        route("HTTPRoute", "h", SERVICE, TO_A),
        route("GRPCRoute", "g", SERVICE, TO_A),
        route("TCPRoute", "t", SERVICE, TO_A),
        gateway("waypoint", "istio-waypoint", HBONE),
    ];
    bed.apply(&good.join("---\n")).await.good();
    for (broken, part) in [
        (policy("p", "[{when: [{key: source.nose, values: [x]}]}]"), "\"source.nose\" is not a known attribute"),
        (
            entry("ServiceEntry", "e2", "{hosts: ['*.example'], resolution: DNS}"),
            "a wildcard can only be passed on as it is: use resolution NONE",
        ),
        (entry("WorkloadEntry", "w2", "{address: 127.0.0.1}"), "is an address of no other machine"),
        (route("HTTPRoute", "h", SERVICE, AUTHORIZED), "spec.rules[0]: filter ExternalAuth is not supported; a waypoint answers"),
        (
            route("GRPCRoute", "g", SERVICE, "matches: [{headers: [{type: RegularExpression, name: a, value: '('}]}]"),
            "is not a regular expression",
        ),
        (
            route("TCPRoute", "t", &format!("{SERVICE}, namespace: bank"), TO_A),
            "a TCPRoute holds only for Services of its own namespace",
        ),
        (
            of_tokens("{targetRefs: [{kind: Service, name: a}], jwtRules: [{issuer: x}]}"),
            "spec.jwtRules[0].jwks: without it, and without jwksUri, the issuer is asked for its keys",
        ),
        (gateway("w2", "istio-waypoint", "port: 80, protocol: HTTP"), "No listener has port 15008 and protocol HBONE"),
    ] {
        bed.try_out(&broken).await.refused(&["denied the request", part]);
    }
    // Of an older version, too.
    let older = route("HTTPRoute", "h", SERVICE, AUTHORIZED).replace("k8s.io/v1\n", "k8s.io/v1beta1\n");
    assert!(older.contains("v1beta1"));
    bed.try_out(&older).await.refused(&["denied the request", "filter ExternalAuth is not supported"]);
    let warned = [
        policy("w", "[{to: [{operation: {methods: [GET]}}]}]"),
        format!("{peers}DISABLE}}}}\n"),
        TO_BACKENDS.into(),
        of_tokens("{jwtRules: [{issuer: x}]}"),
        TELEMETRY.into(),
    ]
    .join("---\n");
    let parts = [
        "methods is not known at L4",
        "give targetRefs",
        "DISABLE means PERMISSIVE",
        "a waypoint begins no TLS to backends",
        "spec: it has no effect: node proxies see connections",
        "spec.metrics[0].providers: of metrics this is not carried out: stackdriver",
        "spec.tracing[0].enableIstioTags: no spans are sent by this Telemetry",
    ];
    bed.try_out(&warned).await.warned(&parts);
}

async fn what_is_others_is_left_to_them(bed: &Bed) {
    let theirs = [route("HTTPRoute", "theirs", "name: w", AUTHORIZED), gateway("theirs", "nginx", "port: 80, protocol: HTTP")];
    bed.try_out(&theirs.join("---\n")).await.good();
    // One of a Gateway of the mesh's own, once the control plane knows of it.
    bed.apply(&gateway("own", "ambit", "port: 80, protocol: HTTP")).await.good();
    let own = route("HTTPRoute", "own", "name: own", AUTHORIZED);
    eventually("a refusal of a route at the edge", async || !bed.try_out(&own).await.done).await;
    bed.try_out(&own).await.refused(&["denied the request", "filter ExternalAuth is not supported"]);
    bed.api.kubectl(&["label", "namespace", "shop", "ambit.dev/validation=disabled"]).await.unwrap();
    eventually("nothing to be said in the namespace", async || bed.try_out(&policy("p", BROKEN)).await.done).await;
    bed.api.kubectl(&["label", "namespace", "shop", "ambit.dev/validation-"]).await.unwrap();
    eventually("refusals in the namespace", async || !bed.try_out(&policy("p", BROKEN)).await.done).await;
}

async fn what_was_there_before_stays_and_goes(bed: &Bed) {
    bed.kubectl(&["label", "authorizationpolicy", "-n", "shop", "early", "a=b"], "").await.warned(&["10.0.0"]);
    bed.apply(&policy("early", "[{from: [{source: {ipBlocks: [10.1.1]}}]}]")).await.refused(&["10.1.1"]);
    let moved = "[{from: [{source: {namespaces: [a]}}]}, {from: [{source: {ipBlocks: [10.0.0]}}]}]";
    bed.apply(&policy("early", moved)).await.warned(&["spec.rules[1]", "10.0.0"]);
    let status = r#"{"status": {"conditions": []}}"#;
    let status = ["patch", "authorizationpolicy", "-n", "shop", "early", "--subresource=status", "--type=merge", "-p", status];
    bed.kubectl(&status, "").await.good();
    let patch = |finalizers: &str| format!(r#"{{"metadata": {{"finalizers": {finalizers}}}}}"#);
    let (hold, free) = (patch(r#"["example.com/hold"]"#), patch("null"));
    let patched = |patch| ["patch", "authorizationpolicy", "-n", "shop", "early", "--type=merge", "-p", patch];
    bed.kubectl(&patched(&hold), "").await.warned(&["10.0.0"]);
    bed.kubectl(&["delete", "authorizationpolicy", "-n", "shop", "early", "--wait=false"], "").await.good();
    bed.kubectl(&patched(&free), "").await.good();
    bed.kubectl(&["get", "authorizationpolicy", "-n", "shop", "early"], "").await.refused(&["NotFound"]);
}

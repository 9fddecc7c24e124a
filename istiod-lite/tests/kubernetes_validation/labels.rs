//! Labels of the mesh, judged by the API server itself.

use std::path::PathBuf;

use istiod_lite::source::check::check;

use crate::bed::{Bed, eventually};

/// Errors and warnings of `ambit check FILE`.
fn checked(text: &str) -> (usize, usize) {
    let problems = check(&[(PathBuf::from("a.yaml"), text.to_owned())]).problems;
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    (errors, problems.len() - errors)
}

fn labelled(kind: &str, name: &str, labels: &str) -> String {
    let (version, spec) = match kind {
        "Namespace" => ("v1", "{}"),
        "Pod" => ("v1", "{containers: [{name: c, image: i}]}"),
        "Service" => ("v1", "{ports: [{port: 80}]}"),
        "ServiceEntry" => ("networking.istio.io/v1", "{hosts: [a.example], addresses: [240.1.1.1], resolution: DNS}"),
        "Gateway" => (
            "gateway.networking.k8s.io/v1",
            "{gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}",
        ),
        other => panic!("{other}"),
    };
    let namespace = if kind == "Namespace" { "" } else { ", namespace: shop" };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{namespace}, labels: {{{labels}}}}}\nspec: {spec}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_would_be_ignored_or_reach_nobody_are_refused_with_the_fix() {
    let bed = Bed::new().await;
    // From before the policies were there.
    bed.apply(&labelled("Namespace", "old", "istio.io/dataplane-mode: sidecar, istio.io/use-waypoint: WP")).await.good();
    bed.install(&["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]).await;
    let mode = "istio.io/dataplane-mode: ambinet";
    eventually("a refusal", async || !bed.try_out(&labelled("Namespace", "n", mode)).await.done).await;

    let refusals = [
        ("Namespace", mode, &["ambit-dataplane-mode", "ambinet would be ignored", "write ambient for into the mesh"][..]),
        ("Namespace", "istio.io/use-waypoint: WP", &["ambit-use-waypoint", "no Gateway can have the name WP", "or none"]),
        ("Service", "istio.io/use-waypoint: way_point", &["no Gateway can have the name way_point"]),
        ("ServiceEntry", "istio.io/use-waypoint: WP", &["no Gateway can have the name WP"]),
        (
            "Service",
            "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: Infra",
            &["no namespace can have the name Infra"],
        ),
        (
            "Service",
            "istio.io/use-waypoint-namespace: infra",
            &["would be ignored: name the waypoint with istio.io/use-waypoint"],
        ),
        ("Gateway", "istio.io/waypoint-for: services", &["ambit-waypoint-for", "services would be taken for service"]),
    ];
    for (kind, labels, parts) in refusals {
        // Policies come into force one by one.
        eventually(labels, async || !bed.try_out(&labelled(kind, "new", labels)).await.done).await;
        bed.try_out(&labelled(kind, "new", labels)).await.refused(parts);
        assert_eq!(checked(&labelled(kind, "new", labels)), (1, 0), "offline: {kind} {labels}");
    }
    // A Deployment of before the mesh goes on making pods.
    for (labels, part) in
        [(mode, "ambinet would be ignored"), ("istio.io/use-waypoint: a..b", "no Gateway can have the name a..b")]
    {
        let pod = labelled("Pod", "new", labels);
        eventually(labels, async || bed.try_out(&pod).await.text.contains(part)).await;
        bed.try_out(&pod).await.warned(&[part]);
    }
    let good = [
        labelled("Namespace", "a", "istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint"),
        labelled("Namespace", "b", "istio.io/dataplane-mode: none, istio.io/use-waypoint: none"),
        labelled("Pod", "c", "istio.io/dataplane-mode: ambient, istio.io/use-waypoint: ''"),
        labelled("Service", "d", "istio.io/use-waypoint: w1, istio.io/use-waypoint-namespace: infra"),
        labelled("ServiceEntry", "e", "istio.io/use-waypoint: w-1"),
        labelled("Gateway", "f", "istio.io/waypoint-for: all"),
        labelled("Gateway", "g", ""),
        // What another controller means by it is its business.
        labelled("Gateway", "h", "istio.io/waypoint-for: everybody").replace("istio-waypoint", "example"),
    ];
    assert_eq!(checked(&good.join("---\n")), (0, 0), "offline");
    bed.apply(&good.join("---\n")).await.good();

    // What was there before can be changed in other ways, and mended.
    bed.kubectl(&["label", "namespace", "old", "a=b"], "").await.good();
    bed.kubectl(&["label", "namespace", "old", "istio.io/dataplane-mode=other", "--overwrite"], "")
        .await
        .refused(&["other would be ignored"]);
    bed.kubectl(&["label", "namespace", "old", "istio.io/dataplane-mode=ambient", "--overwrite"], "").await.good();
    bed.kubectl(&["label", "namespace", "old", "istio.io/use-waypoint-"], "").await.good();

    let host = labelled("Pod", "host", "istio.io/dataplane-mode: ambient").replace("spec: {", "spec: {hostNetwork: true, ");
    eventually("a warning", async || bed.try_out(&host).await.text.contains("Warning:")).await;
    assert_eq!(checked(&host), (0, 1), "offline");
    bed.try_out(&host).await.warned(&["has no effect on a pod with hostNetwork"]);
    let system =
        bed.kubectl(&["label", "--dry-run=server", "namespace", "kube-system", "istio.io/dataplane-mode=ambient"], "").await;
    system.warned(&["pods of this namespace are never captured (setting node.excludeNamespaces)"]);
    let without = labelled("Pod", "host", "a: b").replace("spec: {", "spec: {hostNetwork: true, ");
    bed.try_out(&without).await.good();
}

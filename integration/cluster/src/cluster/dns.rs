//! Cluster DNS: CoreDNS as everybody installs it, without anybody to forward to, for there is no network outside.

use serde_json::{Value, json};

use super::plane::ControlPlane;
use crate::error::Result;
use crate::node::config::DNS;

/// The image, which is made from the built program.
pub(super) const IMAGE: &str = "ambit.local/coredns:1.14.1";

const COREFILE: &str = "\
.:53 {
    errors
    health :8080 {
        lameduck 0s
    }
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    loadbalance
}
";

/// Applies it.
pub(super) async fn install(plane: &ControlPlane) -> Result<()> {
    plane.apply("dns.json", &json!({ "apiVersion": "v1", "kind": "List", "items": objects() })).await
}

fn objects() -> Vec<Value> {
    let meta = |name: &str| json!({ "name": name, "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("coredns") }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "system:coredns" },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "system:coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system" }],
        }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("coredns"), "data": { "Corefile": COREFILE } }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta("kube-dns"),
            "spec": {
                "clusterIP": DNS, "ipFamilyPolicy": "PreferDualStack", "selector": { "k8s-app": "kube-dns" },
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP" },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
                ],
            },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("coredns"),
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "k8s-app": "kube-dns" } },
                "template": { "metadata": { "labels": { "k8s-app": "kube-dns" } }, "spec": pod() },
            },
        }),
    ]
}

fn pod() -> Value {
    json!({
        "serviceAccountName": "coredns", "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
        "containers": [{
            "name": "coredns", "image": IMAGE, "imagePullPolicy": "Never", "args": ["-conf", "/etc/coredns/Corefile"],
            "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
        }],
        "volumes": [{ "name": "config", "configMap": { "name": "coredns" } }],
    })
}

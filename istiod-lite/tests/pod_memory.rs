//! What a pod of a real cluster costs in memory: alone in its program, for the memory of the whole process is measured.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use ambit_runtime::readiness::Readiness;
use ambit_xds::server::Cache;
use futures::future::BoxFuture;
use http::{Request, Response};
use istiod_lite::Mesh;
use istiod_lite::index::MeshConfig;
use istiod_lite::push::Pusher;
use istiod_lite::source::kubernetes::Timing;
use istiod_lite::source::{Event, Kubernetes, Source};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

const PODS: usize = 10_000;
/// Most bytes for a pod in the source, key and all: most of it are the many fields of its type that are empty.
const SOURCE: usize = 10 << 10;
/// Most bytes for a pod with its links in the index and its resource in the cache.
const TOTAL: usize = 16 << 10;

/// A server that makes so many pods up as they are asked for, as large as real ones.
#[derive(Clone)]
struct Pods(usize);

fn pod(number: usize) -> Value {
    let container = |name: &str| {
        let variables: Vec<Value> =
            (0..15).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value of {n}, {number}")})).collect();
        json!({
            "name": name, "image": format!("registry.example/team/{name}:v1.2.3"), "imagePullPolicy": "IfNotPresent", "env": variables,
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 9090, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}}, "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}},
            "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
        })
    };
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let address = format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);
    let managed = json!({"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {}}}}});
    json!({
        "metadata": {
            "name": format!("checkout-{:08x}-{number:05}", number / 10), "namespace": format!("team-{}", number % 100), "uid": format!("{number:036}"),
            "resourceVersion": number.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [managed.clone(), managed],
            "labels": {"app": format!("checkout-{}", number / 10), "pod-template-hash": format!("{:08x}", number / 10), "version": "v1"},
            "annotations": {"ambient.istio.io/redirection": "enabled", "prometheus.io/scrape": "true", "checksum/config": "0".repeat(64)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("checkout-{:08x}", number / 10), "uid": "1", "controller": true}],
        },
        "spec": {
            "nodeName": format!("node-{}", number % 1000), "serviceAccountName": "checkout", "containers": [container("app"), container("sidecar")],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.0.2.1", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
            "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "x", "imageID": "sha256:".to_owned() + &"0".repeat(64)}],
        },
    })
}

impl tower::Service<Request<Body>> for Pods {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        if value("watch").is_some() {
            return Box::pin(pending());
        }
        let from: usize = value("continue").map_or(0, |token| token.parse().unwrap());
        let (items, token): (Vec<Value>, String) = match request.uri().path() {
            "/api/v1/pods" => {
                let until = (from + value("limit").map_or(self.0, |limit| limit.parse().unwrap())).min(self.0);
                ((from..until).map(pod).collect(), if until < self.0 { until.to_string() } else { String::new() })
            }
            _ => (Vec::new(), String::new()),
        };
        let body =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": token}, "items": items});
        Box::pin(ready(Ok(Response::new(Body::from(body.to_string().into_bytes())))))
    }
}

/// Bytes of memory of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

async fn listed(pods: usize) -> (Kubernetes, Vec<Event>) {
    let client = Client::new(Pods(pods), "default");
    let mut source = Kubernetes::new(&client, Timing::default(), &Readiness::new());
    let events = source.next().await.unwrap();
    assert_eq!(events.len(), pods);
    (source, events)
}

#[tokio::test]
async fn a_pod_costs_no_more_memory_than_it_may() {
    let sent = pod(4711).to_string().len();
    // What a page needs while it is read is memory once, not for each pod, and is there from now on.
    let warm = listed(1000).await;
    let before = resident();
    let (source, events) = listed(PODS).await;
    let kept = resident().saturating_sub(before) / PODS;
    let mesh = Arc::new(Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes")));
    let cache = Cache::new();
    Pusher::new(cache.clone()).apply(&mesh, events);
    let total = resident().saturating_sub(before) / PODS;
    println!("a pod: {sent} bytes sent, {kept} kept by the source, {total} with the index and its resource");
    assert!(kept < SOURCE && total < TOTAL, "{kept} and {total} bytes for a pod");
    drop((source, warm));
}

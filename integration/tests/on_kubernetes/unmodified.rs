//! Clients of others, unmodified, that take their configuration from the control plane which was installed: grpc-go that chooses for each call
//! by xDS, as the documentation has it, and an Envoy as a waypoint. Both by the names, tokens and roots that any pod has.

use std::path::Path;

use ambit_integration::{tools, wait};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::user::{PATIENCE, PAUSE, User};

const NAMESPACE: &str = "calls";

/// The image that all parts run, which also has what `ambit envoy` needs.
const IMAGE: &str = concat!("ghcr.io/ambit-mesh/ambit:", env!("CARGO_PKG_VERSION"));
const SMALL: &str = "ambit.local/busybox:1";

/// The container that calls by xDS, and the one that calls the service which goes through Envoy.
const DIRECT: &str = "direct";
const THROUGH: &str = "through";

/// So many lines in a row that say the same, of [`CALLS`] calls each, show that a change has come to stay.
const IN_A_ROW: usize = 3;
const CALLS: u32 = 5;

/// What users copy.
const DOCUMENTED: &str = include_str!("../../../docs/grpc.md");

impl User<'_> {
    pub async fn unmodified_clients(&self) -> anyhow::Result<()> {
        self.in_the_mesh().await?;
        self.apply("calls.json", &list(&place()?)).await?;
        // Made by the control plane: what the pods below have to find.
        for made in ["configmap/istio-ca-root-cert", "serviceaccount/envoy"] {
            self.cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=create", made, "--timeout=90s"]).await?;
        }
        self.apply("route.json", &route("v1").to_string()).await?;
        let programs = tools::installed("xds-client")?;
        let envoy = ambit::envoy::locate(None).await?;
        let (servers, caller) = pods(&programs, &envoy)?;
        // Servers first: who finds none asks again only after a while.
        for (file, pods) in [("servers.json", list(&servers)), ("caller.json", list(&[caller]))] {
            self.apply(file, &pods).await?;
            let ready = ["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=90s"];
            self.cluster.kubectl(&ready).await?;
        }
        (self.tell)("grpc-go and Envoy run");

        self.all_answered_by("v1").await?;
        self.serves_envoy_alone().await?;
        self.apply("route.json", &route("v2").to_string()).await?;
        self.all_answered_by("v2").await?;
        self.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).await?;
        Ok(())
    }

    /// Waits until all calls of both clients are answered by this version.
    async fn all_answered_by(&self, version: &str) -> anyhow::Result<()> {
        let expected = json!({ version: CALLS }).to_string();
        for (container, what) in [(DIRECT, "grpc-go finds by xDS"), (THROUGH, "Envoy leads to")] {
            let look = async || {
                tokio::time::sleep(PAUSE).await;
                let tail = format!("--tail={}", 2 * IN_A_ROW);
                let said = self.cluster.kubectl(&["logs", "-n", NAMESPACE, "caller", "-c", container, &tail]).await;
                let said = said.map_err(|error| error.to_string())?;
                let answers: Vec<_> = said.lines().rev().take(IN_A_ROW).collect();
                let all = answers.len() == IN_A_ROW && answers.iter().all(|line| *line == expected);
                if all { Ok(()) } else { Err(said) }
            };
            let (_, took) = wait::until(&format!("calls that {what} {version} alone"), PATIENCE, look).await?;
            (self.tell)(&format!("{what} {version}, seen after {:.1} s", took.as_secs_f64()));
        }
        Ok(())
    }

    /// Nothing but Envoy can have been the waypoint.
    async fn serves_envoy_alone(&self) -> anyhow::Result<()> {
        let selector = "gateway.networking.k8s.io/gateway-name=envoy";
        let path = "jsonpath={.items[*].metadata.name}";
        let pods = self.cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", selector, "-o", path]).await?;
        ensure!(pods == "envoy", "other pods are the waypoint: {pods}");
        Ok(())
    }
}

fn list(items: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// The namespace, its services, the Gateway whose pods are others' to run, and the bootstrap file of the documentation.
fn place() -> anyhow::Result<Vec<Value>> {
    let (_, text) = DOCUMENTED.split_once("```json\n").context("the bootstrap file in the documentation")?;
    let (bootstrap, _) = text.split_once("```").context("its end")?;
    let service = |name: &str, labels: Value, selector: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
            "spec": { "selector": selector, "ports": [{ "name": "grpc", "port": 80, "targetPort": 8080, "appProtocol": "grpc" }] },
        })
    };
    let version = |version: &str| service(&format!("echo-{version}"), json!({}), json!({ "app": "echo", "version": version }));
    let none = json!({ "deployment": "spec: {replicas: 0}" });
    Ok(vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": { "istio.io/dataplane-mode": "ambient" } },
        }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "no-pods", "namespace": NAMESPACE }, "data": none }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "name": "envoy", "namespace": NAMESPACE },
            "spec": {
                "gatewayClassName": "istio-waypoint", "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }],
                "infrastructure": { "parametersRef": { "group": "", "kind": "ConfigMap", "name": "no-pods" } },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "bootstrap", "namespace": NAMESPACE },
            "data": { "bootstrap.json": bootstrap },
        }),
        service("echo", json!({}), json!({ "app": "echo" })),
        service("web", json!({ "istio.io/use-waypoint": "envoy" }), json!({ "app": "echo" })),
        version("v1"),
        version("v2"),
    ])
}

/// Leads all calls to one version: those that clients lead themselves, and those that the waypoint does.
fn route(version: &str) -> Value {
    let parent = |name: &str| json!({ "group": "", "kind": "Service", "name": name, "port": 80 });
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": { "name": "echo", "namespace": NAMESPACE },
        "spec": {
            "parentRefs": [parent("echo"), parent("web")],
            "rules": [{ "backendRefs": [{ "name": format!("echo-{version}"), "port": 80 }] }],
        },
    })
}

/// Two servers and Envoy, then the pod of both callers. Programs of this machine are mounted from it: in an image they would take long to bring to the nodes.
fn pods(xds_client: &Path, envoy: &Path) -> anyhow::Result<(Vec<Value>, Value)> {
    let program = json!({ "name": "program", "hostPath": { "path": xds_client, "type": "File" } });
    let mounted = json!({ "name": "program", "mountPath": "/xds-client", "readOnly": true });
    let server = |version: &str, node: &str| {
        let container = json!({
            "name": "server", "image": SMALL, "imagePullPolicy": "Never", "command": ["/xds-client", "serve", ":8080", version],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 }, "volumeMounts": [&mounted],
        });
        let labels = json!({ "app": "echo", "version": version });
        pod(version, labels, json!({ "nodeName": node, "containers": [container], "volumes": [&program] }))
    };
    let caller = |name: &str, target: &str| {
        let calls = format!("while :; do echo {CALLS}; sleep 0.2; done | /xds-client call {target}");
        json!({
            "name": name, "image": SMALL, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", calls],
            "env": [
                { "name": "GRPC_XDS_BOOTSTRAP", "value": "/etc/grpc/bootstrap.json" },
                { "name": "GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS", "value": "true" },
            ],
            "volumeMounts": [
                mounted,
                { "name": "bootstrap", "mountPath": "/etc/grpc" },
                { "name": "roots", "mountPath": "/var/run/secrets/istio" },
                { "name": "token", "mountPath": "/var/run/secrets/tokens" },
            ],
        })
    };
    let callers = [
        caller(DIRECT, "xds:///echo.calls.svc.cluster.local:80"),
        // By its address as anybody finds it: the node proxy leads it to the waypoint.
        caller(THROUGH, "dns:///web.calls.svc.cluster.local:80"),
    ];
    let bootstrap = json!({ "name": "bootstrap", "configMap": { "name": "bootstrap" } });
    let mut volumes = credentials();
    volumes.extend([program.clone(), bootstrap]);
    let caller = pod("caller", json!({}), json!({ "nodeName": "node-1", "containers": callers, "volumes": volumes }));
    Ok((vec![server("v1", "node-1"), server("v2", "node-2"), waypoint(envoy)?], caller))
}

/// Envoy where the pods of the waypoint would be, under their service account.
fn waypoint(envoy: &Path) -> anyhow::Result<Value> {
    let libraries = tools::libraries()?;
    let container = json!({
        "name": "envoy", "image": IMAGE,
        "command": [
            "ambit", "envoy", "--name=envoy", "--namespace", NAMESPACE, "--service-account=envoy", "--concurrency=1", "--envoy=/envoy",
        ],
        "readinessProbe": { "httpGet": { "path": "/healthz/ready", "port": 15021 }, "periodSeconds": 1 },
        "volumeMounts": [
            { "name": "program", "mountPath": "/envoy", "readOnly": true },
            { "name": "libraries", "mountPath": libraries, "readOnly": true },
            { "name": "roots", "mountPath": "/var/run/secrets/istio" },
            { "name": "token", "mountPath": "/var/run/secrets/tokens" },
        ],
    });
    let mut volumes = credentials();
    volumes.push(json!({ "name": "program", "hostPath": { "path": envoy, "type": "File" } }));
    volumes.push(json!({ "name": "libraries", "hostPath": { "path": libraries, "type": "Directory" } }));
    let labels = json!({
        "gateway.networking.k8s.io/gateway-name": "envoy", "networking.istio.io/tunnel": "http", "istio.io/dataplane-mode": "none",
    });
    let spec = json!({ "nodeName": "node-2", "serviceAccountName": "envoy", "containers": [container], "volumes": volumes });
    Ok(pod("envoy", labels, spec))
}

/// The roots and a token for the control plane, as any pod may have them.
fn credentials() -> Vec<Value> {
    let token = json!({ "serviceAccountToken": { "path": "istio-token", "audience": "istio-ca", "expirationSeconds": 3600 } });
    vec![
        json!({ "name": "roots", "configMap": { "name": "istio-ca-root-cert" } }),
        json!({ "name": "token", "projected": { "sources": [token] } }),
    ]
}

fn pod(name: &str, labels: Value, mut spec: Value) -> Value {
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels }, "spec": spec })
}

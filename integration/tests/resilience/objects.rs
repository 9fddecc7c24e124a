//! The objects of the mesh: what people write, and what an API server would add.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Each asks the next one; the last one fails.
pub const B: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
pub const C: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);
pub const D: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 13);
/// Of three endpoints, which may be ejected.
pub const EJECTING: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 14);
/// Whose connections break.
pub const WRITTEN: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 15);
/// Which can do only so much.
pub const BUSY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 16);
/// Of the same endpoints as [`EJECTING`], which are given their share by and by.
pub const RETURNING: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 17);

const FIXED: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: ejecting, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: ejecting}]
  outlierDetection: {consecutiveErrors: 3, interval: 250ms, baseEjectionTime: 1s, maxEjectionPercent: 50}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: returning, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: returning}]
  outlierDetection: {consecutiveErrors: 3, interval: 250ms, baseEjectionTime: 1s, maxEjectionPercent: 50}
  loadBalancing: {policy: RoundRobin, slowStart: {window: 4s}}
---
apiVersion: ambit.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: busy, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: busy}]
  admission: {minConcurrency: 6}
"#;

/// A pod as an API server would show it.
pub fn pod(name: &str, app: &str, account: &str, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  {{name: {name}, namespace: shop, uid: uid-{name}, labels: {{app: {app}}}, \
         annotations: {{ambient.istio.io/redirection: enabled}}}}\n\
         spec: {{serviceAccountName: {account}, nodeName: node-1, containers: [{{name: c, image: i}}]}}\n\
         status: {{podIPs: [{}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n",
        addresses.join(", ")
    )
}

fn service(name: &str, address: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {address}, selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
    )
}

/// What is asked for below it is waited for less long, on each layer for less than on the one before.
pub const HURRIED: &str = "/hurried";

/// A route of a service which has requests sent again; those that are hurried after so many milliseconds, too.
fn retries(name: &str, attempts: u32, hurried: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: {name}}}]\n  \
         rules:\n  - backendRefs: [{{name: {name}, port: 80}}]\n    \
         retry: {{attempts: {attempts}, codes: [500, 502, 503, 504], backoff: 25ms}}\n    \
         timeouts: {{request: 30s, backendRequest: 2s}}\n  \
         - matches: [{{path: {{type: PathPrefix, value: {HURRIED}}}}}]\n    \
         backendRefs: [{{name: {name}, port: 80}}]\n    \
         retry: {{attempts: {attempts}, codes: [500, 502, 503, 504], backoff: 25ms}}\n    \
         timeouts: {{request: 30s, backendRequest: {hurried}ms}}\n"
    )
}

/// All of them, with these pods.
pub fn all(pods: &[String]) -> String {
    let mut yaml = FIXED.trim().to_owned();
    let services = [("b", B), ("c", C), ("d", D), ("ejecting", EJECTING), ("written", WRITTEN), ("busy", BUSY)];
    let services = services.map(|(name, address)| service(name, address));
    let returning = service("returning", RETURNING).replace("{app: returning}", "{app: ejecting}");
    let routes = [("b", 3, 1200), ("c", 3, 600), ("d", 3, 250), ("written", 1, 1000)];
    let routes = routes.map(|(name, attempts, hurried)| retries(name, attempts, hurried));
    for object in pods.iter().chain(&services).chain([&returning]).chain(&routes) {
        let _infallible = write!(yaml, "\n---\n{object}");
    }
    yaml
}

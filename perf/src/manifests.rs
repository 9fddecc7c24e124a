//! The YAML of the mesh under measurement: one client and one server, on two nodes, for each path.

use std::fmt::Write as _;

use crate::paths::Path;

/// Port of the server's service.
pub const SERVICE_PORT: u16 = 80;
/// Ports that the server listens on; new connections take turns, so that they do not run out of port numbers.
pub const SERVER_PORTS: [u16; 4] = [8080, 8081, 8082, 8083];

/// The directory's one file. `program` is this program: it serves.
#[must_use]
pub fn yaml(program: &str, paths: &[Path]) -> String {
    let mut out = String::new();
    for path in paths {
        let namespace = path.namespace();
        let mut labels = String::new();
        if path.enrolled() {
            labels.push_str("    istio.io/dataplane-mode: ambient\n");
        }
        if path.has_waypoint() {
            labels.push_str("    istio.io/use-waypoint: waypoint\n");
        }
        let labels = if labels.is_empty() { String::new() } else { format!("  labels:\n{labels}") };
        let _ = write!(out, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n{labels}---\n");
        for (pod, node, command) in
            [("client", "node-1", "[\"sleep\", \"100000\"]".to_owned()), ("server", "node-2", serve(program))]
        {
            let _ = write!(
                out,
                "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {pod}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: {namespace}, labels: {{app: {pod}}}}}
spec:
  nodeName: {node}
  serviceAccountName: {pod}
  containers:
    - {{name: {pod}, image: ambit.dev/perf, command: {command}}}
---
"
            );
        }
        let app_protocol = if path.has_waypoint() { "http" } else { "tcp" };
        let ports: Vec<String> = SERVER_PORTS
            .iter()
            .enumerate()
            .map(|(at, target)| {
                let port = SERVICE_PORT as usize + at;
                format!("    - {{name: {app_protocol}-{at}, port: {port}, targetPort: {target}, appProtocol: {app_protocol}}}")
            })
            .collect();
        let _ = write!(
            out,
            "apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {namespace}}}
spec:
  selector: {{app: server}}
  ports:
{}
---
",
            ports.join("\n")
        );
        if path.has_waypoint() {
            let _ = write!(
                out,
                "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {namespace}, labels: {{istio.io/waypoint-for: service}}}}
spec:
  gatewayClassName: istio-waypoint
  listeners:
    - {{name: mesh, port: 15008, protocol: HBONE}}
---
"
            );
        }
    }
    out
}

fn serve(program: &str) -> String {
    let ports: Vec<String> = SERVER_PORTS.iter().map(|port| format!("\"--port\", \"{port}\"")).collect();
    format!("[\"{program}\", \"serve\", {}]", ports.join(", "))
}

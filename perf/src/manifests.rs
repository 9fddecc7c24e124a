//! The YAML of the mesh under measurement: clients and one server for each path, on one node or two.

use std::fmt::Write as _;

use crate::paths::Path;

/// Port of the server's service.
pub const SERVICE_PORT: u16 = 80;
/// Ports that the server listens on; new connections take turns, so that they do not run out of port numbers. The last is served by
/// a program of its own, so that a stream at full speed does not keep the one that answers small requests busy.
pub const SERVER_PORTS: [u16; 5] = [8080, 8081, 8082, 8083, 8084];
/// How many of them answer small requests: the rest is for the stream beside them.
pub const SMALL_PORTS: usize = 4;
/// The first port of a Gateway at the edge of the mesh; each port of the service has one.
pub const EDGE_PORT: u16 = 9080;
/// Name of the Gateway of a path with a waypoint.
pub const WAYPOINT: &str = "waypoint";
/// Name of that at the edge of the mesh.
pub const EDGE: &str = "edge";

/// The directory's one file. `program` is this program: it serves.
#[must_use]
pub fn yaml(program: &str, paths: &[Path]) -> String {
    let mut out = String::new();
    for path in paths {
        let namespace = path.name();
        out.push_str(&namespace_of(*path));
        out.push_str(&account(namespace, "client"));
        out.push_str(&account(namespace, "server"));
        out.push_str(&pod(namespace, "client", "client", "node-1", &[SLEEP.to_owned()]));
        // Beside the client on its node, with its identity: what it sends takes the same tunnels.
        out.push_str(&pod(namespace, "elephant", "client", "node-1", &[SLEEP.to_owned()]));
        let (small, bulk) = SERVER_PORTS.split_at(SMALL_PORTS);
        let servers = [serve(program, small), serve(program, bulk)];
        out.push_str(&pod(namespace, "server", "server", path.server_node(), &servers));
        out.push_str(&service(*path));
        if path.has_waypoint() {
            out.push_str(&gateway(namespace));
        } else if path.is_hop() {
            out.push_str(&edge(namespace));
        } else if path.enrolled() {
            out.push_str(&policy(namespace, "clients", &format!("cluster.local/ns/{namespace}/sa/*")));
        }
    }
    out
}

/// What a pod runs that is only a place.
const SLEEP: &str = "[\"sleep\", \"100000\"]";

fn namespace_of(path: Path) -> String {
    let mut labels = String::new();
    if path.enrolled() {
        labels.push_str("    istio.io/dataplane-mode: ambient\n");
    }
    if path.has_waypoint() {
        labels.push_str("    istio.io/use-waypoint: waypoint\n");
    }
    let labels = if labels.is_empty() { String::new() } else { format!("  labels:\n{labels}") };
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {}\n{labels}---\n", path.name())
}

/// A service account.
#[must_use]
pub fn account(namespace: &str, name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n")
}

/// A pod that runs `commands`, each in a container of its own.
#[must_use]
pub fn pod(namespace: &str, name: &str, account: &str, node: &str, commands: &[String]) -> String {
    let mut out = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  containers:
"
    );
    for (at, command) in commands.iter().enumerate() {
        let _ = writeln!(out, "    - {{name: c{at}, image: ambit.dev/perf, command: {command}}}");
    }
    out.push_str("---\n");
    out
}

/// A pod that does nothing.
#[must_use]
pub fn sleeper(namespace: &str, name: &str, account: &str, node: &str) -> String {
    pod(namespace, name, account, node, &[SLEEP.to_owned()])
}

fn service(path: Path) -> String {
    let protocol = if path.has_waypoint() || path.is_hop() { "http" } else { "tcp" };
    let mut out = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {}}}
spec:
  selector: {{app: server}}
  ports:
",
        path.name()
    );
    for (port, target) in (SERVICE_PORT..).zip(SERVER_PORTS) {
        let _ = writeln!(out, "    - {{name: {protocol}-{port}, port: {port}, targetPort: {target}, appProtocol: {protocol}}}");
    }
    out.push_str("---\n");
    out
}

fn gateway(namespace: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {WAYPOINT}, namespace: {namespace}, labels: {{istio.io/waypoint-for: service}}}}
spec:
  gatewayClassName: istio-waypoint
  listeners:
    - {{name: mesh, port: 15008, protocol: HBONE}}
---
"
    )
}

/// A Gateway at the edge of the mesh with a port for each of the service's.
fn edge(namespace: &str) -> String {
    let mut out = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {EDGE}, namespace: {namespace}}}
spec:
  gatewayClassName: ambit
  listeners:
"
    );
    for at in 0..SERVER_PORTS.len() {
        let _ = writeln!(out, "    - {{name: at-{at}, port: {}, protocol: HTTP}}", usize::from(EDGE_PORT) + at);
    }
    for at in 0..SERVER_PORTS.len() {
        let port = usize::from(SERVICE_PORT) + at;
        let _ = write!(
            out,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: to-{at}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {EDGE}, sectionName: at-{at}}}]
  rules: [{{backendRefs: [{{name: server, port: {port}}}]}}]
"
        );
    }
    out.push_str("---\n");
    out
}

/// A policy on the server that allows `principal`.
#[must_use]
pub fn policy(namespace: &str, name: &str, principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: ALLOW
  rules:
    - from: [{{source: {{principals: [\"{principal}\"]}}}}]
---
"
    )
}

/// The command of a server on `ports`.
#[must_use]
pub fn serve(program: &str, ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("\"--port\", \"{port}\"")).collect();
    format!("[\"{program}\", \"serve\", {}]", ports.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Kind and metadata of each object.
    fn objects(text: &str) -> Vec<(&str, &str)> {
        let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
        documents
            .map(|document| {
                let kind = document.lines().find(|line| line.starts_with("kind: ")).unwrap();
                let metadata = document.split_once("metadata:").unwrap().1.split("labels").next().unwrap();
                (kind, metadata.split("spec").next().unwrap().trim())
            })
            .collect()
    }

    #[test]
    fn no_object_is_there_twice() {
        let paths: Vec<Path> = Path::NODE.iter().chain(&Path::L7[1..]).copied().collect();
        let text = yaml("/bin/perf", &paths);
        let all = objects(&text);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert_eq!(all.iter().filter(|(kind, _)| *kind == "kind: Pod").count(), paths.len() * 3);
    }

    #[test]
    fn captured_paths_without_a_waypoint_have_a_policy() {
        let policies = |path: Path| yaml("/bin/perf", &[path]).matches("kind: AuthorizationPolicy").count();
        assert_eq!([Path::NoMesh, Path::Ztunnel, Path::SameNode, Path::Waypoint].map(policies), [0, 1, 1, 0]);
    }
}

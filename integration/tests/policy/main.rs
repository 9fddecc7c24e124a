//! Who may talk to whom, with the whole mesh: what a refused caller sees, and what the logs of both ends, the metrics and the status
//! of the objects say about it.

mod connections;
mod doubtful;
mod outsiders;
mod requests;
mod seen;

use std::process::ExitCode;

use ambit::local::WaypointKind;
use ambit_integration::{SharedMesh, shared, suite::Suite};
use libtest_mimic::Trial;

static MESHES: [SharedMesh; 2] = SharedMesh::both(|families| Box::pin(Suite::start("policy", WaypointKind::Ours, families)));

/// A caller with an identity, on the first node.
const CLIENT: &str = "callers/client";
/// Another with another identity, on the same node.
const OTHER: &str = "callers/other";
/// A caller whose namespace is not enrolled.
const OUTSIDER: &str = "legacy/old";
/// The server, by a service that node proxies alone judge.
const DIRECT: &str = "shop/direct";
/// Another server of the same namespace.
const NEIGHBOUR: &str = "shop/neighbour";
/// The same server behind the waypoint.
const ROUTED: &str = "shop/routed";
/// The proxy of the callers' node.
const CALLERS_PROXY: &str = "ztunnel/node-1";
/// The proxy of the servers' node.
const SERVERS_PROXY: &str = "ztunnel/node-2";
/// The waypoint.
const WAYPOINT: &str = "waypoint/shop/waypoint";

fn main() -> ExitCode {
    let groups = |mesh| [connections::tests(mesh), requests::tests(mesh), outsiders::tests(mesh), doubtful::tests(mesh)];
    ambit_integration::run(MESHES.iter().flat_map(groups).flatten().collect())
}

/// A test on a mesh without policies, whatever the one before left behind.
fn fresh(mesh: &'static SharedMesh, name: &str, body: impl AsyncFnOnce(&Suite) -> anyhow::Result<()> + Send + 'static) -> Trial {
    shared(mesh, name, async move |suite: &Suite| {
        for entry in suite.mesh.manifests().read_dir()? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.starts_with('9')) {
                suite.mesh.remove_manifest(name)?;
            }
        }
        body(suite).await
    })
}

/// An AuthorizationPolicy of the shop; `spec` is YAML in one line each, without indentation.
fn policy(name: &str, spec: &[&str]) -> String {
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
    let spec: String = spec.iter().map(|line| format!("  {line}\n")).collect();
    format!("{head}metadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}")
}

//! Unmodified programs through the mesh, with and without a waypoint in between; and streams that are large, half-closed or many.

mod python;
mod streams;
mod web;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ambit::local::WaypointKind;
use ambit_integration::{SharedMesh, suite::Suite, tools, wait};
use ambit_testbed::Families;
use anyhow::ensure;

/// The pod that calls, on node-1; all servers but `programs/near` are on node-2.
const CLIENT: &str = "callers/client";

static MESHES: [SharedMesh; 2] = SharedMesh::both(|families| Box::pin(start(families)));

fn main() -> ExitCode {
    let tests = |mesh| [web::tests(mesh), python::tests(mesh), streams::tests(mesh)].into_iter().flatten();
    ambit_integration::run(MESHES.iter().flat_map(tests).collect())
}

async fn start(families: Families) -> anyhow::Result<Suite> {
    tools::system("curl")?;
    let (nginx, python) = (tools::system("nginx")?, tools::python(&["grpc", "websockets"])?);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let words =
        [("NGINX", nginx.to_string_lossy()), ("PYTHON", python.to_string_lossy()), ("SCRIPTS", scripts.to_string_lossy())];
    let words = words.each_ref().map(|(word, text)| (*word, text.as_ref()));
    Suite::start_with("programs", WaypointKind::Ours, families, &words).await
}

/// Runs a shell script in the client's pod and returns what it wrote; `$@` are `arguments`.
async fn shell(suite: &Suite, script: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let command: Vec<&str> = ["sh", "-euc", script, "sh"].into_iter().chain(arguments.iter().copied()).collect();
    let (namespace, pod) = CLIENT.split_once('/').unwrap_or_default();
    let running = suite.mesh.exec(namespace, pod, &command);
    let finished = tokio::time::timeout(Duration::from_secs(60), running).await??;
    ensure!(finished.status.success(), "{script} {arguments:?}: {}: {}{}", finished.status, finished.stdout, finished.stderr);
    Ok(finished.stdout)
}

/// What was just sent to this service went out of the client's node encrypted: so says that node's proxy.
async fn encrypted(suite: &Suite, service: &str, since: usize) -> anyhow::Result<()> {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let host = format!("{name}.{namespace}.svc.cluster.local");
    let found = async || {
        let lines = suite.mesh.access_log("ztunnel/node-1");
        let fresh = lines.iter().skip(since);
        let of_service = fresh.filter(|line| line.get("dst.service").is_some_and(|service| service.contains(&host)));
        match of_service.collect::<Vec<_>>().as_slice() {
            [] => Err(format!("there is none for {host}")),
            lines => Ok(lines.iter().find(|line| !line.is_mutual_tls()).map(|line| format!("{line:?}"))),
        }
    };
    let (clear, _) = wait::until("a line in the access log", Duration::from_secs(5), found).await?;
    ensure!(clear.is_none(), "a connection in clear: {clear:?}");
    Ok(())
}

/// How many lines the access log of the client's node has: what comes after is new.
fn logged(suite: &Suite) -> usize {
    suite.mesh.access_log("ztunnel/node-1").len()
}

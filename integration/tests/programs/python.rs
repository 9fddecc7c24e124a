//! Python's gRPC and WebSocket libraries, client and server.

use std::path::Path;

use ambit_integration::{SharedMesh, shared, suite::Suite, tools};
use anyhow::ensure;
use libtest_mimic::Trial;

use super::{encrypted, logged, shell};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "Python speaks gRPC in all four ways", async |suite| grpc(suite, "programs/grpc").await),
        shared(mesh, "Python speaks gRPC in all four ways through a waypoint", async |suite| grpc(suite, "guarded/grpc").await),
        shared(mesh, "Python talks WebSocket", async |suite| socket(suite, "programs/socket").await),
        shared(mesh, "Python talks WebSocket through a waypoint", async |suite| socket(suite, "guarded/socket").await),
    ]
}

async fn grpc(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let addresses = suite.service(service)?;
    let (v4, v6) = (format!("ipv4:{}:50051", addresses[0]), format!("ipv6:[{}]:50051", addresses[1]));
    client(suite, service, "grpc_client.py", &[v4, v6]).await
}

async fn socket(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let addresses = suite.service(service)?;
    let (v4, v6) = (format!("ws://{}/", addresses[0]), format!("ws://[{}]/", addresses[1]));
    client(suite, service, "websocket_client.py", &[v4, v6]).await
}

/// Runs a client once for each address of the service.
async fn client(suite: &Suite, service: &str, script: &str, addresses: &[String]) -> anyhow::Result<()> {
    let before = logged(suite);
    let python = tools::python(&["grpc", "websockets"])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(script);
    for address in addresses {
        let said = shell(suite, "\"$@\"", &[&python.to_string_lossy(), &script.to_string_lossy(), address]).await?;
        ensure!(said == "ok\n", "{address}: {said}");
    }
    encrypted(suite, service, before).await
}

//! Python's gRPC and WebSocket libraries, client and server.

use std::net::{IpAddr, SocketAddr};
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
    let of = |ip: IpAddr| format!("{}:{}", if ip.is_ipv4() { "ipv4" } else { "ipv6" }, SocketAddr::new(ip, 50051));
    let addresses: Vec<_> = suite.service(service)?.into_iter().map(of).collect();
    client(suite, service, "grpc_client.py", &addresses).await
}

async fn socket(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let addresses: Vec<_> = suite.service(service)?.into_iter().map(|ip| format!("ws://{}/", SocketAddr::new(ip, 80))).collect();
    client(suite, service, "websocket_client.py", &addresses).await
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

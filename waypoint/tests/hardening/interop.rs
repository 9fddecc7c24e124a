//! grpc-go's own cases for clients and servers that are to understand each other, through a waypoint between them.

use std::{net::SocketAddr, process::Stdio, sync::Arc};

use tokio::{net::TcpStream, process::Command};

use super::{
    PATIENCE, front,
    support::{
        Mesh,
        resources::{Ep, Service},
    },
};

const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_go_does_all_that_it_does_without_a_waypoint() {
    let mesh = Arc::new(Mesh::start(161).await);
    let service = Service::http("grpc", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let port = super::support::free_port();
    let mut server = program("grpc-interop-server");
    let mut server = server.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = server.as_mut().expect("integration/programs.sh grpc-interop-server builds it, in target/test-tools/bin");
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let began = std::time::Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(server.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "the server does not listen");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(address)]);
    let entry = front(&mesh, service.vip).await;
    let mut failed = Vec::new();
    for case in CASES {
        let mut client = program("grpc-interop-client");
        client.arg("--server_host=127.0.0.1").arg(format!("--server_port={entry}")).arg(format!("--test_case={case}"));
        let output = tokio::time::timeout(PATIENCE, client.output()).await.unwrap_or_else(|_| panic!("{case} does not end"));
        let output = output.expect("integration/programs.sh grpc-interop-client builds it, in target/test-tools/bin");
        if !output.status.success() {
            failed.push(format!("{case}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    // That it was the waypoint which carried them.
    mesh.logged(&["path=/grpc.testing.TestService/UnaryCall", "dst.service=grpc.shop"]).await;
}

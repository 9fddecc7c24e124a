//! Connections that are not requests: servers that speak first, WebSockets, long bodies.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Suite;
use crate::client::request;
use crate::mesh::Mesh;
use crate::objects::BILLING;

pub fn tests(suite: &mut Suite) {
    suite.test("carries a protocol whose server speaks first", server_first);
    suite.test("carries a WebSocket", websocket);
    suite.test("carries a mebibyte of request body", body);
}

/// What a server that speaks first says to an account.
pub async fn banner(mesh: &Mesh, account: &str, vip: &str) -> anyhow::Result<String> {
    let mut tunnel = mesh.tunnel(account, &format!("{vip}:5432")).await??;
    let mut buffer = [0; 64];
    let count = tokio::time::timeout(Duration::from_secs(5), tunnel.read(&mut buffer)).await??;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

async fn server_first(mesh: &Mesh) -> anyhow::Result<()> {
    let mut tunnel = mesh.tunnel("web", &format!("{BILLING}:5432")).await??;
    let mut greeting = [0; 11];
    tokio::time::timeout(Duration::from_secs(5), tunnel.read_exact(&mut greeting)).await??;
    ensure!(&greeting == b"220 ready\r\n");
    tunnel.write_all(b"hello").await?;
    tunnel.shutdown().await?;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), tunnel.read_to_end(&mut rest)).await??;
    ensure!(rest == b"hello", "after a half-close: {rest:?}");
    Ok(())
}

async fn websocket(mesh: &Mesh) -> anyhow::Result<()> {
    let tunnel = mesh.tunnel("web", &format!("{BILLING}:80")).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel)).await?;
    tokio::spawn(connection.with_upgrades());
    let headers =
        [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "AA==")];
    let response = sender.send_request(request("GET", "/upgrade", &headers)).await?;
    ensure!(response.status() == 101, "answered {}", response.status());
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await?);
    socket.write_all(b"ping").await?;
    let mut echo = [0; 4];
    tokio::time::timeout(Duration::from_secs(5), socket.read_exact(&mut echo)).await??;
    ensure!(&echo == b"ping");
    Ok(())
}

async fn body(mesh: &Mesh) -> anyhow::Result<()> {
    let mut request = request("POST", "/v1", &[]);
    *request.body_mut() = Full::new(Bytes::from(vec![7; 1 << 20]));
    let answer = mesh.request("web", BILLING, 80, request).await?;
    ensure!(answer.status == 200, "answered {}", answer.status);
    ensure!(answer.seen()?["headers"]["content-length"] == serde_json::json!(["1048576"]), "{}", answer.body);
    Ok(())
}

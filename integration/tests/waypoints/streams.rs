//! Connections that are not requests: servers that speak first, WebSockets, long bodies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Suite;
use crate::client::request;
use crate::mesh::{Mesh, wait_for};
use crate::objects::BILLING;

pub fn tests(suite: &mut Suite) {
    suite.test("carries a protocol whose server speaks first", server_first);
    suite.test("carries a WebSocket", websocket);
    suite.test("carries a mebibyte of request body", body);
    suite.test("keeps a connection while services come", change);
    // The last one: it ends the waypoint.
    suite.test("ends in order within three seconds of SIGTERM", stop);
}

/// What a server that speaks first says to an account.
pub async fn banner(mesh: &Mesh, account: &str, vip: &str) -> anyhow::Result<String> {
    let to = SocketAddr::new(vip.parse()?, 5432).to_string();
    let mut tunnel = mesh.tunnel(account, &to).await??;
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
    let answer = mesh.request("web", BILLING, 80, mebibyte("/v1")).await?;
    ensure!(answer.status == 200 && answer.seen()?["length"] == 1 << 20, "{} {}", answer.status, answer.body);
    Ok(())
}

/// A new service is a new filter chain; what goes through the others is not to be disturbed by that.
async fn change(mesh: &Mesh) -> anyhow::Result<()> {
    let mut tunnel = mesh.tunnel("web", &format!("{BILLING}:5432")).await??;
    let mut greeting = [0; 11];
    tokio::time::timeout(Duration::from_secs(5), tunnel.read_exact(&mut greeting)).await??;
    mesh.add_service("late", "10.96.0.30")?;
    wait_for("the new service", || async {
        let answer = mesh.request("web", "10.96.0.30", 80, request("GET", "/", &[])).await?;
        ensure!(answer.status == 200, "answered {}", answer.status);
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    tunnel.write_all(b"still here").await?;
    let mut echo = [0; 10];
    tokio::time::timeout(Duration::from_secs(5), tunnel.read_exact(&mut echo)).await??;
    ensure!(&echo == b"still here");
    Ok(())
}

fn mebibyte(path: &str) -> http::Request<Full<Bytes>> {
    let mut request = request("POST", path, &[]);
    *request.body_mut() = Full::new(Bytes::from(vec![7; 1 << 20]));
    request
}

async fn stop(mesh: &Mesh) -> anyhow::Result<()> {
    let start = Instant::now();
    let status = mesh.process.stop(Duration::from_secs(3)).await;
    ensure!(status.success(), "ended with {status} after {:?}", start.elapsed());
    ensure!(mesh.client.connect((mesh.waypoint.ip(), 15008).into()).await.is_err(), "something still listens");
    Ok(())
}

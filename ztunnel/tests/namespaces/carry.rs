//! What is carried, and how.

use std::net::SocketAddr;

use ambit_testbed::Families;
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    mesh::{Mesh, PATIENCE, call, echo, id_of},
    over,
};

const MARKER: &[u8] = b"plain-text-marker-4711";

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_connection_between_nodes_is_encrypted_and_keeps_the_clients_address", encrypted),
        over(families, "without_the_mesh_the_marker_is_seen_on_the_wire", plain),
        over(families, "a_service_address_leads_to_its_endpoints", service),
        over(families, "pods_of_one_node_and_a_pod_and_itself_reach_each_other", same_node),
        over(families, "an_unknown_destination_passes_through", passthrough),
        over(families, "the_end_of_one_direction_leaves_the_other_open", half_close),
        over(families, "a_reset_of_one_side_is_a_reset_at_the_other", reset),
        over(families, "a_thousand_connections_at_once_all_work", thousand),
    ]
}

async fn encrypted(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let capture = mesh.bed.capture([MARKER])?;
    for (ip, own) in server.ips().into_iter().zip(client.ips()) {
        let (seen, answer) = call(&client, SocketAddr::new(ip, 8080), MARKER).await?;
        ensure!(seen == own, "the server saw {seen}, not {own}");
        ensure!(answer == [MARKER, b"bye"].concat(), "the answer was {answer:?}");
        let common = [format!("dst.addr={}", SocketAddr::new(ip, 8080)), "reason=ok".into(), "security=mutual_tls".into()];
        let ids = [format!("src.identity={}", id_of("web")), format!("dst.identity={}", id_of("api"))];
        let with = |first: &str| [vec![first.to_owned(), "bytes_sent=22".to_owned()], common.to_vec(), ids.to_vec()].concat();
        for (node, direction) in [(0, "direction=outbound"), (1, "direction=inbound")] {
            let parts = with(direction);
            mesh.logged(node, &parts.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
    }
    let report = capture.report();
    ensure!(!report.marker_seen() && report.dropped == 0, "{report:?}");
    ensure!(report.ipv6.packets > 0, "nothing crossed the wire over IPv6: {report:?}");
    ensure!((report.ipv4.packets > 0) == (families == Families::Dual), "over IPv4: {report:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn plain(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.outsider(0, "web", true).await?, mesh.outsider(1, "api", true).await?);
    let _echo = echo(&server, 8080)?;
    let capture = mesh.bed.capture([MARKER])?;
    for ip in server.ips() {
        call(&client, SocketAddr::new(ip, 8080), MARKER).await?;
    }
    let report = capture.report();
    ensure!(report.markers.iter().all(|seen| (seen.ipv4 > 0 || families == Families::Ipv6) && seen.ipv6 > 0), "{report:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn service(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (one, two) = (mesh.pod(1, "api-1").await?, mesh.pod(0, "api-2").await?);
    let _echo = (echo(&one, 8080)?, echo(&two, 8080)?);
    let vips = mesh.vips(10);
    mesh.service("api", &vips, &["api-1", "api-2"], |_| {});
    crate::mesh::call_until_it_works(&client, SocketAddr::new(vips[0], 80), PATIENCE).await?;
    for vip in &vips {
        for _ in 0..40 / vips.len() {
            call(&client, SocketAddr::new(*vip, 80), b"x").await?;
        }
    }
    // By chance alone one of two endpoints is missed in 40 calls once in 10^12.
    for name in ["dst.workload=api-1", "dst.workload=api-2"] {
        mesh.logged(0, &["direction=outbound", "dst.service=api.shop.svc.cluster.local", name, "reason=ok"]).await?;
    }
    mesh.change("api-2", |workload| workload.status = 1);
    mesh.change("api-1", |workload| workload.status = 1);
    let to = SocketAddr::new(vips[0], 80);
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=no_healthy_endpoint "]).await?;
    let refused = call(&client, SocketAddr::new(vips[0], 81), b"x").await;
    ensure!(refused.is_err(), "a port that the service does not have was connected");
    mesh.logged(0, &["direction=outbound", "reason=service_port_unknown"]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn same_node(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "api").await?);
    let _echo = (echo(&server, 8080)?, echo(&client, 8080)?);
    for (ip, own) in server.ips().into_iter().zip(client.ips()) {
        let (seen, _) = call(&client, SocketAddr::new(ip, 8080), b"x").await?;
        ensure!(seen == own, "the server saw {seen}, not {own}");
        call(&client, SocketAddr::new(own, 8080), b"x").await?;
    }
    let vip = mesh.vip(11);
    mesh.service("web", &[vip], &["web"], |_| {});
    crate::mesh::call_until_it_works(&client, SocketAddr::new(vip, 80), PATIENCE).await?;
    mesh.logged(0, &["direction=outbound", "dst.workload=web", "reason=ok"]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn passthrough(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.outsider(1, "legacy", false).await?);
    let _echo = echo(&server, 8080)?;
    for (ip, own) in server.ips().into_iter().zip(client.ips()) {
        let (seen, _) = call(&client, SocketAddr::new(ip, 8080), b"x").await?;
        ensure!(seen == own, "the server saw {seen}, not {own}");
        mesh.logged(0, &["direction=outbound", &format!("dst.addr={}", SocketAddr::new(ip, 8080)), "security=none", "reason=ok"])
            .await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn thousand(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(client.connect(to).await?);
    }
    for stream in &mut open {
        let mut line = [0; 1];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut line)).await??;
    }
    let mut calls = tokio::task::JoinSet::new();
    for mut stream in open {
        calls.spawn(async move {
            stream.write_all(b"ping").await?;
            stream.shutdown().await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::ensure!(answer.ends_with("pingbye"), "{answer}");
            anyhow::Ok(())
        });
    }
    while let Some(done) = tokio::time::timeout(PATIENCE, calls.join_next()).await? {
        done??;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// Both ends of one connection through the mesh.
async fn ends(mesh: &Mesh) -> anyhow::Result<(TcpStream, TcpStream)> {
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let listener = server.listen(SocketAddr::new(server.ip(), 8080))?;
    let near = client.connect(SocketAddr::new(server.ip(), 8080)).await?;
    let (far, _) = tokio::time::timeout(PATIENCE, listener.accept()).await??;
    Ok((near, far))
}

async fn half_close(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (mut client, mut server) = ends(&mesh).await?;
    server.write_all(b"that is all").await?;
    server.shutdown().await?;
    let mut all = String::new();
    tokio::time::timeout(PATIENCE, client.read_to_string(&mut all)).await??;
    ensure!(all == "that is all", "{all}");
    for part in ["not ", "for ", "me"] {
        client.write_all(part.as_bytes()).await?;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    client.shutdown().await?;
    all.clear();
    tokio::time::timeout(PATIENCE, server.read_to_string(&mut all)).await??;
    ensure!(all == "not for me", "{all}");
    mesh.logged(0, &["direction=outbound", "reason=ok ", "bytes_sent=10 bytes_recv=11 "]).await?;
    mesh.logged(1, &["direction=inbound", "reason=ok ", "bytes_sent=10 bytes_recv=11 "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn reset(families: Families) -> anyhow::Result<()> {
    let seen = async |mut stream: TcpStream| {
        let mut all = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await?;
        let kind = end.as_ref().map_err(std::io::Error::kind);
        ensure!(kind == Err(std::io::ErrorKind::ConnectionReset), "{end:?} {all:?}");
        anyhow::Ok(())
    };
    for client_resets in [true, false] {
        let mesh = Mesh::over(families).await?;
        let (client, server) = ends(&mesh).await?;
        let (first, second) = if client_resets { (client, server) } else { (server, client) };
        ambit_runtime::socket::reset(first);
        seen(second).await?;
        let reason = if client_resets { "reason=client_reset " } else { "reason=upstream_reset " };
        mesh.logged(0, &["direction=outbound", reason]).await?;
        mesh.logged(1, &["direction=inbound", reason]).await?;
        mesh.bed.shutdown().await;
    }
    Ok(())
}

//! What the control plane says of endpoints: where they are, whether they are ready.

use std::net::SocketAddr;

use ambit_api::workload::load_balancing::{HealthPolicy, Mode, Scope};
use ambit_testbed::Families;
use anyhow::ensure;

use super::{addresses, balanced, locate, ready, serve, service, taken_by, who};
use crate::mesh::{Mesh, PATIENCE, call};

/// What `trafficDistribution: PreferClose` becomes.
const CLOSE: [Scope; 3] = [Scope::Network, Scope::Region, Scope::Zone];
/// What `trafficDistribution: PreferSameNode` becomes.
const SAME_NODE: [Scope; 5] = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];

pub async fn nearest(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (near, also) = (mesh.pod(1, "near").await?, mesh.pod(0, "also-near").await?);
    let (middle, far) = (mesh.pod(1, "middle").await?, mesh.pod(0, "far").await?);
    let _serving = [serve(&near)?, serve(&also)?, serve(&middle)?, serve(&far)?];
    for (pod, region, zone) in
        [("web", "r1", "z1"), ("near", "r1", "z1"), ("also-near", "r1", "z1"), ("middle", "r1", "z2"), ("far", "r2", "z1")]
    {
        locate(&mesh, pod, region, zone);
    }
    service(&mesh, &["near", "also-near", "middle", "far"], |service| {
        service.load_balancing = Some(balanced(Mode::Failover, &CLOSE));
    });
    for to in addresses(&mesh) {
        taken_by(&client, to, &["near", "also-near"], 2 * PATIENCE).await?;
    }
    let to = addresses(&mesh)[0];
    for (pod, then) in [("near", "also-near"), ("also-near", "middle"), ("middle", "far")] {
        ready(&mesh, pod, false);
        taken_by(&client, to, &[then], 2 * PATIENCE).await?;
    }
    ready(&mesh, "near", true);
    taken_by(&client, to, &["near"], 2 * PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn same_node_preferred(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, here, there) = (mesh.pod(0, "web").await?, mesh.pod(0, "here").await?, mesh.pod(1, "there").await?);
    let _serving = [serve(&here)?, serve(&there)?];
    service(&mesh, &["here", "there"], |service| service.load_balancing = Some(balanced(Mode::Failover, &SAME_NODE)));
    for to in addresses(&mesh) {
        taken_by(&client, to, &["here"], 2 * PATIENCE).await?;
    }
    ready(&mesh, "here", false);
    for to in addresses(&mesh) {
        taken_by(&client, to, &["there"], 2 * PATIENCE).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// `internalTrafficPolicy: Local`.
pub async fn local(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let clients = [mesh.pod(0, "web").await?, mesh.pod(1, "other-web").await?];
    let (here, there) = (mesh.pod(0, "here").await?, mesh.pod(1, "there").await?);
    let _serving = [serve(&here)?, serve(&there)?];
    service(&mesh, &["here", "there"], |service| service.load_balancing = Some(balanced(Mode::Strict, &[Scope::Node])));
    for to in addresses(&mesh) {
        taken_by(&clients[0], to, &["here"], 2 * PATIENCE).await?;
        taken_by(&clients[1], to, &["there"], 2 * PATIENCE).await?;
    }
    ready(&mesh, "here", false);
    let to = addresses(&mesh)[0];
    mesh.logged_by_calling(&clients[0], to, 0, &["reason=no_healthy_endpoint ", "1 not near enough"]).await?;
    for to in addresses(&mesh).into_iter().cycle().take(10) {
        ensure!(who(&clients[0], to).await.is_err(), "it left the node");
    }
    taken_by(&clients[1], to, &["there"], PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// `publishNotReadyAddresses`.
pub async fn not_ready(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api-1").await?);
    let _serving = serve(&server)?;
    ready(&mesh, "api-1", false);
    service(&mesh, &["api-1"], |_| {});
    let to = addresses(&mesh)[0];
    mesh.logged_by_calling(&client, to, 0, &["reason=no_healthy_endpoint ", "1 not ready"]).await?;
    service(&mesh, &["api-1"], |service| {
        let mut balanced = balanced(Mode::UnspecifiedMode, &[]);
        balanced.health_policy = HealthPolicy::AllowAll.into();
        service.load_balancing = Some(balanced);
    });
    for to in addresses(&mesh) {
        taken_by(&client, to, &["api-1"], 2 * PATIENCE).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn headless(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (one, two, silent) = (mesh.pod(1, "db-0").await?, mesh.pod(0, "db-1").await?, mesh.pod(1, "db-2").await?);
    let _serving = [serve(&one)?, serve(&two)?];
    mesh.service("db", &[], &["db-0", "db-1", "db-2"], |_| {});
    for pod in [&one, &two] {
        for ip in pod.ips() {
            taken_by(&client, SocketAddr::new(ip, 8080), &[pod.name()], 2 * PATIENCE).await?;
        }
    }
    let to = SocketAddr::new(silent.ip(), 8080);
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=upstream_refused ", "dst.workload=db-2 "]).await?;
    ensure!(call(&client, to, b"x").await.is_err(), "another pod took what was for db-2");
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn keeps_the_address(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (inside, outside) = (mesh.pod(1, "inside").await?, mesh.outsider(1, "outside", false).await?);
    let _serving = [serve(&inside)?, serve(&outside)?];
    let keep = || Some(balanced(Mode::Passthrough, &[]));
    for (pod, security) in [(&inside, "security=mutual_tls"), (&outside, "security=none")] {
        let name = format!("keeps-{}", pod.name());
        mesh.service(&name, &pod.ips(), &[], |service| service.load_balancing = keep());
        let service = format!("dst.service={name}.shop.svc.cluster.local ");
        for ip in pod.ips() {
            let to = SocketAddr::new(ip, 8080);
            taken_by(&client, to, &[pod.name()], 2 * PATIENCE).await?;
            mesh.logged_by_calling(&client, to, 0, &["reason=ok ", security, &service, &format!("dst.addr={to} ")]).await?;
        }
    }
    mesh.bed.shutdown().await;
    Ok(())
}

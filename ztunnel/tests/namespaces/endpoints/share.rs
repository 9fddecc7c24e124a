//! How endpoints that are as good as each other share the connections.

use std::net::SocketAddr;

use ambit_testbed::Families;
use anyhow::ensure;

use super::{addresses, open, serve, service, taken_by, who};
use crate::mesh::{Mesh, PATIENCE};

pub async fn capacity(families: Families) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 400;
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (large, small, none) = (mesh.pod(1, "large").await?, mesh.pod(0, "small").await?, mesh.pod(1, "none").await?);
    let _serving = [serve(&large)?, serve(&small)?, serve(&none)?];
    for (pod, capacity) in [("large", 9), ("small", 1), ("none", 0)] {
        mesh.change(pod, |workload| workload.capacity = Some(capacity));
    }
    service(&mesh, &["large", "small", "none"], |_| {});
    for to in addresses(&mesh) {
        taken_by(&client, to, &["large", "small"], 2 * PATIENCE).await?;
        let mut by_large = 0;
        for _ in 0..CONNECTIONS {
            by_large += usize::from(who(&client, to).await? == "large");
        }
        // 360 are expected; by chance alone it is below 300 or there is nothing left once in 10^15.
        ensure!((300..CONNECTIONS).contains(&by_large), "the large one took {by_large} of {CONNECTIONS}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn fewer(families: Families) -> anyhow::Result<()> {
    const MORE: usize = 60;
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (busy, idle) = (mesh.pod(1, "busy").await?, mesh.pod(1, "idle").await?);
    let _serving = [serve(&busy)?, serve(&idle)?];
    service(&mesh, &["busy", "idle"], |_| {});
    let to = addresses(&mesh)[0];
    taken_by(&client, to, &["busy", "idle"], 2 * PATIENCE).await?;
    let mut held = Vec::new();
    for _ in 0..MORE {
        held.push(open(&client, SocketAddr::new(busy.ip(), 8080)).await?);
    }
    let mut taken = 0;
    for _ in 0..MORE {
        let (stream, name) = open(&client, to).await?;
        taken += usize::from(name == "idle");
        held.push((stream, name));
    }
    // Both come up nearly always; 56 are expected, and without regard to the load 30.
    ensure!(taken > 45, "the idle one took {taken} of {MORE}");
    drop(held);
    taken_by(&client, to, &["busy", "idle"], PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

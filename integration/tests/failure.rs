//! Parts of the mesh die under load: what is known goes on, nothing goes in clear, nothing is gone around, and it comes back.

use std::{process::ExitCode, time::Duration};

use ambit::{demo::MARKER, local::WaypointKind};
use ambit_integration::{SharedMesh, load::Load, shared, suite::Suite, wait};
use anyhow::ensure;
use libtest_mimic::Trial;

static MESHES: [SharedMesh; 2] = SharedMesh::both(|families| Box::pin(Suite::start("failure", WaypointKind::Ours, families)));

const CLIENT: &str = "callers/client";
const DIRECT: &str = "shop/direct";
const ROUTED: &str = "shop/routed";
const WAYPOINT: &str = "waypoint/shop/waypoint";

fn main() -> ExitCode {
    ambit_integration::run(MESHES.iter().flat_map(tests).collect())
}

fn tests(mesh: &'static SharedMesh) -> [Trial; 5] {
    [
        shared(mesh, "without the control plane open and new connections go on, and none fails", no_control_plane),
        shared(mesh, "without the caller's node proxy nothing passes, and it is back within a second", async |suite: &Suite| {
            no_ztunnel(suite, "ztunnel/node-1").await
        }),
        shared(mesh, "without the server's node proxy nothing passes, and it is back within a second", async |suite: &Suite| {
            no_ztunnel(suite, "ztunnel/node-2").await
        }),
        shared(mesh, "a dead waypoint is refused with its reason and not gone around", dead_waypoint),
        shared(mesh, "a waypoint that was taken away is refused with its reason and not gone around", missing_waypoint),
    ]
}

async fn settled(load: &Load) -> anyhow::Result<()> {
    let works = async || {
        let counts = load.during(Duration::from_millis(100)).await;
        if counts.fine > 0 && counts.failed == 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    };
    wait::until("the load runs without errors", Duration::from_secs(5), works).await.map(drop)
}

async fn no_control_plane(suite: &Suite) -> anyhow::Result<()> {
    let new = Load::new_connections(&suite.client(CLIENT, DIRECT, 80)?, MARKER);
    let kept = Load::kept_connections(&suite.client_v6(CLIENT, DIRECT, 80)?);
    let routed = Load::new_connections(&suite.client(CLIENT, ROUTED, 80)?, MARKER);
    for load in [&new, &kept, &routed] {
        settled(load).await?;
    }
    let before = [new.counts(), kept.counts(), routed.counts()];
    let istiod = suite.mesh.process("istiod")?;
    istiod.halt().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    istiod.resume().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (load, before) in [&new, &kept, &routed].into_iter().zip(before) {
        let after = load.counts();
        ensure!(after.failed == before.failed, "{} requests failed: {before:?} then {after:?}", after.failed - before.failed);
        ensure!(after.fine > before.fine + 100, "hardly any load: {before:?} then {after:?}");
    }
    in_clear(suite).await
}

async fn no_ztunnel(suite: &Suite, proxy: &str) -> anyhow::Result<()> {
    let load = Load::new_connections(&suite.client(CLIENT, DIRECT, 80)?, MARKER);
    settled(&load).await?;
    let ztunnel = suite.mesh.process(proxy)?;
    ztunnel.halt().await?;
    // What was under way when it died may still end.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let dead = load.during(Duration::from_secs(2)).await;
    ensure!(dead.fine == 0, "{} requests passed without a proxy", dead.fine);
    ensure!(dead.failed > 0, "no load");
    ztunnel.resume().await?;
    let answered =
        async || if load.during(Duration::from_millis(20)).await.fine > 0 { Ok(()) } else { Err("still none".to_owned()) };
    let (_, took) = wait::until("an answer again", Duration::from_secs(5), answered).await?;
    ensure!(took < Duration::from_secs(1), "it took {took:?} to come back");
    settled(&load).await?;
    in_clear(suite).await
}

async fn dead_waypoint(suite: &Suite) -> anyhow::Result<()> {
    let (routed, direct) = (suite.client(CLIENT, ROUTED, 80)?, suite.client(CLIENT, DIRECT, 80)?);
    let load = Load::new_connections(&routed, MARKER);
    let other = Load::new_connections(&direct, MARKER);
    settled(&load).await?;
    let waypoint = suite.mesh.process(WAYPOINT)?;
    waypoint.halt().await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let unharmed = other.counts();
    let dead = load.during(Duration::from_secs(2)).await;
    ensure!(dead.fine == 0, "{} requests went around the waypoint", dead.fine);
    ensure!(dead.failed > 0, "no load");
    ensure!(other.counts().failed == unharmed.failed, "a service without a waypoint suffered too");
    refused(suite, "waypoint_unreachable").await?;
    waypoint.resume().await?;
    settled(&load).await?;
    in_clear(suite).await
}

async fn missing_waypoint(suite: &Suite) -> anyhow::Result<()> {
    let load = Load::new_connections(&suite.client(CLIENT, ROUTED, 80)?, MARKER);
    settled(&load).await?;
    suite.mesh.remove_manifest("20-waypoint.yaml")?;
    let refusing = async || {
        let counts = load.during(Duration::from_millis(200)).await;
        if counts.fine == 0 && counts.failed > 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    };
    wait::until("refusals", Duration::from_secs(5), refusing).await?;
    let gone = load.during(Duration::from_secs(1)).await;
    ensure!(gone.fine == 0, "{} requests went around the waypoint", gone.fine);
    refused(suite, "waypoint_missing").await?;
    suite.apply("20-waypoint.yaml", &suite.original("20-waypoint.yaml")?)?;
    settled(&load).await?;
    in_clear(suite).await
}

/// The caller's proxy says why, and says it of this service.
async fn refused(suite: &Suite, reason: &str) -> anyhow::Result<()> {
    let host = "routed.shop.svc.cluster.local";
    suite.logged("ztunnel/node-1", |line| line.reason() == reason && line.get("dst.service") == Some(host)).await.map(drop)
}

/// Nothing that the load says has crossed the wire in plain text.
async fn in_clear(suite: &Suite) -> anyhow::Result<()> {
    let report = suite.mesh.wire_report();
    ensure!(report.dropped == 0, "{} packets were not looked at", report.dropped);
    ensure!(report.total.packets > 0, "nothing crossed the wire");
    ensure!(!report.marker_seen(), "plain text crossed the wire: {:?}", report.markers);
    Ok(())
}

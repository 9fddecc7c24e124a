//! Endpoints that are away although the control plane has not said so.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ambit_api::workload::{GatewayAddress, Port, gateway_address::Destination};
use ambit_hbone::Incoming;
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;

use super::{addresses, serve, service, taken_by, who};
use crate::{
    mesh::{Mesh, PATIENCE, call, id_of, network_address},
    observe::get,
    waypoint::{serve as serve_tunnels, waypoint},
};

/// How often a connect to a port at which nobody listens was made at pods of this node.
fn refused(mesh: &Mesh, node: usize) -> usize {
    let log = std::fs::read_to_string(&mesh.nodes[node].log).unwrap_or_default();
    log.lines().filter(|line| line.contains("direction=inbound") && line.contains("reason=upstream_refused ")).count()
}

/// The sum of all series of a counter of the proxy of node 0.
async fn counted(mesh: &Mesh, name: &str) -> anyhow::Result<f64> {
    let text = get(mesh, 0, 15020, "/metrics").await?;
    let of_it = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    Ok(of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

pub async fn rested(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (well, silent) = (mesh.pod(0, "well").await?, mesh.pod(1, "silent").await?);
    let _serving = serve(&well)?;
    service(&mesh, &["well", "silent"], |_| {});
    let (to, other) = (addresses(&mesh)[0], addresses(&mesh).pop().context("no address")?);
    taken_by(&client, to, &["well"], 2 * PATIENCE).await?;
    let until = Instant::now() + 2 * PATIENCE;
    while !get(&mesh, 0, 15000, "/config_dump").await?.contains("failed_seconds_ago") {
        who(&client, other).await?;
        ensure!(Instant::now() < until, "it is not rested: {}", mesh.program_log(0));
    }
    ensure!(counted(&mesh, "ambit_endpoint_rests_total").await? >= 1.0);
    let before = refused(&mesh, 1);
    for to in [to, other].into_iter().cycle().take(200) {
        ensure!(who(&client, to).await? == "well");
    }
    // One probe after each rest, of which each is twice as long as the one before.
    let probes = refused(&mesh, 1) - before;
    ensure!(probes <= 10, "{probes} connects to an endpoint that is rested");
    ensure!(counted(&mesh, "ambit_connect_retries_total").await? >= 3.0);
    let _serving_too = serve(&silent)?;
    // No rest is longer than 30 seconds.
    taken_by(&client, to, &["well", "silent"], Duration::from_secs(60)).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn budget(families: Families) -> anyhow::Result<()> {
    const CALLERS: usize = 8;
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let away = ["away-1", "away-2", "away-3"];
    let mut pods = Vec::new();
    for name in away {
        pods.push(mesh.pod(1, name).await?);
    }
    service(&mesh, &away, |_| {});
    let to = addresses(&mesh)[0];
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=upstream_refused ", "dst.workload=away-"]).await?;
    let (begun, calls) = (Instant::now(), AtomicUsize::new(0));
    while counted(&mesh, "ambit_connect_retries_over_budget_total").await? < 1.0 {
        ensure!(begun.elapsed() < 6 * PATIENCE, "after {calls:?} calls the budget is not used up");
        let some = (0..CALLERS).map(|_| async {
            for _ in 0..20 {
                calls.fetch_add(1, Ordering::Relaxed);
                ensure!(call(&client, to, b"x").await.is_err(), "somebody answered");
            }
            Ok(())
        });
        futures::future::try_join_all(some).await?;
    }
    let (calls, retries) = (calls.into_inner(), counted(&mesh, "ambit_connect_retries_total").await?);
    // What is saved up, one in five, and ten a second; and those before the time was taken.
    let allowed = 100.0 + calls as f64 / 5.0 + 10.0 * begun.elapsed().as_secs_f64() + 30.0;
    ensure!(retries > 50.0 && retries <= allowed, "{retries} retries for {calls} connections");
    mesh.bed.shutdown().await;
    Ok(())
}

/// The service `api` behind a waypoint of two replicas, of which none is there yet.
async fn behind_a_waypoint(mesh: &Mesh) -> anyhow::Result<[Pod; 4]> {
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api-1").await?);
    let replicas = (mesh.outsider(1, "gw-1", true).await?, mesh.outsider(1, "gw-2", true).await?);
    let vip = mesh.vip(9);
    mesh.service("gw", &[vip], &["gw-1", "gw-2"], |service| {
        service.ports[0] = Port { service_port: 15008, target_port: 15008, app_protocol: 0 };
    });
    service(mesh, &["api-1"], |service| {
        let destination = Some(Destination::Address(network_address(vip)));
        service.waypoint = Some(GatewayAddress { destination, hbone_mtls_port: 15008 });
    });
    Ok([client, server, replicas.0, replicas.1])
}

pub async fn waypoint_replica(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let [client, _server, _dead, live] = behind_a_waypoint(&mesh).await?;
    let _asked = waypoint(&mesh, &live, &id_of("gw-2"))?;
    let to = addresses(&mesh)[0];
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=ok ", "dst.workload=gw-2 "]).await?;
    for to in addresses(&mesh).into_iter().cycle().take(30) {
        let (_, said) = call(&client, to, b"x").await?;
        ensure!(said == b"waypoint", "{said:?}");
    }
    ensure!(counted(&mesh, "ambit_connect_retries_total").await? >= 1.0);
    mesh.bed.shutdown().await;
    Ok(())
}

/// How many tunnels ended without an answer although their clients' first bytes had come.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Takes what the client says first and then vanishes without an answer; a client that does not speak before the answer is served.
async fn lose(incoming: Incoming) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        if incoming.unread() > 0 {
            LOST.fetch_add(1, Ordering::SeqCst);
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Ok(mut tunnel) = incoming.accept(http::HeaderMap::new()) else { return };
    // Whoever gives up meanwhile is seen by the test.
    if tunnel.write_all(b"10.9.9.9\n").await.is_ok() && tunnel.shutdown().await.is_ok() {
        let _ended = tokio::io::copy(&mut tunnel, &mut tokio::io::sink()).await;
    }
}

pub async fn delivered(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let [client, _server, one, two] = behind_a_waypoint(&mesh).await?;
    for replica in [one, two] {
        serve_tunnels(&mesh, &replica, &id_of(replica.name()), lose)?;
    }
    let to = addresses(&mesh)[0];
    let (mut failed, until) = (0, Instant::now() + 6 * PATIENCE);
    // On the first tunnels the client has to wait, and on those that stand it does not.
    while failed < 20 {
        ensure!(Instant::now() < until, "after {failed} that were lost: {}", mesh.program_log(0));
        let before = LOST.load(Ordering::SeqCst);
        let answer = call(&client, to, b"only once").await;
        let lost = LOST.load(Ordering::SeqCst) - before;
        ensure!(lost <= 1, "the same bytes were delivered {lost} times");
        failed += usize::from(answer.is_err() && lost == 1);
    }
    mesh.logged(0, &["direction=outbound", "reason=waypoint_unreachable ", "dst.workload=gw-"]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

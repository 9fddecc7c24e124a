//! Processes of the nodes and the control plane die, or are replaced.

use std::time::{Duration, Instant};

use ambit_integration::test;
use anyhow::ensure;
use libtest_mimic::Trial;

use crate::{
    Chaos,
    report::Phase,
    world::{DAY, PATIENCE, Part, SECOND},
};

/// A proxy that is back carries again within this on a machine that is busy; on a quiet one within a second.
const BACK: Duration = Duration::from_secs(15);

pub fn tests() -> Vec<Trial> {
    vec![
        test("a node proxy is killed", proxies),
        test("a node agent is killed", agents),
        test("node proxies are replaced by new ones, and no request fails", upgrade),
        test("the control plane is away for the whole time", no_control_plane),
    ]
}

/// Kills the proxy of a node, its agent too if `both`, and starts what was killed again; notes how long it took.
async fn kill(chaos: &mut Chaos, phase: &mut Phase, number: usize, both: bool) -> anyhow::Result<()> {
    let world = &mut chaos.world;
    world.kill_proxy(number).await;
    if both {
        world.kill_agent(number).await;
    }
    let dead = Instant::now();
    tokio::time::sleep(SECOND).await;
    let (well, _) = world.load.counts(dead, |outcome| outcome.node == number);
    ensure!(well == 0, "{well} requests were answered without the proxy of node {number}");
    let begun = Instant::now();
    world.start_proxy(number)?;
    if both {
        world.start_agent(number).await?;
    }
    let took = world.first_well(number, begun).await?;
    phase.note(&format!("back after {:.2} s", took.as_secs_f64()));
    ensure!(took < BACK, "it took {took:?}");
    world.settled().await
}

async fn proxies() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    let mut phase = chaos.world.begin("kill -9 of each node proxy").await?;
    for number in [0, 1] {
        kill(&mut chaos, &mut phase, number, false).await?;
    }
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() > 0, "the load did not notice");
    let mut phase = chaos.world.begin("kill -9 of proxy and agent of a node at once").await?;
    kill(&mut chaos, &mut phase, 1, true).await?;
    chaos.world.end(phase).await?;
    chaos.stop().await;
    Ok(())
}

async fn agents() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    let phase = chaos.world.begin("kill -9 of each node agent").await?;
    for number in [0, 1] {
        chaos.world.kill_agent(number).await;
        tokio::time::sleep(SECOND).await;
        chaos.world.start_agent(number).await?;
        tokio::time::sleep(SECOND).await;
    }
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    chaos.stop().await;
    Ok(())
}

async fn upgrade() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    let world = &mut chaos.world;
    let phase = world.begin("upgrade of each node proxy").await?;
    for number in [0, 1] {
        let old = world.nodes[number].proxy.take();
        world.start_proxy(number)?;
        world.proxy_is_ready(number).await?;
        if let Some(old) = old {
            let status = old.stop(PATIENCE).await;
            ensure!(status.success(), "the old proxy of node {number} ended with {status}\n{}", world.logs());
        }
        tokio::time::sleep(SECOND).await;
    }
    let row = world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    chaos.stop().await;
    Ok(())
}

async fn no_control_plane() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    // What was last told is on disk a moment after it was told.
    tokio::time::sleep(3 * SECOND).await;
    let phase = chaos.world.begin("control plane away").await?;
    chaos.world.kill_part(Part::ControlPlane).await;
    tokio::time::sleep(4 * SECOND).await;
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    let mut phase = chaos.world.begin("control plane away, kill -9 of a node proxy").await?;
    kill(&mut chaos, &mut phase, 0, false).await?;
    chaos.world.end(phase).await?;
    let phase = chaos.world.begin("control plane back").await?;
    chaos.world.start_part(Part::ControlPlane).await?;
    tokio::time::sleep(2 * SECOND).await;
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    chaos.stop().await;
    Ok(())
}

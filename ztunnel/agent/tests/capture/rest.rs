//! What it costs to keep pods captured to which nothing happens.

use std::time::{Duration, Instant};

use ambit_testbed::PodSpec;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use crate::{test, world::World};

/// Pods of the node: as many as are captured within seconds on a busy machine. What a keeper costs does not depend on how many there are.
const PODS: u32 = 60;
/// How long all of them may take to be captured, beside others on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it is measured.
const MEASURED: Duration = Duration::from_secs(5);
/// Processor seconds for a second of rest, without optimisation (with 200 pods it was 0.3). Above it the agent looks for something that
/// it need not look for.
const MOST: f64 = 0.5;

pub fn tests() -> Vec<Trial> {
    vec![test("pods_at_rest_cost_little", at_rest)]
}

async fn at_rest() -> anyhow::Result<()> {
    let world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    let mut pods = Vec::new();
    // They ran before the agent, which is quicker than to start them one by one.
    for number in 0..PODS {
        let name = format!("web-{number}");
        let pod = world.node.add_pod(PodSpec::new("shop", &name)).await?;
        world.process(10 + number, &name, pod.netns())?;
        pods.push(pod);
    }
    for number in 0..PODS {
        world.object(&format!("web-{number}"), Some("ambient"), false)?;
    }
    let begun = Instant::now();
    let captured = || {
        (0..PODS)
            .filter(|number| world.status(&format!("web-{number}")).is_some_and(|status| status["state"] == "captured"))
            .count()
    };
    while captured() < pods.len() {
        ensure!(begun.elapsed() < PATIENCE, "{} of {PODS} pods are captured: {}", captured(), world.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{PODS} pods captured within {:?}", begun.elapsed());
    let agent = world.agent.as_ref().context("no agent")?;
    let (begun, before) = (Instant::now(), agent.usage()?.cpu_seconds);
    tokio::time::sleep(MEASURED).await;
    let cost = (agent.usage()?.cpu_seconds - before) / begun.elapsed().as_secs_f64();
    println!("{PODS} pods at rest: {cost:.2} s of a processor for a second, {} kB of memory", agent.usage()?.rss_bytes >> 10);
    ensure!(cost < MOST, "{cost:.2} s of a processor for a second of rest");
    ensure!(captured() == pods.len(), "not all are captured any more");
    world.bed.shutdown().await;
    Ok(())
}

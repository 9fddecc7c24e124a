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
/// Processor seconds for a second of rest, without optimisation (0.05 with these pods on two quiet cores). Above it the agent looks
/// for something that it need not look for.
const MOST: f64 = 0.2;

pub fn tests() -> Vec<Trial> {
    vec![
        test("pods_at_rest_cost_little", at_rest),
        test("the_pods_of_a_namespace_that_is_labelled_are_captured_together", labelled),
        test("that_there_is_nothing_of_the_mesh_in_a_pod_is_no_warning_in_the_log", silent),
    ]
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
    println!("{PODS} pods found and captured within {:?}", until_captured(&world).await?);
    let agent = world.agent.as_ref().context("no agent")?;
    let (begun, before) = (Instant::now(), agent.usage()?.cpu_seconds);
    tokio::time::sleep(MEASURED).await;
    let cost = (agent.usage()?.cpu_seconds - before) / begun.elapsed().as_secs_f64();
    println!("{PODS} pods at rest: {cost:.2} s of a processor for a second, {} kB of memory", agent.usage()?.rss_bytes >> 10);
    ensure!(cost < MOST, "{cost:.2} s of a processor for a second of rest");
    ensure!(captured(&world) == pods.len(), "not all are captured any more");
    world.bed.shutdown().await;
    Ok(())
}

fn captured(world: &World) -> usize {
    let is = |number: &u32| world.status(&format!("web-{number}")).is_some_and(|status| status["state"] == "captured");
    (0..PODS).filter(is).count()
}

/// Waits until all pods are captured: how long it took.
async fn until_captured(world: &World) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    while captured(world) < PODS as usize {
        ensure!(begun.elapsed() < PATIENCE, "{} of {PODS} pods are captured: {}", captured(world), world.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(begun.elapsed())
}

async fn labelled() -> anyhow::Result<()> {
    let world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    let mut pods = Vec::new();
    for number in 0..PODS {
        let name = format!("web-{number}");
        world.object(&name, None, false)?;
        let pod = world.node.add_pod(PodSpec::new("shop", &name)).await?;
        world.show(&name, pod.netns())?;
        pods.push(pod);
    }
    let names: Vec<String> = (0..PODS).map(|number| format!("web-{number}")).collect();
    for started in futures::future::join_all(names.iter().map(|name| world.plugin("ADD", name))).await {
        ensure!(started?.1, "{}", world.log());
    }
    let namespace = serde_json::json!({
        "kind": "Namespace", "metadata": { "name": "shop", "labels": { "istio.io/dataplane-mode": "ambient" } },
    });
    std::fs::write(world.path("pods/.part"), namespace.to_string())?;
    std::fs::rename(world.path("pods/.part"), world.path("pods/shop.json"))?;
    println!("{PODS} pods of a namespace that was labelled captured within {:?}", until_captured(&world).await?);
    world.bed.shutdown().await;
    Ok(())
}

async fn silent() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    // One that never is in the mesh, one that enters it and leaves it, and one that starts in it and is there still after a restart.
    for name in ["outside", "web"] {
        world.object(name, None, false)?;
        let pod = world.node.add_pod(PodSpec::new("shop", name)).await?;
        world.show(name, pod.netns())?;
        ensure!(world.plugin("ADD", name).await?.1, "{}", world.log());
    }
    world.object("web", Some("ambient"), false)?;
    world.until_state("web", "captured").await?;
    world.object("web", None, false)?;
    world.until("web", "let go", |status| status.is_none()).await?;
    let _inside = world.pod("inside").await?;
    world.kill_agent().await;
    world.start_agent().await?;
    let _proxy = world.proxy("q").await?;
    world.until_state("inside", "captured").await?;
    let said = world.log();
    ensure!(said.contains("capture rules can be written") && !said.contains("errno="), "{said}");
    world.bed.shutdown().await;
    Ok(())
}

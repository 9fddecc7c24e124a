//! How the cost of a request and of a new connection grows with what there is.
//!
//! Each growth is measured small, grown, and small again, so that a machine whose speed drifts does not look like growth: the figure is
//! the grown cost divided by the mean of the two others.

use std::time::Duration;

use anyhow::Context;

use crate::{
    bench::{Bench, Shape, noise::Noise},
    figure::{
        Figure, GROWTH_CONNECTIONS, GROWTH_IDLE, GROWTH_PODS, GROWTH_PODS_NEW, GROWTH_POLICIES, GROWTH_POLICIES_NEW,
        GROWTH_WORKLOADS, GROWTH_WORKLOADS_NEW,
    },
    manifests,
    paths::Path,
    probe, process,
    session::{Session, progress},
    stats::Summary,
    synthetic::Synthetic,
};

/// The path that grows.
const PATH: Path = Path::Ztunnel;

/// Each of the many measurements is made no more often than this.
const MOST_ROUNDS: usize = 3;

/// How many connections, workloads, policies and pods there are when grown.
const CONNECTIONS: usize = 10_000;
const WORKLOADS: usize = 10_000;
const POLICIES: usize = 1_000;
const PODS: usize = 200;

/// CPU-seconds of the proxies for one request and for one new connection, a value for each round.
struct Cost {
    request: Vec<Option<f64>>,
    connection: Vec<Option<f64>>,
}

/// Measures all of it.
///
/// # Errors
/// When a load fails, or what is to grow does not.
pub async fn measure(session: &mut Session) -> anyhow::Result<()> {
    if !session.paths.contains(&PATH) {
        return Ok(());
    }
    let rounds = session.rounds.min(MOST_ROUNDS);
    let bench = &mut session.bench;
    connections(bench, rounds).await.context("growing to 10,000 connections")?;
    workloads(bench, rounds).await.context("growing to 10,000 workloads")?;
    policies(bench, rounds).await.context("growing to 1,000 policies")?;
    pods(bench, rounds).await.context("growing to 200 pods")
}

async fn cost(bench: &mut Bench, rounds: usize) -> anyhow::Result<Cost> {
    let mut cost = Cost { request: Vec::new(), connection: Vec::new() };
    for _ in 0..rounds {
        let request = bench.quiet(PATH, &Shape::new("requests", 16, bench.seconds)).await?;
        cost.request.push(Some(request.cpu_each()));
        let connection = bench.quiet(PATH, &Shape::new("connections", 16, bench.seconds)).await?;
        cost.connection.push(Some(connection.cpu_each()));
    }
    Ok(cost)
}

/// Round by round: grown, divided by the mean of before and after.
fn set(bench: &mut Bench, figure: Figure, before: &[Option<f64>], grown: &[Option<f64>], after: &[Option<f64>]) {
    let mean = |values: &[Option<f64>]| Summary::of(values).map_or(f64::NAN, |summary| summary.median);
    let small = f64::midpoint(mean(before), mean(after));
    for (round, grown) in grown.iter().enumerate() {
        bench.results.set(PATH.name(), figure, round, grown.map_or(f64::NAN, |grown| grown / small));
    }
}

fn set_both(bench: &mut Bench, figures: [Figure; 2], before: &Cost, grown: &Cost, after: &Cost) {
    let [request, connection] = figures;
    set(bench, request, &before.request, &grown.request, &after.request);
    set(bench, connection, &before.connection, &grown.connection, &after.connection);
}

async fn connections(bench: &mut Bench, rounds: usize) -> anyhow::Result<()> {
    progress("growth: 10,000 connections");
    for round in 0..rounds {
        let one = steady(bench, 1, 0.5).await?;
        // They are all open long before the warm-up ends.
        let many = steady(bench, CONNECTIONS, 6.0).await?;
        bench.results.set(PATH.name(), GROWTH_CONNECTIONS, round, many / one);
    }
    let before = cost(bench, rounds).await?;
    let held = bench.hold(PATH, CONNECTIONS).await?;
    if held.count < CONNECTIONS {
        bench.results.notes.push(format!("growth: {} of {CONNECTIONS} connections could be held", held.count));
    }
    let grown = cost(bench, rounds).await?;
    held.release().await?;
    let after = cost(bench, rounds).await?;
    set(bench, GROWTH_IDLE, &before.request, &grown.request, &after.request);
    Ok(())
}

/// CPU-seconds of the proxies for one request once all connections are open.
async fn steady(bench: &mut Bench, connections: usize, warmup: f64) -> anyhow::Result<f64> {
    let shape = Shape::new("requests", connections, bench.seconds).with("--warmup", warmup);
    let what = format!("growth, {connections} connections");
    let (each, errors) = bench.quietest(&what, async |bench: &Bench| once_open(bench, &shape, warmup).await).await?;
    if errors > 0 {
        bench.results.notes.push(format!("{what}: {errors} errors"));
    }
    Ok(each)
}

/// The same in one sample, and how many errors there were; and the noise meanwhile, that while they were opened included.
async fn once_open(bench: &Bench, shape: &Shape, warmup: f64) -> anyhow::Result<((f64, u64), f64)> {
    let pids: Vec<u32> = bench.rig.proxies(PATH).iter().map(|proxy| proxy.pid).collect();
    let cpu = || pids.iter().map(|pid| process::used(*pid).cpu()).sum::<f64>();
    let watch = Noise::begin()?;
    let load = bench.start(PATH, "client", shape)?;
    tokio::time::sleep(Duration::from_secs_f64(warmup + shape.seconds * 0.1)).await;
    let (from, before) = (std::time::Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs_f64(shape.seconds * 0.8)).await;
    let rate = (cpu() - before) / from.elapsed().as_secs_f64();
    let sample = bench.finish(load, shape).await?;
    let others = watch.others(sample.cpu_seconds)?;
    Ok(((rate / (sample.count as f64 / sample.seconds), sample.errors), others))
}

async fn workloads(bench: &mut Bench, rounds: usize) -> anyhow::Result<()> {
    progress("growth: 10,000 workloads");
    let before = cost(bench, rounds).await?;
    let synthetic = Synthetic::add(&bench.rig, WORKLOADS).await?;
    let grown = cost(bench, rounds).await?;
    synthetic.remove(&bench.rig).await?;
    let after = cost(bench, rounds).await?;
    set_both(bench, [GROWTH_WORKLOADS, GROWTH_WORKLOADS_NEW], &before, &grown, &after);
    Ok(())
}

async fn policies(bench: &mut Bench, rounds: usize) -> anyhow::Result<()> {
    progress("growth: 1,000 policies on the server");
    let before = cost(bench, rounds).await?;
    let known = probe::count(&bench.rig, "node-2", "policies").await?;
    let more = POLICIES - 1;
    let mut text = String::new();
    for number in 0..more {
        // None of them allows the client: all are looked at.
        text.push_str(&manifests::policy(PATH.name(), &format!("a-{number:04}"), &format!("cluster.local/ns/other/sa/{number}")));
    }
    bench.rig.mesh().write_manifest("policies.yaml", &text)?;
    probe::wait_count(&bench.rig, "policies", |now| now >= known + more).await?;
    let grown = cost(bench, rounds).await?;
    bench.rig.mesh().remove_manifest("policies.yaml")?;
    probe::wait_count(&bench.rig, "policies", |now| now <= known).await?;
    let after = cost(bench, rounds).await?;
    set_both(bench, [GROWTH_POLICIES, GROWTH_POLICIES_NEW], &before, &grown, &after);
    Ok(())
}

async fn pods(bench: &mut Bench, rounds: usize) -> anyhow::Result<()> {
    progress("growth: 200 pods on the client's node");
    let before = cost(bench, rounds).await?;
    let mut text = manifests::account(PATH.name(), "sleeper");
    for number in 0..PODS - 1 {
        text.push_str(&manifests::sleeper(PATH.name(), &format!("sleeper-{number}"), "sleeper", "node-1"));
    }
    let more = PODS - 1;
    bench.rig.change("pods.yaml", Some(&text), more as isize).await?;
    let grown = cost(bench, rounds).await?;
    bench.rig.change("pods.yaml", None, -(more as isize)).await?;
    let after = cost(bench, rounds).await?;
    set_both(bench, [GROWTH_PODS, GROWTH_PODS_NEW], &before, &grown, &after);
    Ok(())
}

//! Many new connections a second from many pods at once: what it does to the proxies' memory and to another client.

use std::time::Duration;

use ambit_testbed::Process;
use anyhow::Context;

use crate::{
    bench::{Bench, Shape},
    figure::{STORM_ERRORS, STORM_GROWTH, STORM_MEMORY, STORM_P99, STORM_RATE},
    load::Sample,
    manifests,
    paths::Path,
    session::{Session, progress},
};

/// Where a storm is let loose: with nothing in between, which says what the machine itself makes of it, and with ours.
const PATHS: [Path; 2] = [Path::NoMesh, Path::Ztunnel];

/// Pods that it comes from, each with an identity of its own and so with a tunnel of its own.
const PODS: usize = 100;

/// New connections a second of each.
const RATE: usize = 20;

/// Connections that a pod may have open at once.
const OPEN: usize = 200;

/// Seconds until all loads run.
const STARTING: f64 = 2.0;

/// Pause between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

/// Lets it loose for some seconds.
///
/// # Errors
/// When the pods do not run, or a load fails.
pub async fn measure(session: &mut Session, seconds: u16) -> anyhow::Result<()> {
    for path in PATHS.into_iter().filter(|path| session.paths.contains(path)) {
        let bench = &mut session.bench;
        progress(&format!("storm, {}: {PODS} pods", path.name()));
        let mut text = String::new();
        for number in 0..PODS {
            let name = pod(number);
            text.push_str(&manifests::account(path.name(), &name));
            text.push_str(&manifests::sleeper(path.name(), &name, &name, "node-1"));
        }
        bench.rig.change("storm.yaml", Some(&text), PODS as isize).await.context("the pods of the storm")?;
        let rage = rage(bench, path, seconds).await;
        bench.rig.change("storm.yaml", None, -(PODS as isize)).await.context("the pods of the storm end")?;
        rage.with_context(|| format!("the storm on {}", path.name()))?;
    }
    Ok(())
}

fn pod(number: usize) -> String {
    format!("storm-{number}")
}

async fn rage(bench: &mut Bench, path: Path, seconds: u16) -> anyhow::Result<()> {
    let calm = Shape::new("paced", 16, f64::from(seconds.min(5)));
    let before = bench.load(path, &calm).await?;
    progress(&format!("storm: {} new connections/s for {seconds} s", PODS * RATE));
    let shape = Shape::new("arrivals", OPEN, f64::from(seconds)).with("--rate", RATE).with("--warmup", 0);
    let mut loads: Vec<Process> = Vec::with_capacity(PODS);
    for number in 0..PODS {
        loads.push(bench.start(path, &pod(number), &shape)?);
    }
    // A hundred processes that start are not yet the storm.
    let measured = f64::from(seconds) - STARTING - 0.5;
    let beside = Shape::new("paced", 16, measured).with("--warmup", STARTING);
    let other = bench.start(path, "client", &beside)?;
    let mut memory = Vec::new();
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(u64::from(seconds)) {
        memory.push([began.elapsed().as_secs_f64(), bench.memory(path).pss]);
        tokio::time::sleep(LOOK).await;
    }
    let during = bench.finish(other, &beside).await?;
    let mut all = Sample::default();
    for load in loads {
        let sample = bench.finish(load, &shape).await?;
        all.all += sample.all;
        all.errors += sample.errors;
    }
    let name = path.name();
    let results = &mut bench.results;
    results.set(name, STORM_RATE, 0, all.all as f64 / f64::from(seconds));
    results.set(name, STORM_ERRORS, 0, all.errors as f64 * 100.0 / (all.all + all.errors) as f64);
    results.set(name, STORM_P99, 0, during.p99_ms.unwrap_or(f64::NAN));
    if !path.is_bare() {
        results.set(name, STORM_MEMORY, 0, most(&memory));
        let third = memory.len() / 3;
        results.set(name, STORM_GROWTH, 0, most(&memory[2 * third..]) / most(&memory[third..2 * third]));
        results.series.insert("storm: memory of the ztunnels, MB (PSS)".to_owned(), memory);
    }
    if during.errors > 0 {
        results.notes.push(format!("storm, {name}: {} errors of the other client", during.errors));
    }
    let told = |sample: &Sample| {
        let at =
            |share: f64| sample.latency.iter().find(|[at, _]| *at >= share).map_or(f64::NAN, |[_, milliseconds]| *milliseconds);
        format!("p50 {:.2}, p99 {:.2}, most {:.2} ms", at(0.5), at(0.99), at(1.0))
    };
    results.notes.push(format!("storm, {name}: the other client before: {}; during: {}", told(&before), told(&during)));
    Ok(())
}

fn most(memory: &[[f64; 2]]) -> f64 {
    memory.iter().map(|[_, size]| *size).fold(0.0, f64::max)
}

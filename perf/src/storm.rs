//! Many new connections a second from many pods at once: what it does to the proxies' memory and to another client.

use std::{fmt::Write as _, time::Duration};

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

/// Where the storm comes from and where it goes.
const PATH: Path = Path::Ztunnel;

/// Pods that it comes from, each with an identity of its own and so with a tunnel of its own.
const PODS: usize = 100;

/// New connections a second of each.
const RATE: usize = 20;

/// Connections that a pod may have open at once.
const OPEN: usize = 200;

/// Pause between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

/// Lets it loose for some seconds.
///
/// # Errors
/// When the pods do not run, or a load fails.
pub async fn measure(session: &mut Session, seconds: u16) -> anyhow::Result<()> {
    if !session.paths.contains(&PATH) {
        return Ok(());
    }
    progress(&format!("storm: {PODS} pods"));
    let bench = &mut session.bench;
    let mut text = String::new();
    for number in 0..PODS {
        let name = format!("storm-{number}");
        let _ =
            write!(text, "{}{}", manifests::account(PATH.name(), &name), manifests::sleeper(PATH.name(), &name, &name, "node-1"));
    }
    bench.rig.mesh().write_manifest("storm.yaml", &text)?;
    crate::probe::wait_count(&bench.rig, "workloads", |now| now >= PODS).await?;
    bench.rig.mesh().wait_ready(Duration::from_secs(180), |_| {}).await.context("the pods of the storm")?;
    let rage = rage(bench, seconds).await;
    bench.rig.mesh().remove_manifest("storm.yaml")?;
    rage
}

async fn rage(bench: &mut Bench, seconds: u16) -> anyhow::Result<()> {
    let calm = Shape::new("paced", 16, f64::from(seconds.min(5)));
    let before = bench.load(PATH, &calm).await?.p99_ms.unwrap_or(f64::NAN);
    progress(&format!("storm: {} new connections/s for {seconds} s", PODS * RATE));
    let shape = Shape::new("arrivals", OPEN, f64::from(seconds)).with("--rate", RATE).with("--warmup", 0);
    let mut loads: Vec<Process> = Vec::with_capacity(PODS);
    for number in 0..PODS {
        loads.push(bench.start(PATH, &format!("storm-{number}"), &shape)?);
    }
    let beside = Shape::new("paced", 16, f64::from(seconds) - 1.0);
    let other = bench.start(PATH, "client", &beside)?;
    let mut memory = Vec::new();
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(u64::from(seconds)) {
        memory.push([began.elapsed().as_secs_f64(), bench.memory(PATH).pss]);
        tokio::time::sleep(LOOK).await;
    }
    let during = bench.finish(other, &beside).await?;
    let mut all = Sample::default();
    for load in loads {
        let sample = bench.finish(load, &shape).await?;
        all.all += sample.all;
        all.errors += sample.errors;
    }
    let name = PATH.name();
    let results = &mut bench.results;
    results.set(name, STORM_RATE, 0, all.all as f64 / f64::from(seconds));
    results.set(name, STORM_ERRORS, 0, all.errors as f64 * 100.0 / (all.all + all.errors) as f64);
    results.set(name, STORM_P99, 0, during.p99_ms.unwrap_or(f64::NAN) / before);
    results.set(name, STORM_MEMORY, 0, most(&memory));
    let third = memory.len() / 3;
    results.set(name, STORM_GROWTH, 0, most(&memory[2 * third..]) / most(&memory[third..2 * third]));
    results.series.insert("storm: memory of the ztunnels, MB (PSS)".to_owned(), memory);
    if during.errors > 0 {
        results.notes.push(format!("storm: {} errors of the other client", during.errors));
    }
    results.notes.push(format!(
        "storm: p99 of the other client {before:.2} ms before, {:.2} ms during",
        during.p99_ms.unwrap_or(f64::NAN)
    ));
    Ok(())
}

fn most(memory: &[[f64; 2]]) -> f64 {
    memory.iter().map(|[_, size]| *size).fold(0.0, f64::max)
}

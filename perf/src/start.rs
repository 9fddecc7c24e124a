//! How long a node proxy takes from being started until it is ready, when it finds many workloads.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{
    bench::{Bench, noise::Noise},
    figure::START,
    paths::Path,
    probe::{self, READY},
    session::{Session, progress},
    synthetic::Synthetic,
};

/// Workloads in its state.
const WORKLOADS: usize = 1000;

/// Pause between two looks.
const LOOK: Duration = Duration::from_micros(500);

/// How long the machine is watched for others: a start is over within a few ticks of the clock by which the kernel counts what processes use.
const WATCHED: Duration = Duration::from_millis(500);

/// Which node's proxy is started, and its process.
const NODE: &str = "node-2";
const PROCESS: &str = "ztunnel/node-2";

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the node proxy of `node-2` and starts it again, in each round; from the order to start it until its readiness page answers
/// 200, with everything that lies between: fork, exec, certificates, configuration, the node's pods.
///
/// # Errors
/// When it does not get ready.
pub async fn measure(session: &mut Session) -> anyhow::Result<()> {
    if !session.paths.contains(&Path::Ztunnel) {
        return Ok(());
    }
    progress("start to ready");
    let bench = &mut session.bench;
    let synthetic = Synthetic::add(&bench.rig, WORKLOADS).await?;
    for round in 0..session.rounds {
        bench.round = round;
        let (took, known) = bench.quietest("start to ready", async |bench: &Bench| once(bench).await).await?;
        bench.results.set(Path::Ztunnel.name(), START, round, took);
        if known < WORKLOADS {
            bench.results.notes.push(format!("start, round {}: ready with {known} of {WORKLOADS} workloads known", round + 1));
        }
    }
    bench.round = 0;
    synthetic.remove(&bench.rig).await?;
    bench.rig.wait_ready().await?;
    bench.warm(Path::Ztunnel).await.context("after ztunnel was started again")
}

/// The milliseconds of one start, and how many workloads were known then; and the noise meanwhile and for a while after.
async fn once(bench: &Bench) -> anyhow::Result<((f64, usize), f64)> {
    let node = probe::node(&bench.rig, NODE)?;
    let process = bench.rig.mesh().process(PROCESS)?;
    process.halt().await?;
    let watch = Noise::begin()?;
    let began = Instant::now();
    process.resume().await?;
    while probe::get(&node, READY, "/healthz/ready").await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("ztunnel is not ready after {} s: {}", PATIENCE.as_secs(), bench.rig.mesh().log_end(PROCESS, 3).join("; "));
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = began.elapsed();
    let known = probe::count(&bench.rig, NODE, "workloads").await?;
    tokio::time::sleep(WATCHED.saturating_sub(began.elapsed())).await;
    Ok(((took.as_secs_f64() * 1000.0, known), watch.others(0.0)?))
}

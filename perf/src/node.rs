//! The node path: no mesh, ours and Envoy across two nodes, ours and no mesh on one.

use clap::Args;

use crate::{
    bench::{Bench, calls},
    fairness, growth,
    paths::Path,
    session::{Options, Session, unless_told},
    start, storm,
};

/// What is measured besides requests, bulk, new connections, CPU time and memory.
#[derive(Debug, Clone, Args)]
pub struct Node {
    /// Which paths, how often, how long, and where the result goes.
    #[command(flatten)]
    pub options: Options,
    /// Also how the cost grows: with 10,000 connections, 10,000 workloads, 1,000 policies, 200 pods on the node.
    #[arg(long)]
    pub growth: bool,
    /// Also a storm of 2,000 new connections a second from 100 pods.
    #[arg(long)]
    pub storm: bool,
    /// Growth and storm.
    #[arg(long)]
    pub all: bool,
    /// Seconds of the storm.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(5..=3600))]
    pub storm_seconds: u16,
    /// Leaves the requests, bulk, fairness and start out: growth and storm alone.
    #[arg(long)]
    pub skip_rounds: bool,
}

/// Measures and prints.
///
/// # Errors
/// When a path does not work at all, or a file cannot be written.
pub async fn run(node: &Node) -> anyhow::Result<()> {
    let session = unless_told(Session::start(&node.options, &Path::NODE, 5)).await?;
    session.run(async |session: &mut Session| parts(session, node).await).await
}

async fn parts(session: &mut Session, node: &Node) -> anyhow::Result<()> {
    if !node.skip_rounds {
        rounds(session).await?;
    }
    if node.growth || node.all {
        growth::measure(session).await?;
    }
    if node.storm || node.all {
        storm::measure(session, node.storm_seconds).await?;
    }
    Ok(())
}

async fn rounds(session: &mut Session) -> anyhow::Result<()> {
    // Before the loads, which leave memory behind that the connections would use.
    session.rounds("idle connections", async |bench: &mut Bench, path| bench.held(path).await).await?;
    session.rounds("load", async |bench: &mut Bench, path| bench.round(path).await).await?;
    session.at_rest().await;
    match calls::available().await {
        Ok(()) => session.rounds("system calls", async |bench: &mut Bench, path| bench.count_calls(path).await).await?,
        Err(why) => session.bench.results.notes.push(format!("system calls are not counted: {why}")),
    }
    session.rounds("fairness", async |bench: &mut Bench, path| fairness::measure(bench, path).await).await?;
    start::measure(session).await
}

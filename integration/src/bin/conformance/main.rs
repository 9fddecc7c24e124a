//! The conformance suite of the Gateway API against Ambit: starts a Kubernetes cluster on this machine, installs Ambit on it as a user does, runs the
//! suite of `integration/conformance/` there, and writes the report. docs/conformance/ has what came of it.

#![forbid(unsafe_code)]

mod build;
mod options;
mod run;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ambit_cluster::cluster::{check, remove_remains};
use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_cluster::programs::{Programs, cache_directory};
use ambit_cluster::{Cluster, ClusterOptions, ProxyMode};
use ambit_testbed::bed;
use anyhow::{Context, bail};
use build::Built;
use clap::Parser;
use options::{Options, Waypoint};
use run::Run;

/// What is made before the bed is entered, from which nothing can be downloaded.
struct Prepared {
    name: String,
    directory: PathBuf,
    programs: Programs,
    definitions: Vec<PathBuf>,
    built: Built,
    /// The Envoy that is the waypoint, where one is.
    envoy: Option<PathBuf>,
    front: TcpListener,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match prepare(&options).and_then(|prepared| in_bed(&options, prepared)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(options: &Options) -> anyhow::Result<Prepared> {
    check()?;
    let cache = cache_directory()?;
    let name = format!("conformance-{}", std::process::id());
    Ok(Prepared {
        directory: cache.join("cluster").join(&name),
        name,
        programs: Programs::get(&mut |_| {})?,
        definitions: gateway_api(Channel::Experimental)?,
        built: build::build(&cache.join("conformance"), options.gateway)?,
        envoy: if options.waypoint == Waypoint::Envoy { Some(envoy()?) } else { None },
        front: TcpListener::bind("127.0.0.1:0")?,
    })
}

fn envoy() -> anyhow::Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(ambit::envoy::locate(None))?)
}

fn in_bed(options: &Options, prepared: Prepared) -> anyhow::Result<()> {
    // Where it is known to the user; the bed has another working directory.
    let report = std::path::absolute(options.report())?;
    let directory = report.parent().context("the report is a file")?;
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    bed::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(session(options, &report, prepared))
}

async fn session(options: &Options, report: &Path, prepared: Prepared) -> anyhow::Result<()> {
    let stop = ambit_runtime::signal::shutdown()?;
    tokio::pin!(stop);
    let began = Instant::now();
    let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
    let Prepared { name, directory, programs, definitions, built, envoy, front } = prepared;
    let asked = ClusterOptions { name: name.clone(), nodes: 2, directory: directory.clone(), proxy: ProxyMode::default() };
    let started = tokio::select! {
        started = Cluster::start(asked, programs, front, &tell) => Some(started?),
        _signal = &mut stop => None,
    };
    let Some(cluster) = started else {
        remove_remains(&name, &directory).await?;
        bail!("ended before the cluster was ready");
    };
    let run =
        Run { cluster: &cluster, directory: &directory, built: &built, envoy: envoy.as_deref(), report, options, tell: &tell };
    let outcome = tokio::select! {
        outcome = run.whole(&definitions) => match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(run.state().await)),
        },
        _signal = &mut stop => Err(anyhow::anyhow!("ended before the suite did")),
    };
    cluster.stop().await?;
    outcome
}

//! What a large mesh costs its control plane: time from a change to its last subscriber, memory, CPU, and everybody coming back at once.
//!
//! One process holds the control plane and all subscribers, which speak gRPC over loopback: memory and CPU are those of both sides.

mod peer;
mod plane;
mod world;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ambit_api::type_url::ADDRESS;
use anyhow::{Context, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use istiod_lite::push::NODE_VIEW;
use serde::Serialize;

use self::{
    peer::{Asks, Peer, Seen},
    plane::Plane,
    world::World,
};
use crate::{process, session::progress};

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(900);

/// Pause between two changes, so that each is measured alone.
const BETWEEN: Duration = Duration::from_millis(30);

/// How many there are of each.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub struct Size {
    /// Pods.
    #[arg(long, default_value_t = 50_000)]
    pub pods: usize,
    /// Services, over which the pods are spread.
    #[arg(long, default_value_t = 5_000)]
    pub services: usize,
    /// Node proxies, each of which is sent everything.
    #[arg(long, default_value_t = 1_000)]
    pub ztunnels: usize,
    /// Waypoints, each with its part of the services.
    #[arg(long, default_value_t = 200)]
    pub waypoints: usize,
}

/// What is measured, and what it may be.
#[derive(Debug, Clone, Args)]
pub struct Control {
    /// How many there are of each.
    #[command(flatten)]
    pub size: Size,
    /// Pods that change, one after the other.
    #[arg(long, default_value_t = 200)]
    pub changes: usize,
    /// Fails when the last subscriber of one change in a hundred is told later than this, in milliseconds.
    #[arg(long)]
    pub max_p99_ms: Option<f64>,
    /// Fails when more memory is used while all are connected, in MB; while they come back it may be twice as much.
    #[arg(long)]
    pub max_memory_mb: Option<f64>,
    /// Fails when it takes longer until all are back, in seconds.
    #[arg(long)]
    pub max_reconnect_s: Option<f64>,
    /// Writes what was measured to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What was measured. Times are of the wall clock, memory is the resident memory of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Of what.
    pub size: Size,
    /// Until all objects are in the cache, seconds.
    pub load_s: f64,
    /// Memory without a subscriber, MB.
    pub loaded_mb: f64,
    /// Until all have everything, with nothing at the beginning, seconds.
    pub connect_s: f64,
    /// The most memory meanwhile, MB.
    pub connect_peak_mb: f64,
    /// Memory with all subscribers, MB.
    pub connected_mb: f64,
    /// From a change to its last subscriber, milliseconds.
    pub change_p50_ms: f64,
    /// As above, of one in a hundred.
    pub change_p99_ms: f64,
    /// CPU of both sides for each change, milliseconds.
    pub change_cpu_ms: f64,
    /// Responses that a change was sent in.
    pub responses_each: f64,
    /// Resources in them.
    pub resources_each: f64,
    /// Until all are served again, holding what they had, seconds.
    pub reconnect_s: f64,
    /// The most memory meanwhile, MB.
    pub reconnect_peak_mb: f64,
}

/// Measures, prints, and fails when something is more than it may be.
///
/// # Errors
/// When a subscriber is not served, or a limit is exceeded.
pub async fn run(control: &Control) -> anyhow::Result<()> {
    ambit_runtime::sys::raise_open_files()?;
    let outcome = measure(control.size, control.changes).await?;
    print(&outcome);
    if let Some(file) = &control.json {
        fs::write(file, serde_json::to_string_pretty(&outcome)?).with_context(|| format!("writing {}", file.display()))?;
    }
    let twice = control.max_memory_mb.map(|most| most * 2.0);
    for (what, is, most) in [
        ("p99 of a change, in ms,", outcome.change_p99_ms, control.max_p99_ms),
        ("memory in MB", outcome.connected_mb, control.max_memory_mb),
        ("memory in MB while all come back", outcome.reconnect_peak_mb, twice),
        ("seconds until all are back", outcome.reconnect_s, control.max_reconnect_s),
    ] {
        if let Some(most) = most.filter(|most| is > *most) {
            bail!("{what} is {is:.1}, more than {most:.1}");
        }
    }
    Ok(())
}

/// Measures a mesh of this size.
///
/// # Errors
/// When a subscriber is not served.
pub async fn measure(size: Size, changes: usize) -> anyhow::Result<Outcome> {
    let changes = changes.max(1);
    let world = World::new(size);
    let mut plane = Plane::start().await?;
    progress(&format!("{} pods and {} services", size.pods, size.services));
    let objects = world.objects()?;
    let began = Instant::now();
    plane.tell(objects).await?;
    plane.generation.wait_for(|generation| *generation > 0).await?;
    let load_s = began.elapsed().as_secs_f64();
    let loaded_mb = resident_mb()?;

    progress(&format!("{} node proxies and {} waypoints, which have nothing", size.ztunnels, size.waypoints));
    let (connect_s, connect_peak_mb, (peers, seen)) =
        connect(&plane, size, |number| Asks::ztunnel(number, std::iter::empty())).await?;
    let connected_mb = resident_mb()?;

    progress(&format!("{changes} changes, one after the other"));
    let mut changed = Changed::new()?;
    for number in 0..changes {
        changed.one(&plane, &world, size, number, &seen).await?;
        tokio::time::sleep(BETWEEN).await;
    }

    progress("everybody again, with what it had");
    let held = plane.cache.read(NODE_VIEW, ADDRESS, |view| {
        view.entries().map(|entry| (entry.name.to_string(), entry.version.to_string())).collect::<Vec<_>>()
    });
    let asks = Asks::ztunnel(0, held.into_iter());
    drop(peers);
    let (reconnect_s, reconnect_peak_mb, _) = connect(&plane, size, |_| asks.clone()).await?;
    Ok(Outcome {
        size,
        load_s,
        loaded_mb,
        connect_s,
        connect_peak_mb,
        connected_mb,
        change_p50_ms: changed.quantile(0.5),
        change_p99_ms: changed.quantile(0.99),
        change_cpu_ms: changed.cpu_s * 1000.0 / changes as f64,
        responses_each: changed.responses as f64 / changes as f64,
        resources_each: changed.resources as f64 / changes as f64,
        reconnect_s,
        reconnect_peak_mb,
    })
}

/// Connects all subscribers at once and waits until each was answered for every type. Seconds, the most memory, and the subscribers.
async fn connect(
    plane: &Plane,
    size: Size,
    ztunnel: impl Fn(usize) -> Asks,
) -> anyhow::Result<(f64, f64, (Vec<Peer>, Arc<Seen>))> {
    forget_peak()?;
    let seen = Seen::new();
    let began = Instant::now();
    let ztunnels = (0..size.ztunnels).map(ztunnel);
    let waypoints = (0..size.waypoints).map(|number| Asks::waypoint(&World::namespace(number)));
    let peers: Vec<Peer> = ztunnels.chain(waypoints).map(|asks| Peer::start(plane.address, asks, Arc::clone(&seen))).collect();
    let all = (2 * size.ztunnels + 4 * size.waypoints) as u64;
    until(&seen, "every subscriber is served", |seen| seen.firsts.load(Ordering::Acquire) >= all).await?;
    Ok((began.elapsed().as_secs_f64(), peak_mb()?, (peers, seen)))
}

/// What changes cost.
struct Changed {
    times: Histogram<u64>,
    cpu_s: f64,
    responses: u64,
    resources: u64,
}

impl Changed {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { times: Histogram::new(3)?, cpu_s: 0.0, responses: 0, resources: 0 })
    }

    /// A pod's readiness, until all node proxies and the one waypoint that has it as an endpoint are told.
    async fn one(&mut self, plane: &Plane, world: &World, size: Size, number: usize, seen: &Arc<Seen>) -> anyhow::Result<()> {
        let pod = number.wrapping_mul(7919) % size.pods.max(1);
        // Ready, then not, then ready again.
        let event = world.pod(pod, (number / size.pods.max(1)) % 2 == 1)?;
        let before =
            (seen.responses.load(Ordering::Acquire), seen.resources.load(Ordering::Acquire), process::used(std::process::id()));
        let told = (size.ztunnels + usize::from(size.waypoints > 0)) as u64;
        let began = seen.now();
        plane.tell(vec![event]).await?;
        until(seen, "every subscriber is told of a change", |seen| seen.responses.load(Ordering::Acquire) >= before.0 + told)
            .await?;
        self.times.record(seen.last().saturating_sub(began))?;
        self.cpu_s += (process::used(std::process::id()) - before.2).cpu();
        self.responses += seen.responses.load(Ordering::Acquire) - before.0;
        self.resources += seen.resources.load(Ordering::Acquire) - before.1;
        Ok(())
    }

    fn quantile(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e6
    }
}

async fn until(seen: &Arc<Seen>, what: &str, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !done(seen) {
        ensure!(seen.lost.load(Ordering::Acquire) == 0, "a subscriber was lost before {what}");
        ensure!(Instant::now() < give_up, "it took longer than {} s until {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn print(outcome: &Outcome) {
    let Size { pods, services, ztunnels, waypoints } = outcome.size;
    println!("{pods} pods, {services} services, {ztunnels} node proxies, {waypoints} waypoints; both sides in one process");
    println!("  all objects in the cache after     {:>9.1} s", outcome.load_s);
    println!("  memory without subscribers         {:>9.0} MB", outcome.loaded_mb);
    println!("  everybody connected from nothing   {:>9.1} s, at most {:.0} MB", outcome.connect_s, outcome.connect_peak_mb);
    println!("  memory with all subscribers        {:>9.0} MB", outcome.connected_mb);
    println!("  a pod's change to its last one     {:>9.1} ms p50, {:.1} ms p99", outcome.change_p50_ms, outcome.change_p99_ms);
    println!(
        "  CPU for each change                {:>9.1} ms, {:.1} responses with {:.1} resources",
        outcome.change_cpu_ms, outcome.responses_each, outcome.resources_each
    );
    println!("  everybody back, with what it had   {:>9.1} s, at most {:.0} MB", outcome.reconnect_s, outcome.reconnect_peak_mb);
}

fn resident_mb() -> anyhow::Result<f64> {
    status_mb("VmRSS:")
}

fn peak_mb() -> anyhow::Result<f64> {
    status_mb("VmHWM:")
}

/// Begins anew with the most memory ever used (`proc_pid_clear_refs(5)`).
fn forget_peak() -> anyhow::Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("forgetting the most memory used so far")
}

fn status_mb(field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("the kernel tells no {field}"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

//! What a large mesh costs its control plane: time from a change to its last subscriber, memory, CPU, and everybody coming back at once.
//!
//! The control plane is in this process, and all subscribers in another one, which speak gRPC with it over loopback.

mod herd;
mod peer;
mod plane;
mod stream;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ambit_api::type_url::ADDRESS;
use anyhow::{Context, bail};
use clap::Args;
use hdrhistogram::Histogram;
use istiod_lite::push::NODE_VIEW;
use serde::Serialize;

pub use self::herd::serve;
use self::{
    herd::{Herd, Report},
    peer::monotonic,
    plane::Plane,
    world::World,
};
use crate::{process, session::progress};

/// Pause between two changes, so that each is measured alone, with all answers to it.
const BETWEEN: Duration = Duration::from_millis(100);
/// Of the machine's time that others had during a change, so that it does not count: as for all benchmarks here.
const MOST_OF_OTHERS: f64 = 0.1;

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
    /// How long a subscriber takes to answer a response, in milliseconds: it has to apply it, and is far away. Those here share the processors
    /// with the control plane: with 0 their answers hold up what others are still to be told.
    #[arg(long, default_value_t = 20)]
    pub answer_after_ms: u64,
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

/// What was measured. Times are of the wall clock, memory is the resident memory of the control plane's process.
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
    /// From a change until it is in the socket of its last subscriber, milliseconds.
    pub change_p50_ms: f64,
    /// As above, of one in a hundred.
    pub change_p99_ms: f64,
    /// As above, with the changes during which others had more than a tenth of the machine.
    pub change_all_p99_ms: f64,
    /// How many these are.
    pub disturbed: usize,
    /// Until the last subscriber has read it, on what is left of these processors, milliseconds.
    pub read_p50_ms: f64,
    /// As above, of one in a hundred.
    pub read_p99_ms: f64,
    /// CPU of the control plane for each change, milliseconds.
    pub change_cpu_ms: f64,
    /// CPU of all subscribers for each change, milliseconds.
    pub subscribers_cpu_ms: f64,
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
    let outcome = measure(control.size, control.changes, control.answer_after_ms, &std::env::current_exe()?).await?;
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

/// Measures a mesh of this size. `program` is this one, of which a second process has the subscribers.
///
/// # Errors
/// When a subscriber is not served.
pub async fn measure(size: Size, changes: usize, answer_after_ms: u64, program: &Path) -> anyhow::Result<Outcome> {
    let changes = changes.max(1);
    let world = World::new(size);
    let mut plane = Plane::start().await?;
    let mut herd = Herd::start(program, answer_after_ms)?;
    progress(&format!("{} pods and {} services", size.pods, size.services));
    let began = Instant::now();
    plane.tell(world.objects()?).await?;
    plane.generation.wait_for(|generation| *generation > 0).await?;
    let load_s = began.elapsed().as_secs_f64();
    let loaded_mb = resident_mb()?;

    progress(&format!("{} node proxies and {} waypoints, which have nothing", size.ztunnels, size.waypoints));
    let (connect_s, connect_peak_mb) = connect(&mut herd, &plane, size, Vec::new()).await?;
    let connected_mb = resident_mb()?;

    progress(&format!("{changes} changes, one after the other"));
    let mut changed = Changed::new()?;
    let mut made = 0;
    while made - changed.disturbed < changes && made < 3 * changes {
        changed.one(&plane, &mut herd, &world, size, made).await?;
        made += 1;
        tokio::time::sleep(BETWEEN).await;
    }

    progress("everybody again, with what it had");
    let held = plane.cache.read(NODE_VIEW, ADDRESS, |view| {
        view.entries().map(|entry| (entry.name.to_string(), entry.version.to_string())).collect::<Vec<_>>()
    });
    herd.leave().await?;
    let (reconnect_s, reconnect_peak_mb) = connect(&mut herd, &plane, size, held).await?;
    let of_each = |all: f64| all / made as f64;
    let quiet = if changed.times.is_empty() { &changed.all } else { &changed.times };
    Ok(Outcome {
        size,
        load_s,
        loaded_mb,
        connect_s,
        connect_peak_mb,
        connected_mb,
        change_p50_ms: quantile(quiet, 0.5),
        change_p99_ms: quantile(quiet, 0.99),
        change_all_p99_ms: quantile(&changed.all, 0.99),
        disturbed: changed.disturbed,
        read_p50_ms: quantile(&changed.read, 0.5),
        read_p99_ms: quantile(&changed.read, 0.99),
        change_cpu_ms: of_each(changed.cpu_s * 1000.0),
        subscribers_cpu_ms: of_each(changed.subscribers_cpu_s * 1000.0),
        responses_each: of_each(changed.sent.responses as f64),
        resources_each: of_each(changed.sent.resources as f64),
        reconnect_s,
        reconnect_peak_mb,
    })
}

/// Connects all subscribers at once and waits until each was answered for every type. Seconds, and the most memory.
async fn connect(herd: &mut Herd, plane: &Plane, size: Size, held: Vec<(String, String)>) -> anyhow::Result<(f64, f64)> {
    forget_peak()?;
    let began = Instant::now();
    herd.connect(plane.address, size, held).await?;
    Ok((began.elapsed().as_secs_f64(), peak_mb()?))
}

/// What changes cost.
struct Changed {
    /// Until the last subscriber has it; of all changes, and of those beside which others did little.
    all: Histogram<u64>,
    times: Histogram<u64>,
    /// How many others there were.
    disturbed: usize,
    read: Histogram<u64>,
    cpu_s: f64,
    subscribers_cpu_s: f64,
    sent: Report,
}

impl Changed {
    fn new() -> anyhow::Result<Self> {
        let (all, times, read) = (Histogram::new(3)?, Histogram::new(3)?, Histogram::new(3)?);
        Ok(Self { all, times, disturbed: 0, read, cpu_s: 0.0, subscribers_cpu_s: 0.0, sent: Report::default() })
    }

    /// A pod's readiness, until all node proxies and the one waypoint that has it as an endpoint are told.
    async fn one(&mut self, plane: &Plane, herd: &mut Herd, world: &World, size: Size, number: usize) -> anyhow::Result<()> {
        let pod = number.wrapping_mul(7919) % size.pods.max(1);
        // Ready, then not, then ready again.
        let event = world.pod(pod, (number / size.pods.max(1)) % 2 == 1)?;
        let cpu = |herd: &Herd| (process::used(std::process::id()).cpu(), process::used(herd.pid()).cpu());
        let (before, (ours, theirs)) = (herd.have(0).await?, cpu(herd));
        let told = (size.ztunnels + usize::from(size.waypoints > 0)) as u64;
        let these = [std::process::id(), herd.pid()];
        let (others, watched) = (process::others(&these)?, Instant::now());
        let began = monotonic();
        plane.tell(vec![event]).await?;
        let after = herd.have(before.responses + told).await?;
        let took = after.last.saturating_sub(began);
        self.all.record(took)?;
        let share = (process::others(&these)? - others) / watched.elapsed().as_secs_f64() / processors();
        if share > MOST_OF_OTHERS {
            self.disturbed += 1;
        } else {
            self.times.record(took)?;
        }
        self.read.record(after.last_read.saturating_sub(began))?;
        let (ours_after, theirs_after) = cpu(herd);
        self.cpu_s += ours_after - ours;
        self.subscribers_cpu_s += theirs_after - theirs;
        self.sent.responses += after.responses - before.responses;
        self.sent.resources += after.resources - before.resources;
        Ok(())
    }
}

fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |processors| processors.get() as f64)
}

/// In milliseconds, of nanoseconds.
fn quantile(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e6
}

fn print(outcome: &Outcome) {
    let Size { pods, services, ztunnels, waypoints } = outcome.size;
    println!("{pods} pods, {services} services, {ztunnels} node proxies, {waypoints} waypoints");
    println!("  all objects in the cache after     {:>9.1} s", outcome.load_s);
    println!("  memory without subscribers         {:>9.0} MB", outcome.loaded_mb);
    println!("  everybody connected from nothing   {:>9.1} s, at most {:.0} MB", outcome.connect_s, outcome.connect_peak_mb);
    println!("  memory with all subscribers        {:>9.0} MB", outcome.connected_mb);
    println!("  a pod's change to its last one     {:>9.1} ms p50, {:.1} ms p99", outcome.change_p50_ms, outcome.change_p99_ms);
    println!(
        "  … with those beside which others had a tenth of the machine, {}: {:.1} ms p99",
        outcome.disturbed, outcome.change_all_p99_ms
    );
    println!("  … and read there, beside all this  {:>9.1} ms p50, {:.1} ms p99", outcome.read_p50_ms, outcome.read_p99_ms);
    println!(
        "  CPU for each change                {:>9.1} ms, and {:.1} ms of all subscribers; {:.1} responses with {:.1} resources",
        outcome.change_cpu_ms, outcome.subscribers_cpu_ms, outcome.responses_each, outcome.resources_each
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

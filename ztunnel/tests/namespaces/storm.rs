//! New connections from many pods at once, as fast as they come: what it costs the proxies to hold, and whom it keeps waiting.
//!
//! In a short form unless `STORM=long` is set: 2,000 connections a second for 30 seconds from 100 pods. What the machine could not begin
//! in time is counted, and said with the rest.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    books,
    mesh::{Mesh, PATIENCE, call, call_until_it_works, echo},
    test,
};

pub const MIB: u64 = 1 << 20;
/// What a proxy may grow by in a storm, and by how much a second one may differ from the first.
const GROWTH: u64 = 48 * MIB;
const DRIFT: u64 = 8 * MIB;

pub fn tests() -> Vec<Trial> {
    vec![test("a_storm_of_new_connections_costs_bounded_memory_and_starves_nobody", storms)]
}

#[derive(Debug, Clone, Copy)]
struct Storm {
    pods: usize,
    a_second: u64,
    time: Duration,
    /// Connections of one pod that are under way at once.
    at_once: usize,
}

impl Storm {
    fn of_this_run() -> Self {
        if std::env::var("STORM").is_ok_and(|form| form == "long") {
            return Self { pods: 100, a_second: 2000, time: Duration::from_secs(30), at_once: 8 };
        }
        Self { pods: 16, a_second: 2000, time: Duration::from_secs(4), at_once: 4 }
    }
}

#[derive(Default)]
struct Counts {
    well: AtomicU64,
    failed: AtomicU64,
    /// Not begun, as too many of its pod were under way.
    late: AtomicU64,
    /// How long those that went well took.
    took: Mutex<Vec<Duration>>,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [well, failed, late] = [&self.well, &self.failed, &self.late].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{well} well, {failed} failed, {late} not begun, p95 {:?}", self.p95())
    }
}

impl Counts {
    fn p95(&self) -> Duration {
        let mut took = self.took.lock().unwrap().clone();
        took.sort_unstable();
        quantile(&took, 0.95)
    }
}

async fn storms() -> anyhow::Result<()> {
    let storm = Storm::of_this_run();
    let mesh = Mesh::start().await?;
    let (server, calm_server) = (mesh.pod(1, "api").await?, mesh.pod(1, "calm-api").await?);
    let _echo = (echo(&server, 8080)?, echo(&calm_server, 8080)?);
    let calm = mesh.pod(0, "calm").await?;
    let mut pods = Vec::new();
    for n in 0..storm.pods {
        pods.push(mesh.pod(0, &format!("storm-{n}")).await?);
    }
    let to: Vec<_> = server.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080)).collect();
    for (pod, to) in pods.iter().chain([&calm]).zip(to.iter().cycle()) {
        call_until_it_works(pod, *to, PATIENCE).await?;
    }
    let bystander = SocketAddr::new(calm_server.ip(), 8080);
    call_until_it_works(&calm, bystander, PATIENCE).await?;
    let quiet = Neighbour::start(&calm, bystander);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let quiet = quiet.stop().await?;
    let before = memory(&mesh)?;
    let mut after = Vec::new();
    for number in 1..=2 {
        let neighbour = Neighbour::start(&calm, bystander);
        let (counts, peak) = rage(&mesh, &pods, &to, storm).await?;
        let beside = neighbour.stop().await;
        println!(
            "storm {number} ({storm:?}): {counts:?}, {:.0} a second; MiB of both proxies before {:?}, at most {:?}; \
             neighbour in quiet {quiet:?}, beside it {beside:?}",
            counts.well.load(Ordering::Relaxed) as f64 / storm.time.as_secs_f64(),
            before.map(|bytes| bytes / MIB),
            peak.map(|bytes| bytes / MIB),
        );
        let beside = beside?;
        for node in 0..2 {
            books::balanced(&mesh, node).await?;
        }
        ensure!(counts.failed.load(Ordering::Relaxed) == 0, "connections failed: {counts:?}");
        let least = 100 * storm.time.as_secs();
        ensure!(counts.well.load(Ordering::Relaxed) > least, "that was no storm: {counts:?}");
        for node in 0..2 {
            ensure!(peak[node] < before[node] + GROWTH, "node {node} held {peak:?} bytes at most, {before:?} before");
        }
        beside.fair(&quiet, counts.p95())?;
        after.push(memory(&mesh)?);
    }
    for node in 0..2 {
        ensure!(after[1][node] < after[0][node] + DRIFT, "node {node} keeps something of each storm: {after:?}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// Bytes that both proxies hold.
pub fn memory(mesh: &Mesh) -> anyhow::Result<[u64; 2]> {
    let of = |node: usize| anyhow::Ok(mesh.nodes[node].proxy.as_ref().context("no proxy")?.usage()?.rss_bytes);
    Ok([of(0)?, of(1)?])
}

/// One storm, over each family in turn; what became of its connections, and what the proxies held at most.
async fn rage(mesh: &Mesh, pods: &[Pod], to: &[SocketAddr], storm: Storm) -> anyhow::Result<(Arc<Counts>, [u64; 2])> {
    let counts = Arc::new(Counts::default());
    let until = Instant::now() + storm.time;
    let mut sources = JoinSet::new();
    for (pod, to) in pods.iter().zip(to.iter().cycle()) {
        sources.spawn(source(pod.clone(), *to, Arc::clone(&counts), storm, until));
    }
    let mut peak = [0; 2];
    while !sources.is_empty() {
        while sources.try_join_next().is_some() {}
        let now = memory(mesh)?;
        peak = [peak[0].max(now[0]), peak[1].max(now[1])];
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((counts, peak))
}

/// The connections of one pod, begun at its share of the rate; returns when the last has ended.
async fn source(pod: Pod, to: SocketAddr, counts: Arc<Counts>, storm: Storm, until: Instant) {
    let share = Duration::from_secs_f64(storm.pods as f64 / storm.a_second as f64);
    let mut ticks = tokio::time::interval(share);
    let places = Arc::new(Semaphore::new(storm.at_once));
    let mut calls = JoinSet::new();
    while Instant::now() < until {
        ticks.tick().await;
        while calls.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            counts.late.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (pod, counts) = (pod.clone(), Arc::clone(&counts));
        calls.spawn(async move {
            let _place = place;
            let begun = Instant::now();
            let well = call(&pod, to, b"storm").await.is_ok_and(|(_, answer)| answer == b"stormbye");
            if well {
                counts.took.lock().unwrap().push(begun.elapsed());
            }
            if well { &counts.well } else { &counts.failed }.fetch_add(1, Ordering::Relaxed);
        });
    }
    calls.join_all().await;
}

/// Somebody else's small requests, on a connection that stays and on new ones, from a thread of its own.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<Waits>>,
}

/// How long requests took, in the order of their length.
#[derive(Default)]
struct Waits {
    kept: Vec<Duration>,
    new: Vec<Duration>,
}

impl Neighbour {
    fn start(pod: &Pod, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, pod) = (Arc::clone(&stop), pod.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(&pod, to, &stopped))
        });
        Self { stop, thread }
    }

    /// # Errors
    /// When one of its requests failed.
    async fn stop(self) -> anyhow::Result<Waits> {
        self.stop.store(true, Ordering::Relaxed);
        let waits = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        waits.map_err(|_| anyhow::anyhow!("the neighbour broke down"))?.context("the neighbour was starved")
    }
}

async fn ask(pod: &Pod, to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<Waits> {
    let mut waits = Waits::default();
    let mut kept = pod.connect(to).await?;
    kept.set_nodelay(true)?;
    // Who the server sees comes first.
    while kept.read_u8().await? != b'\n' {}
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut answer = [0; 64];
        tokio::time::timeout(PATIENCE, async {
            kept.write_all(&[7; 64]).await?;
            kept.read_exact(&mut answer).await
        })
        .await??;
        ensure!(answer == [7; 64]);
        waits.kept.push(begun.elapsed());
        let begun = Instant::now();
        call(pod, to, b"hello").await?;
        waits.new.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waits.kept.sort_unstable();
    waits.new.sort_unstable();
    Ok(waits)
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |waits: &[Duration]| (waits.len(), quantile(waits, 0.5), quantile(waits, 0.95), waits.last().copied());
        write!(f, "(count, p50, p95, longest) kept {:?} new {:?}", of(&self.kept), of(&self.new))
    }
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted.get((sorted.len() as f64 * part) as usize).copied().unwrap_or_default()
}

impl Waits {
    /// The storm has the processors, its client and its server with them, and more of it is offered than they can do; so all wait their
    /// turn. Who has one connection waits no longer than those who have hundreds.
    fn fair(&self, quiet: &Self, storm: Duration) -> anyhow::Result<()> {
        for (beside, quiet) in [(&self.kept, &quiet.kept), (&self.new, &quiet.new)] {
            ensure!(beside.len() >= 20, "only {} requests were answered", beside.len());
            let (now, then) = (quantile(beside, 0.95), quantile(quiet, 0.95));
            let most = (20 * then + Duration::from_millis(250)).max(2 * storm);
            ensure!(now < most, "the neighbour's p95 went from {then:?} to {now:?}, that of the storm is {storm:?}");
        }
        Ok(())
    }
}

//! What the proxies have resident: idle, with connections held, at their peak.

use std::time::Duration;

use ambit_testbed::{Output, Process};
use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{Bench, Shape};
use crate::{
    figure::{MEMORY_CONNECTION, MEMORY_HELD, MEMORY_IDLE, MEMORY_PEAK, MEMORY_REST, RSS_HELD, RSS_IDLE, RSS_PEAK},
    paths::Path,
    process::{self, Memory},
};

/// Connections that are held to see what one costs.
pub const HELD: usize = 1000;

/// How long connections that are held have been idle when memory is looked at, unless a run leaves its proxies less time: what opening them took
/// is not what they need.
const REST: Duration = Duration::from_secs(5);

/// Connections that are held by a load.
pub struct Held {
    load: Process,
    out: BufReader<tokio::process::ChildStdout>,
    /// How many there really are.
    pub count: usize,
}

impl Held {
    /// Those of a load, once it has opened them.
    ///
    /// # Errors
    /// When it takes longer than `patience`, or has opened none.
    pub async fn of(load: Process, patience: Duration) -> anyhow::Result<Self> {
        let mut out = BufReader::new(load.take_stdout().context("the output of the load")?);
        let mut line = String::new();
        tokio::time::timeout(patience, out.read_line(&mut line)).await.context("opening connections")??;
        let count = line.trim().strip_prefix("holding ").and_then(|count| count.parse().ok());
        let count = count.context("it has opened no connections")?;
        Ok(Self { load, out, count })
    }

    /// Closes them.
    ///
    /// # Errors
    /// When the load does not end.
    pub async fn release(mut self) -> anyhow::Result<()> {
        drop(self.load.take_stdin());
        let mut rest = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), self.out.read_to_string(&mut rest)).await;
        read.context("closing connections")??;
        self.load.wait().await;
        Ok(())
    }
}

impl Bench {
    /// What the proxies of a path have now: all together (PSS), and the largest of them (RSS).
    #[must_use]
    pub fn memory(&self, path: Path) -> Memory {
        let each = self.rig.proxies(path).into_iter().map(|proxy| process::memory(proxy.pid));
        each.fold(Memory::default(), |all, one| Memory { pss: all.pss + one.pss, rss: all.rss.max(one.rss) })
    }

    /// Memory before any load.
    pub fn idle(&mut self, path: Path) {
        if path.is_bare() {
            return;
        }
        let Memory { pss, rss } = self.memory(path);
        self.results.set(path.name(), MEMORY_IDLE, self.round, pss);
        self.results.set(path.name(), RSS_IDLE, self.round, rss);
    }

    /// Memory a while after the last load.
    pub fn at_rest(&mut self, path: Path) {
        if !path.is_bare() {
            let Memory { pss, .. } = self.memory(path);
            self.results.set(path.name(), MEMORY_REST, self.round, pss);
        }
    }

    /// Memory while connections are held, and what one of them adds to the idle proxy.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub async fn held(&mut self, path: Path) -> anyhow::Result<()> {
        if path.is_bare() {
            return Ok(());
        }
        let held = self.hold(path, HELD).await?;
        tokio::time::sleep(REST.min(self.rest)).await;
        let Memory { pss, rss } = self.memory(path);
        let name = path.name();
        if held.count != HELD {
            self.results.notes.push(format!("{name}: {} of {HELD} connections could be held", held.count));
        }
        let idle = self.results.summary(name, MEMORY_IDLE.key).map_or(f64::NAN, |idle| idle.median);
        let each = (pss - idle) * 1000.0 / held.count as f64 / self.rig.proxies(path).len() as f64;
        self.results.set(name, MEMORY_HELD, self.round, pss);
        self.results.set(name, RSS_HELD, self.round, rss);
        self.results.set(name, MEMORY_CONNECTION, self.round, each);
        held.release().await
    }

    /// Opens connections that stay idle.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn hold(&self, path: Path, connections: usize) -> anyhow::Result<Held> {
        let shape = Shape::new("idle", connections, 1.0);
        let command = self.command(path, &shape)?.stdin_piped().stdout(Output::Piped);
        let load = self.rig.pod(path, "client")?.spawn(command)?;
        let held = Held::of(load, Duration::from_secs(60)).await;
        held.with_context(|| format!("{} could not hold {connections} connections", path.name()))
    }

    /// Begins new peaks.
    pub fn forget_peaks(&mut self, path: Path) {
        for proxy in self.rig.proxies(path) {
            if let Err(error) = process::forget_peak(proxy.pid) {
                let note = format!("peaks are those since the start, not of a round: {error}");
                if !self.results.notes.contains(&note) {
                    self.results.notes.push(note);
                }
            }
        }
    }

    /// The most memory since [`Self::forget_peaks`].
    pub fn peaks(&mut self, path: Path) {
        if path.is_bare() {
            return;
        }
        let peaks: Vec<f64> = self.rig.proxies(path).iter().map(|proxy| process::peak(proxy.pid)).collect();
        self.results.set(path.name(), MEMORY_PEAK, self.round, peaks.iter().sum());
        self.results.set(path.name(), RSS_PEAK, self.round, peaks.into_iter().fold(0.0, f64::max));
    }
}

//! One sample of load with what the proxies used for it, taken again when the machine was not ours.

pub mod calls;
mod memory;
pub mod noise;
mod round;

use std::time::Duration;

use ambit_testbed::{Command, Output, Process};
use anyhow::{Context, bail};

use crate::{
    load::Sample,
    paths::Path,
    process::{self, Used},
    results::Results,
    rig::{Proxy, Rig},
};
use noise::Noise;

pub use memory::Held;

/// How much longer than it should a load may take before it is ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the proxies are left alone before their memory without load is looked at: on a slow machine it takes a while until they rest.
const SETTLE: Duration = Duration::from_secs(12);

/// A kind of load, as the command line of this program has it.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The subcommand of `load`.
    pub kind: &'static str,
    /// Connections at once.
    pub connections: usize,
    /// Seconds of measuring.
    pub seconds: f64,
    /// Further options.
    pub options: Vec<String>,
}

impl Shape {
    /// A load without further options.
    #[must_use]
    pub fn new(kind: &'static str, connections: usize, seconds: f64) -> Self {
        Self { kind, connections, seconds, options: Vec::new() }
    }

    /// The same with an option.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.options.extend([name.to_owned(), value.to_string()]);
        self
    }
}

/// A sample with what each proxy used from before the load began until after it ended.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What the load saw.
    pub sample: Sample,
    /// By proxy.
    pub used: Vec<(Proxy, Used)>,
}

impl Measured {
    /// CPU-seconds of all proxies.
    #[must_use]
    pub fn cpu(&self) -> f64 {
        self.used.iter().map(|(_, used)| used.cpu()).sum()
    }

    /// CPU-seconds of all proxies for one request or connection, those before measuring included.
    #[must_use]
    pub fn cpu_each(&self) -> f64 {
        self.cpu() / self.sample.all as f64
    }
}

/// What measures, and what was measured so far.
pub struct Bench {
    /// The paths.
    pub rig: Rig,
    /// What was measured.
    pub results: Results,
    /// Seconds of each sample.
    pub seconds: f64,
    /// A sample during which other processes used more of the machine than this share is taken again.
    pub noise: f64,
    /// How long the proxies are left alone before their memory without load is looked at.
    pub rest: Duration,
    /// The round that values are of.
    pub round: usize,
}

impl Bench {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(rig: Rig, seconds: f64, noise: f64) -> Self {
        Self { rig, results: Results::default(), seconds, noise, rest: SETTLE, round: 0 }
    }

    /// Waits until a path works.
    ///
    /// # Errors
    /// When it does not after a while, with what its load said.
    pub async fn warm(&self, path: Path) -> anyhow::Result<()> {
        let shape = Shape::new("requests", 4, 0.2);
        let mut last = self.load(path, &shape).await;
        for _ in 0..20 {
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
            last = self.load(path, &shape).await;
        }
        last.map(drop).with_context(|| format!("the path {} does not work", path.name()))
    }

    /// One sample, the quietest of up to three when other processes were busy meanwhile.
    ///
    /// # Errors
    /// When the load fails.
    pub async fn quiet(&mut self, path: Path, shape: &Shape) -> anyhow::Result<Measured> {
        let what = format!("{} {} {}", path.name(), shape.kind, shape.connections);
        let measured = self.quietest(&what, async |bench: &Self| bench.measure(path, shape).await).await?;
        if measured.sample.errors > 0 {
            let note = format!("{what}, round {}: {} errors", self.round + 1, measured.sample.errors);
            self.results.notes.push(note);
        }
        Ok(measured)
    }

    /// What `measure` gives with the share of the machine that others used: the quietest of up to three if the first is noisy.
    ///
    /// # Errors
    /// Those of `measure`.
    pub async fn quietest<T>(
        &mut self,
        what: &str,
        measure: impl AsyncFn(&Self) -> anyhow::Result<(T, f64)>,
    ) -> anyhow::Result<T> {
        let bench = &*self;
        let (best, least, again) = noise::quietest(bench.noise, async || measure(bench).await).await?;
        self.results.taken += 1;
        self.results.repeated += usize::from(again > 0);
        if least > self.noise {
            self.results.noisy.push((format!("{what}, round {}", self.round + 1), least));
        }
        Ok(best)
    }

    async fn measure(&self, path: Path, shape: &Shape) -> anyhow::Result<(Measured, f64)> {
        let proxies = self.rig.proxies(path);
        let before: Vec<Used> = proxies.iter().map(|proxy| process::used(proxy.pid)).collect();
        let watch = Noise::begin()?;
        let sample = self.load(path, shape).await?;
        let others = watch.others(sample.cpu_seconds)?;
        let used = proxies.into_iter().zip(before);
        let used = used.map(|(proxy, before)| (process::used(proxy.pid) - before, proxy)).map(|(used, proxy)| (proxy, used));
        Ok((Measured { sample, used: used.collect() }, others))
    }

    /// A load on a path to its end.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub async fn load(&self, path: Path, shape: &Shape) -> anyhow::Result<Sample> {
        self.finish(self.start(path, "client", shape)?, shape).await
    }

    /// Starts a load in a pod of the path.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, path: Path, pod: &str, shape: &Shape) -> anyhow::Result<Process> {
        let command = self.command(path, shape)?.output(Output::Piped);
        Ok(self.rig.pod(path, pod)?.spawn(command)?)
    }

    /// Waits for the end of a load, and reads what it saw.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub async fn finish(&self, load: Process, shape: &Shape) -> anyhow::Result<Sample> {
        let patience = PATIENCE + Duration::from_secs_f64(shape.seconds);
        let Ok(finished) = tokio::time::timeout(patience, load.finish()).await else {
            load.kill_group();
            bail!("the load `{} {}` has not ended after {} s", shape.kind, shape.connections, patience.as_secs());
        };
        let finished = finished?;
        if !finished.status.success() {
            bail!("the load `{} {}` failed: {}", shape.kind, shape.connections, finished.stderr.trim());
        }
        serde_json::from_str(&finished.stdout).context("reading what the load measured")
    }

    fn command(&self, path: Path, shape: &Shape) -> anyhow::Result<Command> {
        let command = Command::new("/proc/self/exe").name("load").args(["load", shape.kind]).args(&shape.options);
        let command = command.args(["--connections", &shape.connections.to_string(), "--seconds", &shape.seconds.to_string()]);
        let targets = if shape.kind == "elephant" { self.rig.bulk_targets(path)? } else { self.rig.targets(path)? };
        Ok(targets.iter().fold(command, |command, target| command.args(["--to", &target.to_string()])))
    }
}

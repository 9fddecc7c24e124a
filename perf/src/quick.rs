//! One run over all paths: rounds in which each path is measured once, in an order that changes from round to round.

use std::{path::PathBuf, time::Duration};

use ambit_testbed::{Command, Output};
use anyhow::{Context, bail};
use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{
    figure::Figure,
    load::Sample,
    paths::{Path, Rig},
    process,
    report::Results,
};

/// Rounds, and where the result goes.
#[derive(Debug, Args)]
pub struct Quick {
    /// How often each figure is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds of each sample.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only these paths.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Writes the document here as well.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// The Envoy to compare with; searched in PATH and the Python packages if not given.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
}

/// A sample during which other processes used more of the machine than this is taken again, once.
const NOISE: f64 = 0.10;

/// Measures and prints.
///
/// # Errors
/// When a path does not work at all.
pub async fn run(quick: &Quick) -> anyhow::Result<()> {
    let paths: Vec<Path> =
        Path::ALL.into_iter().filter(|path| quick.only.is_empty() || quick.only.iter().any(|only| only == path.name())).collect();
    if paths.is_empty() {
        bail!("no path of that name; there are {}", Path::ALL.map(Path::name).join(", "));
    }
    let envoy = ambit::envoy::locate(quick.envoy.as_deref()).await?;
    eprintln!("starting two nodes");
    let rig = Rig::start(&envoy, &paths).await?;
    let mut bench = Bench { rig, results: Results::default(), seconds: quick.seconds };
    for path in &paths {
        bench.warm(*path).await.with_context(|| format!("the path {} does not work", path.name()))?;
    }
    for path in &paths {
        bench.memory(*path, Figure::MemoryIdle, 0).await?;
    }
    for round in 0..quick.rounds {
        for turn in 0..paths.len() {
            let path = paths[(round + turn) % paths.len()];
            eprintln!("round {} of {}: {}", round + 1, quick.rounds, path.name());
            bench.round(path).await.with_context(|| format!("measuring {}", path.name()))?;
        }
    }
    for path in &paths {
        bench.memory(*path, Figure::MemoryHeld, 1000).await?;
    }
    let names: Vec<&str> = paths.iter().map(|path| path.name()).collect();
    println!("{}", bench.results.table(&Path::COMPARISONS, &names));
    if let Some(file) = &quick.json {
        let text = serde_json::to_string_pretty(&bench.results.json(&Path::COMPARISONS))?;
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    bench.rig.stop().await;
    Ok(())
}

struct Bench {
    rig: Rig,
    results: Results,
    seconds: f64,
}

/// A sample with what the proxies used for it.
struct Measured {
    sample: Sample,
    /// CPU-seconds of the proxies for the whole load, warm-up included, scaled to the measured part.
    cpu: f64,
}

impl Bench {
    async fn warm(&self, path: Path) -> anyhow::Result<()> {
        let ask = async || self.load(path, "requests", 4, 0.2).await;
        let mut last = ask().await;
        for _ in 0..20 {
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
            last = ask().await;
        }
        last.map(drop)
    }

    async fn round(&mut self, path: Path) -> anyhow::Result<()> {
        for (connections, rate, cpu) in [
            (1, Figure::Requests1, None),
            (16, Figure::Requests16, Some(Figure::CpuRequests16)),
            (64, Figure::Requests64, Some(Figure::CpuRequests64)),
        ] {
            let measured = self.quiet(path, "requests", connections).await?;
            self.results.add(path.name(), rate, measured.sample.count as f64 / measured.sample.seconds);
            if let Some(figure) = cpu.filter(|_| path != Path::NoMesh) {
                self.results.add(path.name(), figure, measured.cpu * 10_000.0 / measured.sample.count as f64);
            }
        }
        let paced = self.quiet(path, "paced", 16).await?.sample;
        self.results.add(path.name(), Figure::PacedP50, paced.p50_ms.unwrap_or(f64::NAN));
        self.results.add(path.name(), Figure::PacedP99, paced.p99_ms.unwrap_or(f64::NAN));
        for (streams, rate, cpu) in [(1, Figure::Bulk1, Figure::CpuBulk1), (8, Figure::Bulk8, Figure::CpuBulk8)] {
            let measured = self.quiet(path, "bulk", streams).await?;
            self.results.add(path.name(), rate, measured.sample.bytes as f64 * 8.0 / 1e9 / measured.sample.seconds);
            if path != Path::NoMesh {
                self.results.add(path.name(), cpu, measured.cpu * 1e9 / measured.sample.bytes as f64);
            }
        }
        let connections = self.quiet(path, "connections", 16).await?.sample;
        self.results.add(path.name(), Figure::Connections, connections.count as f64 / connections.seconds);
        Ok(())
    }

    /// One sample, taken once more when other processes were busy meanwhile.
    async fn quiet(&mut self, path: Path, kind: &str, connections: usize) -> anyhow::Result<Measured> {
        let (measured, noise) = self.measure(path, kind, connections).await?;
        if noise <= NOISE {
            return Ok(measured);
        }
        let (again, noise_again) = self.measure(path, kind, connections).await?;
        self.results.notes.push(format!(
            "{} {kind} {connections}: other processes used {:.0} % of the machine, {:.0} % when measured again",
            path.name(),
            noise * 100.0,
            noise_again * 100.0
        ));
        Ok(if noise_again < noise { again } else { measured })
    }

    async fn measure(&mut self, path: Path, kind: &str, connections: usize) -> anyhow::Result<(Measured, f64)> {
        let proxies = self.rig.proxies(path);
        let began = std::time::Instant::now();
        let (cpu, busy, own) = (process::cpu_of(&proxies), process::machine_busy()?, self.ours());
        let sample = self.load(path, kind, connections, self.seconds).await?;
        let elapsed = began.elapsed().as_secs_f64();
        let used = process::cpu_of(&proxies) - cpu;
        // The load has ended and is no longer in /proc.
        let others = (process::machine_busy()? - busy) - (self.ours() - own) - sample.cpu_seconds;
        if sample.errors > 0 {
            self.results.notes.push(format!("{} {kind} {connections}: {} errors", path.name(), sample.errors));
        }
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let share = sample.seconds / elapsed.max(sample.seconds);
        Ok((Measured { sample, cpu: used * share }, (others / elapsed / cores).max(0.0)))
    }

    /// CPU-seconds so far of everything in the bed that runs before and after a sample.
    fn ours(&self) -> f64 {
        let all: Vec<u32> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        process::cpu_of(&all)
    }

    async fn load(&self, path: Path, kind: &str, connections: usize, seconds: f64) -> anyhow::Result<Sample> {
        let finished = self.rig.client(path)?.run(self.command(path, kind, connections, seconds)?).await?;
        if !finished.status.success() {
            bail!("the load failed: {}", finished.stderr.trim());
        }
        serde_json::from_str(&finished.stdout).context("reading what the load measured")
    }

    fn command(&self, path: Path, kind: &str, connections: usize, seconds: f64) -> anyhow::Result<Command> {
        let command = Command::new("/proc/self/exe").name("load").args(["load", kind]);
        let command = command.args(["--connections", &connections.to_string(), "--seconds", &seconds.to_string()]);
        Ok(self.rig.targets(path)?.iter().fold(command, |command, target| command.args(["--to", &target.to_string()])))
    }

    /// Memory of the proxies while `connections` are held.
    async fn memory(&mut self, path: Path, figure: Figure, connections: usize) -> anyhow::Result<()> {
        if path == Path::NoMesh {
            return Ok(());
        }
        if connections == 0 {
            self.results.add(path.name(), figure, process::memory_of(&self.rig.proxies(path)));
            return Ok(());
        }
        let command = self.command(path, "idle", connections, 1.0)?.stdin_piped().stdout(Output::Piped);
        let holding = self.rig.client(path)?.spawn(command)?;
        let mut out = BufReader::new(holding.take_stdout().context("the output of the load")?);
        let mut line = String::new();
        tokio::time::timeout(Duration::from_secs(30), out.read_line(&mut line)).await.context("opening connections")??;
        if line.trim() != format!("holding {connections}") {
            self.results.notes.push(format!("{}: {} of {connections}", path.name(), line.trim()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.results.add(path.name(), figure, process::memory_of(&self.rig.proxies(path)));
        drop(holding.take_stdin());
        let mut rest = String::new();
        tokio::time::timeout(Duration::from_secs(10), out.read_to_string(&mut rest)).await.context("closing connections")??;
        Ok(())
    }
}

//! What one round measures of one path.

use super::{
    Bench, Measured, Shape,
    calls::{Calls, Counting},
};
use crate::{
    figure::{BULK, CALLS_CONNECTION, CONNECTIONS, CPU_CONNECTIONS, Figure, PACED_P50, PACED_P99, REQUESTS},
    load::Sample,
    paths::Path,
};

/// Connections of the paced requests, and of those that are opened anew.
const SOME: usize = 16;

/// Seconds of a sample that only counts, if those of the run are not shorter.
const COUNTING: f64 = 0.5;

/// How often a count is begun at most: `perf` gives up when a thread ends while it looks at them.
const TRIES: usize = 5;

impl Bench {
    /// Rates, latency, CPU time and peaks.
    ///
    /// # Errors
    /// When a load fails.
    pub async fn round(&mut self, path: Path) -> anyhow::Result<()> {
        self.forget_peaks(path);
        for figures in REQUESTS {
            let measured = self.quiet(path, &Shape::new("requests", figures.connections, self.seconds)).await?;
            let sample = &measured.sample;
            self.results.set(path.name(), figures.rate, self.round, sample.count as f64 / sample.seconds);
            self.cpu(path, figures.cpu, &measured, 10_000.0 / sample.all as f64);
            if !path.is_bare() {
                let switches: f64 = measured.used.iter().map(|(_, used)| used.switches).sum();
                self.results.set(path.name(), figures.switches, self.round, switches / sample.all as f64);
            }
        }
        let paced = self.quiet(path, &Shape::new("paced", SOME, self.seconds)).await?.sample;
        self.results.set(path.name(), PACED_P50, self.round, paced.p50_ms.unwrap_or(f64::NAN));
        self.results.set(path.name(), PACED_P99, self.round, paced.p99_ms.unwrap_or(f64::NAN));
        self.results.latency.entry(path.name().to_owned()).or_default().push(paced.latency);
        for figures in BULK {
            let measured = self.quiet(path, &Shape::new("bulk", figures.streams, self.seconds)).await?;
            let sample = &measured.sample;
            self.results.set(path.name(), figures.rate, self.round, sample.bytes as f64 * 8.0 / 1e9 / sample.seconds);
            self.cpu(path, figures.cpu, &measured, 1e9 / sample.all_bytes as f64);
        }
        let measured = self.quiet(path, &Shape::new("connections", SOME, self.seconds)).await?;
        let sample = &measured.sample;
        self.results.set(path.name(), CONNECTIONS, self.round, sample.count as f64 / sample.seconds);
        self.cpu(path, CPU_CONNECTIONS, &measured, 10_000.0 / sample.all as f64);
        self.peaks(path);
        Ok(())
    }

    /// The CPU time of all proxies and each one's part, times `factor`.
    fn cpu(&mut self, path: Path, figure: Figure, measured: &Measured, factor: f64) {
        if path.is_bare() {
            return;
        }
        self.results.set(path.name(), figure, self.round, measured.cpu() * factor);
        for (proxy, used) in &measured.used {
            for (what, seconds) in [("user", used.user), ("system", used.system)] {
                self.results.set_part(path.name(), &proxy.name, figure, what, self.round, seconds * factor);
            }
        }
    }

    /// System calls, in samples of their own, for counting them costs time. Where `perf` does not count, the figure is left out, with a note.
    ///
    /// # Errors
    /// When a load fails.
    pub async fn count_calls(&mut self, path: Path) -> anyhow::Result<()> {
        let pids: Vec<u32> = self.rig.proxies(path).iter().map(|proxy| proxy.pid).collect();
        if pids.is_empty() {
            return Ok(());
        }
        let seconds = COUNTING.min(self.seconds);
        for figures in REQUESTS {
            let counted = self.counted(path, &pids, Shape::new("requests", figures.connections, seconds)).await?;
            let Some((calls, sample)) = counted else { continue };
            self.results.set(path.name(), figures.calls, self.round, calls.all / sample.all as f64);
        }
        for figures in BULK {
            let counted = self.counted(path, &pids, Shape::new("bulk", figures.streams, seconds)).await?;
            let Some((calls, sample)) = counted else { continue };
            // Each proxy reads each byte once and writes it once.
            let moved = sample.all_bytes as f64 * 2.0 * pids.len() as f64;
            self.results.set(path.name(), figures.bytes_per_call, self.round, moved / 1000.0 / calls.moving);
        }
        if let Some((calls, sample)) = self.counted(path, &pids, Shape::new("connections", SOME, seconds)).await? {
            self.results.set(path.name(), CALLS_CONNECTION, self.round, calls.all / sample.all as f64);
        }
        Ok(())
    }

    /// A load and the system calls of `pids` during it; none, with a note, when they could not be counted however often it was tried.
    ///
    /// # Errors
    /// When the load fails.
    async fn counted(&mut self, path: Path, pids: &[u32], shape: Shape) -> anyhow::Result<Option<(Calls, Sample)>> {
        let mut why = String::new();
        for _ in 0..TRIES {
            let counting = match Counting::begin(pids).await {
                Ok(counting) => counting,
                Err(error) => {
                    why = format!("{error:#}");
                    continue;
                }
            };
            let sample = self.load(path, &shape).await?;
            match counting.end().await {
                Ok(calls) => return Ok(Some((calls, sample))),
                Err(error) => why = format!("{error:#}"),
            }
        }
        let (what, round) = (format!("{} {} {}", path.name(), shape.kind, shape.connections), self.round + 1);
        self.results.notes.push(format!("{what}, round {round}: system calls were not counted in {TRIES} attempts: {why}"));
        Ok(None)
    }
}

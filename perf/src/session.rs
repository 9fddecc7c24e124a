//! What every run has in common: options, the start, rounds in a changing order, and the outputs.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    bench::Bench,
    document::{Document, Machine},
    paths::Path,
    report,
    rig::Rig,
    table,
};

/// Which paths, how often, how long, and where the result goes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How often each figure is measured.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Seconds of each sample.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only these paths, separated by commas; what is not measured is not compared.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub only: Vec<Path>,
    /// Writes every sample here, for `perf compare`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page with plots here; it needs nothing but a browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Writes the tables as Markdown here.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// A sample is taken again when other processes used more than this share of the machine meanwhile; 1 never takes one again.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub noise: f64,
    /// Seconds that the proxies are left alone before their memory without load is looked at; less is for a first look, for then they still hold
    /// what starting took.
    #[arg(long, default_value_t = 12.0, value_name = "SECONDS")]
    pub rest: f64,
    /// The Envoy to compare with; searched in PATH and the Python packages if not given.
    #[arg(long, value_name = "PROGRAM")]
    pub envoy: Option<PathBuf>,
}

/// A run that has begun.
pub struct Session {
    /// What measures.
    pub bench: Bench,
    /// The paths that are measured.
    pub paths: Vec<Path>,
    /// How often.
    pub rounds: usize,
    options: Options,
    machine: Machine,
}

impl Session {
    /// Starts everything that `options` ask for out of `all`, and looks at the memory before the first load.
    ///
    /// # Errors
    /// When a path does not exist, a part does not start, or a file could not be written in the end.
    pub async fn start(options: &Options, all: &[Path], rounds: usize) -> anyhow::Result<Self> {
        if !(options.seconds.is_finite() && (0.1..=600.0).contains(&options.seconds)) {
            bail!("--seconds is from 0.1 to 600, not {}", options.seconds);
        }
        if !(options.rest.is_finite() && (0.0..=600.0).contains(&options.rest)) {
            bail!("--rest is from 0 to 600, not {}", options.rest);
        }
        for file in [&options.json, &options.html, &options.markdown].into_iter().flatten() {
            writable(file)?;
        }
        if let Some(other) = options.only.iter().find(|only| !all.contains(only)) {
            let names: Vec<&str> = all.iter().map(|path| path.name()).collect();
            bail!("{} is not measured by this command; its paths are {}", other.name(), names.join(", "));
        }
        let chosen = |path: &Path| options.only.is_empty() || options.only.contains(path);
        let paths: Vec<Path> = all.iter().copied().filter(chosen).collect();
        let needs_envoy = paths.iter().any(|path| path.needs_envoy());
        let envoy = if needs_envoy { Some(ambit::envoy::locate(options.envoy.as_deref()).await?) } else { None };
        let version = match &envoy {
            Some(envoy) => version(envoy).await,
            None => String::new(),
        };
        progress("starting two nodes");
        let rig = Rig::start(envoy.as_deref(), &paths).await?;
        let mut bench = Bench::new(rig, options.seconds, options.noise);
        bench.rest = Duration::from_secs_f64(options.rest);
        // What starting up has left behind is not what a proxy needs when idle.
        tokio::time::sleep(bench.rest).await;
        for path in &paths {
            bench.idle(*path);
        }
        for path in &paths {
            bench.warm(*path).await?;
        }
        let rounds = options.rounds.map_or(rounds, usize::from);
        Ok(Self { bench, paths, rounds, options: options.clone(), machine: Machine::this(version) })
    }

    /// Has `measure` called for each path in each round, in an order that changes from round to round.
    ///
    /// # Errors
    /// Those of `measure`, with the path.
    pub async fn rounds(
        &mut self,
        what: &str,
        mut measure: impl AsyncFnMut(&mut Bench, Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for round in 0..self.rounds {
            self.bench.round = round;
            for at in order(round, self.paths.len()) {
                let path = self.paths[at];
                progress(&format!("{what}, round {} of {}: {}", round + 1, self.rounds, path.name()));
                measure(&mut self.bench, path).await.with_context(|| format!("measuring {}", path.name()))?;
            }
        }
        self.bench.round = 0;
        Ok(())
    }

    /// The memory of all paths once they have been left alone for a while.
    pub async fn at_rest(&mut self) {
        tokio::time::sleep(self.bench.rest).await;
        for path in self.paths.clone() {
            self.bench.at_rest(path);
        }
    }

    /// Has `parts` measure, then prints and writes what there is: also when one of them fails or a signal ends them, as minutes of
    /// measuring lie behind by then.
    ///
    /// # Errors
    /// That of `parts`; that a signal came; or when a file cannot be written.
    pub async fn run(mut self, parts: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let outcome = unless_told(parts(&mut self)).await;
        if let Err(error) = &outcome {
            self.bench.results.notes.push(format!("not everything was measured: {error:#}"));
        }
        self.finish().await?;
        outcome
    }

    /// Prints and writes the result, and ends everything in order.
    ///
    /// # Errors
    /// When a file cannot be written.
    async fn finish(self) -> anyhow::Result<()> {
        let names: Vec<&str> = self.paths.iter().map(|path| path.name()).collect();
        let Bench { rig, results, seconds, .. } = self.bench;
        let document = Document::new(results, self.machine, &names, &Path::comparisons(), self.rounds, seconds);
        println!("{}", table::render(&document));
        if let Some(file) = &self.options.json {
            document.save(file)?;
        }
        report::write(&document, self.options.html.as_deref(), self.options.markdown.as_deref())?;
        rig.stop().await;
        Ok(())
    }
}

/// The order in which `count` paths are measured in a round: each round begins with the next one, so that none is always the first or the last.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (round + turn) % count)
}

/// What `run` gives, unless a signal comes before: then everything it started ends with it.
///
/// # Errors
/// Those of `run`, and that a signal came.
pub async fn unless_told<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let shutdown = ambit_runtime::signal::shutdown()?;
    tokio::select! {
        done = run => done,
        signal = shutdown => bail!("ended by {signal}"),
    }
}

/// Tells a person what is being done.
pub fn progress(what: &str) {
    eprintln!("{what}");
}

/// A run takes minutes: that its result cannot be written is said before.
fn writable(file: &std::path::Path) -> anyhow::Result<()> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    opened.map(drop).with_context(|| format!("{} cannot be written", file.display()))
}

async fn version(envoy: &std::path::Path) -> String {
    let output = tokio::process::Command::new(envoy).arg("--version").env_clear().envs(path_only()).output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    number(&text).unwrap_or_default().to_owned()
}

/// Reads `/path/to/envoy  version: <commit>/<version>/<state>/<build>/<TLS library>`.
fn number(text: &str) -> Option<&str> {
    text.split_once("version: ")?.1.split('/').nth(1)
}

fn path_only() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name == "PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_measures_all_paths_and_each_path_is_first_in_turn() {
        let rounds: Vec<Vec<usize>> = (0..4).map(|round| order(round, 3).collect()).collect();
        assert_eq!(rounds, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(order(5, 2).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(order(7, 0).count(), 0);
    }

    #[test]
    fn the_version_of_envoy_is_read_wherever_it_lies() {
        assert_eq!(number("/opt/bin/envoy  version: 0a1b/1.40.0/Clean/RELEASE/BoringSSL\n"), Some("1.40.0"));
        assert_eq!(number("no such thing"), None);
    }
}

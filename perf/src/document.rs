//! A run as a file: every sample, where it was taken, and what follows from it.

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{
    figure,
    goals::{self, Outcome},
    results::Results,
    stats::Summary,
};

/// What the first field of a document says.
const FORMAT: &str = "ambit-perf/2";

/// Two paths that carry the same traffic, ours first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The path that is judged.
    pub ours: String,
    /// The path it is held against.
    pub peer: String,
}

impl Comparison {
    /// Ours, then the peer.
    #[must_use]
    pub fn new(ours: &str, peer: &str) -> Self {
        Self { ours: ours.to_owned(), peer: peer.to_owned() }
    }
}

/// Where a run was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// What the processor says it is.
    pub processor: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of the Envoy that was the peer.
    pub envoy: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this(envoy: String) -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: kernel.trim().to_owned(),
            envoy,
        }
    }
}

/// How a figure is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// What a person reads.
    pub title: String,
    /// Whether more of it is better.
    pub more_is_better: bool,
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    /// What the file is, and its version.
    pub format: String,
    /// The command that gave it.
    pub command: String,
    /// When it was finished, in seconds since 1970.
    pub finished: u64,
    /// Where it was made.
    pub machine: Machine,
    /// How often each figure was measured.
    pub rounds: usize,
    /// How long each sample was, in seconds.
    pub seconds: f64,
    /// The paths, in the order of the report.
    pub paths: Vec<String>,
    /// Which paths are compared.
    pub comparisons: Vec<Comparison>,
    /// How each figure is read.
    pub captions: BTreeMap<String, Caption>,
    /// How the goals came out.
    pub goals: Vec<Outcome>,
    /// By comparison (`ours/peer`) and figure: the rounds' ratios summed up.
    pub ratios: BTreeMap<String, BTreeMap<String, Summary>>,
    /// By path and figure: the rounds summed up.
    pub medians: BTreeMap<String, BTreeMap<String, Summary>>,
    /// Everything that was measured.
    pub results: Results,
}

impl Document {
    /// What follows from `results`.
    #[must_use]
    pub fn new(
        results: Results,
        machine: Machine,
        paths: &[&str],
        comparisons: &[Comparison],
        rounds: usize,
        seconds: f64,
    ) -> Self {
        let figures = figure::all();
        let caption = |figure: &figure::Figure| Caption { title: figure.title.to_owned(), more_is_better: figure.more_is_better };
        let ratios = comparisons.iter().map(|Comparison { ours, peer }| {
            let all = figures.iter().filter_map(|figure| Some((figure.key.to_owned(), results.ratio(ours, peer, figure.key)?)));
            (format!("{ours}/{peer}"), all.collect::<BTreeMap<_, _>>())
        });
        let medians = results.samples.iter().map(|(path, figures)| {
            let all = figures.iter().filter_map(|(key, rounds)| Some((key.clone(), Summary::of(rounds)?)));
            (path.clone(), all.collect::<BTreeMap<_, _>>())
        });
        let has = |path: &str| results.samples.contains_key(path);
        let measured = |comparison: &&Comparison| has(&comparison.ours) && has(&comparison.peer);
        Self {
            format: FORMAT.to_owned(),
            command: command(),
            finished: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine,
            rounds,
            seconds,
            paths: paths.iter().map(ToString::to_string).collect(),
            comparisons: comparisons.iter().filter(measured).cloned().collect(),
            captions: figures.iter().map(|figure| (figure.key.to_owned(), caption(figure))).collect(),
            goals: goals::judge(&results),
            ratios: ratios.filter(|(_, figures)| !figures.is_empty()).collect(),
            medians: medians.collect(),
            results,
        }
    }

    /// Reads a document that an earlier run wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is something else.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        match value.get("format").and_then(serde_json::Value::as_str) {
            Some(FORMAT) => serde_json::from_value(value).with_context(|| format!("reading {}", path.display())),
            Some(other) => bail!("{} is of the format {other}; this program reads {FORMAT}", path.display()),
            None => bail!("{} is not a document of this program: write one with `perf node --json FILE`", path.display()),
        }
    }

    /// Writes the document.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// How a figure of the document is read.
    #[must_use]
    pub fn title<'a>(&'a self, key: &'a str) -> &'a str {
        self.captions.get(key).map_or(key, |caption| &caption.title)
    }
}

/// The command line with names of files alone: where they are is nobody's business.
fn command() -> String {
    let words = std::env::args().skip(1).map(|word| word.rsplit_once('/').map_or(word.clone(), |(_, name)| name.to_owned()));
    std::iter::once("perf".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figure::REQUESTS;

    /// A document with these rounds of requests/s at 16 connections for `ztunnel`, and 100 a round for `envoy-tcp`.
    pub fn document(rates: &[f64]) -> Document {
        let mut results = Results::default();
        for (round, rate) in rates.iter().enumerate() {
            results.set("ztunnel", REQUESTS[1].rate, round, *rate);
            results.set("envoy-tcp", REQUESTS[1].rate, round, 100.0);
        }
        let comparisons = [Comparison::new("ztunnel", "envoy-tcp"), Comparison::new("same-node", "no-mesh-local")];
        Document::new(results, Machine::default(), &["ztunnel", "envoy-tcp"], &comparisons, rates.len(), 2.0)
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.json");
        let written = document(&[150.0, 210.0, 230.0]);
        written.save(&path).unwrap();
        let read = Document::load(&path).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&written).unwrap());
        assert_eq!(read.ratios["ztunnel/envoy-tcp"]["requests_16"].median, 2.1);
        assert_eq!(read.comparisons.len(), 1, "what was not measured is not compared");
    }

    #[test]
    fn another_file_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.json");
        for (text, words) in
            [("{}", "perf node --json"), ("no", "is not JSON"), (r#"{"format":"ambit-perf/1"}"#, "of the format")]
        {
            fs::write(&path, text).unwrap();
            let error = Document::load(&path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Document::load(&directory.path().join("none")).unwrap_err().to_string().starts_with("reading"));
    }
}

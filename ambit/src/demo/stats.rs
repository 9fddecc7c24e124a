//! What a program sees of the programs it calls, and how it tells: on a unix socket, or in lines on its standard output.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use crate::error::{Error, Result};

/// Longest latency told apart, in microseconds; longer ones are counted as this.
const MAX_LATENCY_US: u64 = 60_000_000;

/// What a line begins with that has counts.
const LINE: &str = "counts ";

/// Pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// Everything that one program tells: its name, and one entry for each program it calls. All counts only grow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramStats {
    /// Name in answers.
    pub name: String,
    /// Version in answers.
    pub version: String,
    /// Whether its downstreams answered once (or the patience for that ran out), so that counting has begun.
    pub started: bool,
    /// One entry for each program called.
    pub edges: Vec<EdgeStats>,
}

/// One caller's view of one program that it calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeStats {
    /// Host as the caller names it.
    pub host: String,
    /// Port called.
    pub port: u16,
    /// `http` or `grpc`.
    pub protocol: String,
    /// Requests finished, the failed ones included.
    pub requests: u64,
    /// Requests that failed: no connection, no answer, or an answer other than success.
    pub errors: u64,
    /// Successful answers by the version in them.
    pub versions: BTreeMap<String, u64>,
    /// Latency of successful requests: (upper bound in microseconds, count), ascending.
    pub latency_us: Vec<(u64, u64)>,
    /// The newest failure in words.
    pub last_error: Option<String>,
}

impl EdgeStats {
    /// What happened since `earlier`, a snapshot of the same edge; a restarted program (counts went down) starts from zero.
    pub fn since(&self, earlier: &Self) -> Self {
        if self.requests < earlier.requests {
            return self.clone();
        }
        let before: BTreeMap<u64, u64> = earlier.latency_us.iter().copied().collect();
        let latency_us = self.latency_us.iter().filter_map(|(value, count)| {
            let count = count.saturating_sub(before.get(value).copied().unwrap_or(0));
            (count > 0).then_some((*value, count))
        });
        let versions = self.versions.iter().filter_map(|(version, count)| {
            let count = count.saturating_sub(earlier.versions.get(version).copied().unwrap_or(0));
            (count > 0).then(|| (version.clone(), count))
        });
        let errors = self.errors.saturating_sub(earlier.errors);
        Self {
            host: self.host.clone(),
            port: self.port,
            protocol: self.protocol.clone(),
            requests: self.requests - earlier.requests,
            errors,
            versions: versions.collect(),
            latency_us: latency_us.collect(),
            last_error: if errors > 0 { self.last_error.clone() } else { None },
        }
    }

    /// Adds the counts of another pod's view of the same destination.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        for (version, count) in &other.versions {
            *self.versions.entry(version.clone()).or_default() += count;
        }
        let mut latency: BTreeMap<u64, u64> = self.latency_us.iter().copied().collect();
        for (value, count) in &other.latency_us {
            *latency.entry(*value).or_default() += count;
        }
        self.latency_us = latency.into_iter().collect();
        if other.last_error.is_some() {
            self.last_error.clone_from(&other.last_error);
        }
    }

    /// Latency at a quantile (0 to 1) in milliseconds, or nothing if no request succeeded.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.latency_us.iter().map(|(_, count)| count).sum();
        let rank = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (value, count) in &self.latency_us {
            seen += count;
            if seen >= rank {
                return Some(*value as f64 / 1000.0);
            }
        }
        None
    }
}

struct Counters {
    requests: u64,
    errors: u64,
    versions: BTreeMap<String, u64>,
    latency: Option<Histogram<u64>>,
    last_error: Option<String>,
}

/// Counts the requests from this program to one other.
pub struct Edge {
    host: String,
    port: u16,
    protocol: &'static str,
    counters: Mutex<Counters>,
}

impl Edge {
    /// Counts one finished request: the version that answered, or why it failed.
    pub fn record(&self, took: Duration, outcome: std::result::Result<&str, String>) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.requests += 1;
        match outcome {
            Ok(version) => {
                *counters.versions.entry(version.to_owned()).or_default() += 1;
                if let Some(latency) = &mut counters.latency {
                    let micros = u64::try_from(took.as_micros()).unwrap_or(MAX_LATENCY_US);
                    latency.saturating_record(micros.clamp(1, MAX_LATENCY_US));
                }
            }
            Err(error) => {
                counters.errors += 1;
                counters.last_error = Some(error);
            }
        }
    }

    fn snapshot(&self) -> EdgeStats {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = counters.latency.iter().flat_map(Histogram::iter_recorded);
        EdgeStats {
            host: self.host.clone(),
            port: self.port,
            protocol: self.protocol.to_owned(),
            requests: counters.requests,
            errors: counters.errors,
            versions: counters.versions.clone(),
            latency_us: recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect(),
            last_error: counters.last_error.clone(),
        }
    }
}

/// All edges of one program.
pub struct Registry {
    name: String,
    version: String,
    started: AtomicBool,
    edges: Mutex<Vec<Arc<Edge>>>,
}

impl Registry {
    /// An empty registry of the named program.
    pub fn new(name: String, version: String) -> Arc<Self> {
        Arc::new(Self { name, version, started: AtomicBool::new(false), edges: Mutex::default() })
    }

    /// Adds an edge to the program at `host:port`.
    pub fn edge(&self, host: &str, port: u16, protocol: &'static str) -> Arc<Edge> {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY_US, 2).ok();
        let counters = Counters { requests: 0, errors: 0, versions: BTreeMap::new(), latency, last_error: None };
        let edge = Arc::new(Edge { host: host.to_owned(), port, protocol, counters: Mutex::new(counters) });
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).push(edge.clone());
        edge
    }

    /// Says that counting has begun.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// All counts now.
    pub fn snapshot(&self) -> ProgramStats {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        ProgramStats {
            name: self.name.clone(),
            version: self.version.clone(),
            started: self.started.load(Ordering::Acquire),
            edges: edges.iter().map(|edge| edge.snapshot()).collect(),
        }
    }

    /// Prints the counts each second if they are other than before; runs until dropped. For where nobody can connect, as in a
    /// container, whose output anybody can read who may see its log.
    ///
    /// # Errors
    /// If nothing can be written any more.
    pub async fn print(self: Arc<Self>) -> Result<()> {
        let mut told = None;
        loop {
            let now = self.snapshot();
            if told.as_ref() != Some(&now) {
                let line = line(&now);
                // Whoever does not read them holds up nothing but them.
                let written = tokio::task::spawn_blocking(move || std::io::stdout().write_all(line.as_bytes())).await;
                let written = written.map_err(std::io::Error::other).flatten();
                written.map_err(|cause| Error::io("printing the counts", cause))?;
                told = Some(now);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes the counts as JSON to whoever connects to the unix socket at `path`; runs until dropped.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub async fn serve(self: Arc<Self>, path: PathBuf) -> Result<()> {
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(Error::path("removing", &path, cause)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(|cause| Error::path("listening on", &path, cause))?;
        loop {
            let (mut stream, _) = listener.accept().await.map_err(|cause| Error::path("accepting on", &path, cause))?;
            let text = serde_json::to_vec(&self.snapshot()).unwrap_or_default();
            let _gone = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&text)).await;
        }
    }
}

fn line(stats: &ProgramStats) -> String {
    format!("{LINE}{}\n", serde_json::to_string(stats).unwrap_or_default())
}

/// Whether [`Registry::print`] may have printed this line.
pub fn is_line(line: &str) -> bool {
    line.starts_with(LINE)
}

/// The counts in a line that [`Registry::print`] has printed; nothing if it is another line.
pub fn of_line(line: &str) -> Option<ProgramStats> {
    serde_json::from_str(line.strip_prefix(LINE)?.trim_end()).ok()
}

/// Reads what the program behind the socket at `path` tells.
///
/// # Errors
/// If the program does not answer within a second, or not with its counts.
pub async fn read(path: &Path) -> Result<ProgramStats> {
    use tokio::io::AsyncReadExt;
    let ask = async {
        let mut stream = tokio::net::UnixStream::connect(path).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let text = tokio::time::timeout(Duration::from_secs(1), ask).await.map_err(late).flatten();
    let text = text.map_err(|cause| Error::path("asking", path, cause))?;
    serde_json::from_slice(&text).map_err(|cause| Error::path("asking", path, cause.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_snapshots_is_what_happened_between() {
        let registry = Registry::new("api".into(), "v1".into());
        let edge = registry.edge("billing", 8080, "http");
        edge.record(Duration::from_millis(50), Ok("v1"));
        let before = registry.snapshot().edges.remove(0);
        edge.record(Duration::from_millis(2), Ok("v2"));
        edge.record(Duration::from_millis(2), Err("refused".into()));
        let window = registry.snapshot().edges.remove(0).since(&before);
        assert_eq!((window.requests, window.errors), (2, 1));
        assert_eq!(window.versions, BTreeMap::from([("v2".to_owned(), 1)]));
        assert_eq!(window.last_error.as_deref(), Some("refused"));
        let p99 = window.quantile_ms(0.99).unwrap();
        assert!((1.9..2.2).contains(&p99), "{p99}");
        assert_eq!(before.since(&before).quantile_ms(0.5), None);
    }

    #[test]
    fn a_restarted_program_counts_from_zero() {
        let old = EdgeStats { requests: 100, errors: 9, ..EdgeStats::default() };
        let new = EdgeStats { requests: 3, errors: 1, ..EdgeStats::default() };
        assert_eq!((new.since(&old).requests, new.since(&old).errors), (3, 1));
    }

    #[test]
    fn the_counts_are_read_back_from_a_line() {
        let registry = Registry::new("api".into(), "v1".into());
        registry.edge("billing", 8080, "http").record(Duration::from_millis(1), Ok("v1"));
        let told = registry.snapshot();
        assert_eq!(of_line(&line(&told)), Some(told));
        for other in ["counts", "counts {", "{\"name\": \"api\"}", ""] {
            assert_eq!(of_line(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_counts_are_read_back_over_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.sock");
        let registry = Registry::new("api".into(), "v1".into());
        registry.edge("billing", 8080, "http").record(Duration::from_millis(1), Ok("v1"));
        registry.set_started();
        let server = tokio::spawn(registry.serve(path.clone()));
        let stats = loop {
            match read(&path).await {
                Ok(stats) => break stats,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(stats.started);
        assert_eq!(stats.edges[0].requests, 1);
        server.abort();
    }
}

//! The load: a generator on one thread, cheap enough that the path is what it measures.

mod arrivals;
mod bulk;
mod connections;
mod http;
mod idle;
mod tally;
mod timer;

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::process;

/// Seconds of load before measuring starts, unless told otherwise or for shorter samples.
const WARM_UP: f64 = 0.5;

/// What one sample of load saw. Figures that the kind of load does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// Requests answered, or connections opened and closed.
    pub count: u64,
    /// Requests or connections that failed.
    pub errors: u64,
    /// Requests answered or connections opened and closed in all, those before measuring included.
    #[serde(default)]
    pub all: u64,
    /// Payload bytes received in all.
    #[serde(default)]
    pub all_bytes: u64,
    /// CPU-seconds of the load itself, warm-up included.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Payload bytes received.
    pub bytes: u64,
    /// Median latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// The distribution of the latency: shares of the requests, and the milliseconds within which they were answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<[f64; 2]>,
}

/// One kind of load.
#[derive(Debug, Clone, Subcommand)]
pub enum Kind {
    /// Requests one after another on each of some connections.
    Requests(Load),
    /// Requests at a fixed rate, whatever the answers take; latency counts from when a request was due.
    Paced {
        /// Requests per second over all connections.
        #[arg(long, default_value_t = 2000)]
        rate: u64,
        /// Where to, how wide and how long.
        #[command(flatten)]
        load: Load,
    },
    /// Bodies without end.
    Bulk(Load),
    /// Bodies without end for others to live beside, at full speed or at a fixed rate.
    Elephant {
        /// Gbit/s of each stream; as fast as it goes if not given.
        #[arg(long)]
        gbits: Option<f64>,
        /// Where to, how wide and how long.
        #[command(flatten)]
        load: Load,
    },
    /// A new connection for each request.
    Connections(Load),
    /// New connections at a fixed rate, one request on each, whatever the answers take.
    Arrivals {
        /// New connections per second.
        #[arg(long, default_value_t = 20)]
        rate: u64,
        /// Where to and how long; `connections` is how many may be open at once, more count as errors.
        #[command(flatten)]
        load: Load,
    },
    /// Opens connections, answers one request on each, and holds them until its standard input ends.
    Idle(Load),
}

/// Where the load goes, how wide and how long.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Address and port of the server; given more than once, the connections take turns.
    #[arg(long, required = true)]
    pub to: Vec<SocketAddr>,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Seconds before measuring starts; if not given as many as are measured, at most half a second.
    #[arg(long)]
    pub warmup: Option<f64>,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

impl Load {
    fn target(&self, connection: usize) -> SocketAddr {
        self.to[connection % self.to.len()]
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup.unwrap_or(self.seconds.min(WARM_UP)))
    }

    fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Runs one sample of load.
///
/// # Errors
/// When not one connection could be made.
pub async fn run(kind: &Kind) -> anyhow::Result<Sample> {
    let mut sample = match kind {
        Kind::Requests(load) => http::closed_loop(load).await,
        Kind::Paced { rate, load } => http::open_loop(load, *rate).await,
        Kind::Bulk(load) => bulk::run(load, None).await,
        Kind::Elephant { gbits, load } => bulk::run(load, *gbits).await,
        Kind::Connections(load) => connections::run(load).await,
        Kind::Arrivals { rate, load } => arrivals::run(load, *rate).await,
        Kind::Idle(load) => idle::run(load).await,
    }?;
    sample.cpu_seconds = process::cpu(std::process::id())?.iter().sum();
    Ok(sample)
}

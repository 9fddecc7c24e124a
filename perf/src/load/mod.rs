//! The load: a generator on one thread, cheap enough that the path is what it measures.

mod bulk;
mod connections;
mod http;
mod idle;
mod timer;

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::process;

/// What one sample of load saw. Figures that the kind of load does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// Requests answered, or connections opened and closed.
    pub count: u64,
    /// Requests or connections that failed.
    pub errors: u64,
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
    /// A new connection for each request.
    Connections(Load),
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
    /// Seconds before measuring starts.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

impl Load {
    fn target(&self, connection: usize) -> SocketAddr {
        self.to[connection % self.to.len()]
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
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
        Kind::Bulk(load) => bulk::run(load).await,
        Kind::Connections(load) => connections::run(load).await,
        Kind::Idle(load) => idle::run(load).await,
    }?;
    sample.cpu_seconds = process::cpu(std::process::id())?.total();
    Ok(sample)
}

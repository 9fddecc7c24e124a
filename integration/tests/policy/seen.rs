//! What is seen from outside: connections that pass or are reset, metrics, conditions.

use std::{io::ErrorKind, time::Duration};

use ambit_integration::{client::Client, suite::Suite, wait};
use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How soon a policy must be in force, and how soon it must be gone.
const SOON: Duration = Duration::from_secs(1);

/// What became of a connection and its first bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The bytes came back.
    Passed,
    /// The connection was reset.
    Reset,
}

/// Connects, sends a few bytes and waits for them to come back.
pub async fn fate(client: &Client) -> anyhow::Result<Fate> {
    let exchange = async {
        let mut stream = match client.connect().await {
            Ok(stream) => stream,
            Err(error) => return reset(error.downcast()?),
        };
        match echoed(&mut stream, b"hello").await {
            Ok(()) => Ok(Fate::Passed),
            Err(error) => reset(error),
        }
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.context("neither bytes nor an end")?
}

fn reset(error: std::io::Error) -> anyhow::Result<Fate> {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused | ErrorKind::BrokenPipe => Ok(Fate::Reset),
        _ => bail!("{error:?} is no reset"),
    }
}

/// Sends `bytes` and reads them back.
pub async fn echoed(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await?;
    if back == bytes { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Waits until each of `clients` sees this, and says how long the last took. From then on it must stay so.
pub async fn soon(clients: &[&Client], wanted: Fate) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    for client in clients {
        let ask = async || match fate(client).await {
            Ok(fate) if fate == wanted => Ok(()),
            other => Err(format!("{client:?}: {other:?}")),
        };
        let (_, took) = wait::until(&format!("{wanted:?}"), Duration::from_secs(5), ask).await?;
        longest = longest.max(took);
    }
    ensure!(longest < SOON, "{wanted:?} only after {longest:?}");
    for client in clients {
        let fate = fate(client).await?;
        ensure!(fate == wanted, "{client:?}: {fate:?} again");
    }
    Ok(longest)
}

/// All series of a metric of a proxy that have these labels.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    pub proxy: &'a str,
    pub metric: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
}

impl Series<'_> {
    /// Their sum.
    async fn sum(&self, suite: &Suite) -> anyhow::Result<u64> {
        let text = suite.mesh.metrics(self.proxy).await?;
        let wanted: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = text.lines().filter_map(|line| line.strip_prefix(self.metric)?.strip_prefix('{')?.rsplit_once("} "));
        let chosen = series.filter(|(labels, _)| wanted.iter().all(|wanted| labels.contains(wanted.as_str())));
        chosen.map(|(_, value)| Ok(value.trim().parse::<f64>()? as u64)).sum()
    }
}

/// The sums once they stand still: the record of a connection is written a moment after its client has seen the end.
async fn standing(suite: &Suite, all: &[Series<'_>]) -> anyhow::Result<Vec<u64>> {
    const STILL: u32 = 5;
    let mut held = (Vec::new(), 0);
    loop {
        let mut now = Vec::new();
        for series in all {
            now.push(series.sum(suite).await?);
        }
        held = if now == held.0 { (now, held.1 + 1) } else { (now, 0) };
        if held.1 == STILL {
            return Ok(held.0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs `action` and checks that each sum rises by exactly `by`, a moment later at most.
pub async fn counted(
    suite: &Suite,
    all: &[Series<'_>],
    by: u64,
    action: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before = standing(suite, all).await?;
    action().await?;
    for (series, before) in all.iter().zip(before) {
        let ask = async || match series.sum(suite).await {
            Ok(now) if now == before + by => Ok(()),
            other => Err(format!("{before} became {other:?}")),
        };
        wait::until(&format!("{series:?} rises by {by}"), Duration::from_secs(3), ask).await?;
    }
    Ok(())
}

/// Waits until the control plane's status page has a condition of `object` (`Kind namespace/name`) that says this.
pub async fn explained(suite: &Suite, object: &str, reason: &str, message: &str) -> anyhow::Result<()> {
    let ask = async || {
        let page = suite.mesh.status().await.map_err(|error| error.to_string())?;
        let entry = page.as_array().into_iter().flatten().find(|entry| entry["object"] == object);
        let conditions = entry.and_then(|entry| entry["conditions"].as_array()).cloned().unwrap_or_default();
        let says = |condition: &serde_json::Value| {
            condition["reason"] == reason && condition["message"].as_str().is_some_and(|text| text.contains(message))
        };
        if conditions.iter().any(says) { Ok(()) } else { Err(format!("it says {conditions:?}")) }
    };
    wait::until(&format!("status of {object}"), Duration::from_secs(3), ask).await.map(drop)
}

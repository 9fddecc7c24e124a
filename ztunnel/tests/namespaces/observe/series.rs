//! The limit of metric series.

use std::{
    ffi::OsString,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::get;
use crate::mesh::{Mesh, PATIENCE, call, echo};

/// The number in the metrics under a name and these parts of labels.
pub fn number(metrics: &str, name: &str, parts: &[&str]) -> Option<u64> {
    let has = |line: &&str| line.starts_with(name) && parts.iter().all(|part| line.contains(part));
    metrics.lines().find(has)?.rsplit_once(' ')?.1.parse().ok()
}

/// Two sets of labels have room; one of them is that of an open connection.
pub async fn leave() -> anyhow::Result<()> {
    let mesh =
        Mesh::start_adding(|_, _| ["--max-metric-series", "2", "--metric-series-idle-seconds", "1"].map(OsString::from).to_vec())
            .await?;
    let client = mesh.pod(0, "web").await?;
    let mut servers = Vec::new();
    for name in ["api", "one", "two"] {
        let pod = mesh.pod(1, name).await?;
        servers.push((name, SocketAddr::new(pod.ip(), 8080), echo(&pod, 8080)?, pod));
    }
    let opened = |metrics: &str, name: &str| {
        number(metrics, "istio_tcp_connections_opened_total{", &[&format!("destination_workload=\"{name}\"")])
    };
    // Calls until the call is counted under the server's own name.
    let counted = async |(name, to): (&str, SocketAddr)| {
        let until = Instant::now() + 3 * PATIENCE;
        loop {
            let _either_way = call(&client, to, b"hello").await;
            let metrics = get(&mesh, 0, 15020, "/metrics").await?;
            if opened(&metrics, name).is_some() {
                return anyhow::Ok(metrics);
            }
            ensure!(Instant::now() < until, "{name} is not counted: {metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let [api, one, two] = [0, 1, 2].map(|number| (servers[number].0, servers[number].1));
    counted(api).await?;
    let mut stream = client.connect(api.1).await?;
    stream.write_all(b"hello").await?;
    stream.read_exact(&mut vec![0; format!("{}\nhello", client.ip()).len()]).await?;
    let before = opened(&get(&mesh, 0, 15020, "/metrics").await?, "api");
    for (newcomer, left) in [(one, None), (two, Some("one")), (one, Some("two"))] {
        let metrics = counted(newcomer).await?;
        ensure!(opened(&metrics, "api") == before, "{metrics}");
        ensure!(left.is_none_or(|left| opened(&metrics, left).is_none()), "{metrics}");
    }
    let metrics = get(&mesh, 0, 15020, "/metrics").await?;
    ensure!(number(&metrics, "ambit_metric_series_evicted_total ", &[]).is_some_and(|left| left >= 2), "{metrics}");
    drop(stream);
    mesh.bed.shutdown().await;
    Ok(())
}

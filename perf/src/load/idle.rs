//! Connections that are open and do nothing: what they cost in memory.

use anyhow::bail;

use super::{Load, Sample, http::Client};

/// Opens the connections, answers one request on each, says so on a line, and holds them until standard input ends.
pub(super) async fn run(load: &Load) -> anyhow::Result<Sample> {
    let mut held = Vec::with_capacity(load.connections);
    let mut errors = 0;
    for connection in 0..load.connections {
        let opened = async {
            let mut client = Client::open(load.target(connection)).await?;
            client.exchange().await?;
            std::io::Result::Ok(client.into_stream())
        };
        match opened.await {
            Ok(stream) => held.push(stream),
            Err(_) => errors += 1,
        }
    }
    if held.is_empty() {
        bail!("no connection was made ({errors} errors)");
    }
    println!("holding {}", held.len());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(Sample { count: held.len() as u64, errors, ..Sample::default() })
}

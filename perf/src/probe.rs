//! Questions to a node proxy's own pages, from inside its node.

use std::{net::SocketAddr, time::Duration};

use ambit_testbed::Node;
use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::Rig;

/// Port of the proxies' readiness (wire contract, section 1).
pub const READY: u16 = 15021;

/// Port of the proxies' admin pages, on loopback.
const ADMIN: u16 = 15000;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node of the rig.
///
/// # Errors
/// When there is none of the name.
pub fn node(rig: &Rig, name: &str) -> anyhow::Result<Node> {
    rig.mesh().bed().nodes().into_iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
}

/// `GET path` on the node's loopback: the body of a 200.
///
/// # Errors
/// When nothing answers, or something else.
pub async fn get(node: &Node, port: u16, path: &str) -> anyhow::Result<String> {
    let ask = async {
        let mut stream = node.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await.with_context(|| format!("{path} is not answered"))??;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no head")?;
    if head.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("{path} is answered with {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// How many entries a list of the node proxy's `/config_dump` has: `workloads`, `services`, `policies`, `certificates`.
///
/// # Errors
/// When the proxy does not answer.
pub async fn count(rig: &Rig, node_name: &str, list: &str) -> anyhow::Result<usize> {
    let dump: Value = serde_json::from_str(&get(&node(rig, node_name)?, ADMIN, "/config_dump").await?)?;
    dump.get(list).and_then(Value::as_array).map(Vec::len).with_context(|| format!("the proxy tells of no {list}"))
}

/// Waits until a list of both node proxies has grown or shrunk as `enough` says.
///
/// # Errors
/// When that takes too long.
pub async fn wait_count(rig: &Rig, list: &str, enough: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    for node in ["node-1", "node-2"] {
        loop {
            let count = count(rig, node, list).await;
            match count {
                Ok(count) if enough(count) => break,
                _ if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(300)).await,
                Ok(count) => bail!("{node} has {count} {list} after two minutes, not what was asked for"),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

//! What node proxies keep on their nodes: the state that a new one begins with, of which nothing is left when the mesh goes.

use std::fs;
use std::path::Path;

use ambit_integration::wait;
use anyhow::ensure;

use crate::user::{PATIENCE, PAUSE, User};

/// The directory on a node, as the chart has it.
const ON_NODE: &str = "var/lib/ambit/ztunnel";

/// What the proxy makes in it.
const STATE: &str = "state";

impl User<'_> {
    /// Waits until the proxy of every node keeps something.
    pub async fn until_kept_on_every_node(&self) -> anyhow::Result<()> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let kept = on_nodes().map_err(|error| error.to_string())?;
            let all = kept.len() == 2 && kept.iter().all(|names| names.iter().any(|name| name == STATE));
            if all { Ok(()) } else { Err(format!("{kept:?}")) }
        };
        wait::until("a state on every node", PATIENCE, look).await?;
        Ok(())
    }

    /// The CNI installer has removed what the proxies kept.
    pub fn nothing_kept_on_any_node(&self) -> anyhow::Result<()> {
        let kept = on_nodes()?;
        ensure!(kept.len() == 2 && kept.iter().all(Vec::is_empty), "left on the nodes: {kept:?}");
        Ok(())
    }
}

/// The names in the directory on each node, as its kubelet sees it.
fn on_nodes() -> std::io::Result<Vec<Vec<String>>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        if Path::new(&*String::from_utf8_lossy(program)).file_name().is_none_or(|name| name != "kubelet") {
            continue;
        }
        let there = fs::read_dir(process.join("root").join(ON_NODE))?;
        let names: std::io::Result<Vec<_>> = there.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
        nodes.push(names?);
    }
    Ok(nodes)
}

//! The programs of the pods that come first start together, once every node proxy sends to all enrolled ones through tunnels. What a
//! program opened before would go in clear to pods that are not known as captured yet, and stay so for as long as it is kept.

use std::sync::Arc;
use std::time::Duration;

use ambit_testbed::Bed;
use serde_json::Value;
use tokio::sync::watch;

use super::programs::ADMIN;
use super::topology::Topology;
use super::{probe, settled};

/// The longest that programs wait for it: what is wrong then is told where readiness is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// Returns when the first programs may start.
pub(super) async fn all_tunnelled(bed: Arc<Bed>, topology: watch::Receiver<Arc<Topology>>) {
    let look = async {
        loop {
            let topology = topology.borrow().clone();
            if !topology.pods.is_empty() && are_tunnelled(&bed, &topology).await {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let _either_way = tokio::time::timeout(PATIENCE, look).await;
}

async fn are_tunnelled(bed: &Bed, topology: &Topology) -> bool {
    for node in bed.nodes().into_iter().filter(|node| topology.nodes.iter().any(|name| name == node.name())) {
        let dump = probe::get(node.netns(), ADMIN, "/config_dump").await;
        let dump: Option<Value> = dump.ok().and_then(|(_, body)| serde_json::from_str(&body).ok());
        if dump.is_none_or(|dump| settled::untunnelled_at_ztunnel(&dump, topology)) {
            return false;
        }
    }
    true
}

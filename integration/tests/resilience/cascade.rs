//! Services that ask one another, each through a waypoint that sends failed requests again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::join_all;

use crate::client::Channel;
use crate::mesh::Mesh;
use crate::objects::B;

/// The pause between two of them.
const PACE: Duration = Duration::from_millis(4);
/// The layers that retry, and how often a second each does in any case.
const LAYERS: f64 = 3.0;
const A_SECOND: f64 = 10.0;

/// How many came to the last service for each that was asked of the first one, however it fails; and that what fails seldom is mended.
pub async fn three_layers(mesh: &Mesh) -> anyhow::Result<()> {
    for (percent, offered, fine_at_least) in [(2, 400, 395), (50, 1000, 0), (100, 1000, 0)] {
        mesh.last.fail(percent);
        let (before, began) = (mesh.last.came(), Instant::now());
        let fine = ask(mesh, offered).await;
        let came = mesh.last.came() - before;
        let ratio = came as f64 / f64::from(offered);
        // Retries that come along by themselves are more where the machine takes longer than the pace.
        let late = began.elapsed().saturating_sub(PACE * offered);
        let most = 1.2 + LAYERS * A_SECOND * late.as_secs_f64() / f64::from(offered);
        println!(
            "of {offered} requests with {percent} % of tries failing {fine} went well, and {ratio:.3} times as many came to the last service"
        );
        ensure!(ratio >= 1.0, "with {percent} % failing only {came} of {offered} came to the last service");
        ensure!(ratio <= most, "with {percent} % failing {ratio:.3} times as many came to the last service");
        ensure!(fine >= fine_at_least, "with {percent} % failing {fine} of {offered} went well");
    }
    mesh.last.fail(0);
    let fine = ask(mesh, 100).await;
    ensure!(fine == 100, "once all is well {fine} of 100 went well");
    Ok(())
}

/// Asks at an even pace, whatever becomes of it, and says how many went well.
async fn ask(mesh: &Mesh, count: u32) -> u32 {
    let channel = Arc::new(Channel::new(B));
    let mut pace = tokio::time::interval(PACE);
    let mut asked = Vec::new();
    for _ in 0..count {
        pace.tick().await;
        let (caller, channel) = (Arc::clone(&mesh.caller), Arc::clone(&channel));
        asked.push(tokio::spawn(async move { channel.get(&caller, "/", "").await.is_ok_and(|(status, _)| status == 200) }));
    }
    let ended = join_all(asked).await;
    ended.into_iter().map(|fine| u32::from(fine.unwrap_or(false))).sum()
}

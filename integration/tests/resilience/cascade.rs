//! Services that ask one another, each through a waypoint that sends failed requests again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::join_all;

use crate::backend::How;
use crate::client::Channel;
use crate::mesh::Mesh;
use crate::objects::{B, HURRIED};

/// The pause between two of them, where each layer may send ten a second again in any case: from 250 requests a second on (docs/waypoints.md).
const PACE: Duration = Duration::from_millis(4);
/// And where that is a share of those that come: 50 a second.
const SLOW_PACE: Duration = Duration::from_millis(20);
/// So many come before it is counted: until then a layer may take the pace for the one before, and has what it has saved.
const BEFORE: u32 = 125;
/// Of what is asked of the first service no more may come to the last one.
const MOST: f64 = 1.2;
/// Where it took longer than the pace by more than this part, there were fewer a second, and each layer had longer to retry.
const LATE: f64 = 0.05;
/// So often is asked again where that happened.
const TIMES: usize = 3;

/// How many came to the last service for each that was asked of the first one, however it fails; and that what fails seldom is mended.
pub async fn three_layers(mesh: &Mesh) -> anyhow::Result<()> {
    for (percent, offered, fine_at_least) in [(2, 400, 395), (50, 1000, 0), (100, 1000, 0)] {
        mesh.last.fail(percent);
        for time in 1..=TIMES {
            let (ratio, fine, late) = asked(mesh, offered).await;
            println!(
                "of {offered} requests with {percent} % of tries failing {fine} went well, and {ratio:.3} times as many came to the last service; \
                 they took {:.1} % longer than the pace",
                late * 100.0
            );
            ensure!(ratio >= 1.0, "with {percent} % failing {ratio:.3} times as many came to the last service");
            ensure!(fine >= fine_at_least, "with {percent} % failing {fine} of {offered} went well");
            if ratio <= MOST {
                break;
            }
            ensure!(late > LATE, "with {percent} % failing {ratio:.3} times as many came to the last service");
            ensure!(
                time < TIMES,
                "this machine is too slow to ask for {} a second through three layers",
                PACE.as_secs_f64().recip()
            );
        }
    }
    mesh.last.fail(0);
    let fine = ask(mesh, 100).await;
    ensure!(fine == 100, "once all is well {fine} of 100 went well");
    Ok(())
}

/// The same of fewer requests, of which all fail, in whatever way.
pub async fn at_a_low_pace(mesh: &Mesh) -> anyhow::Result<()> {
    const OFFERED: u32 = 250;
    for (how, path) in [(How::Status, "/"), (How::Resets, "/"), (How::Late, HURRIED)] {
        mesh.last.fail_by(100, how);
        let (fine, before) = ask_at(mesh, SLOW_PACE, BEFORE + OFFERED, path).await;
        let ratio = (mesh.last.came() - before) as f64 / f64::from(OFFERED);
        println!("of {OFFERED} requests, 50 a second, {ratio:.3} times as many came to a last service that fails by {how:?}");
        ensure!(fine == 0, "{fine} went well, though the last service fails by {how:?}");
        ensure!((1.0..=MOST).contains(&ratio), "{ratio:.3} times as many came to a last service that fails by {how:?}");
    }
    mesh.last.fail_by(0, How::Status);
    let fine = ask(mesh, 100).await;
    ensure!(fine == 100, "once all is well {fine} of 100 went well");
    Ok(())
}

/// Asks, and says how many times as many came to the last service, how many went well, and by which part it took longer than the pace.
async fn asked(mesh: &Mesh, offered: u32) -> (f64, u32, f64) {
    let (before, began) = (mesh.last.came(), Instant::now());
    let fine = ask(mesh, offered).await;
    let ratio = (mesh.last.came() - before) as f64 / f64::from(offered);
    let late = began.elapsed().as_secs_f64() / (PACE * offered).as_secs_f64() - 1.0;
    (ratio, fine, late)
}

/// Asks at an even pace, whatever becomes of it, and says how many went well.
async fn ask(mesh: &Mesh, count: u32) -> u32 {
    ask_at(mesh, PACE, count, "/").await.0
}

/// The same at another pace, and how many had come to the last service when [`BEFORE`] were asked.
async fn ask_at(mesh: &Mesh, pause: Duration, count: u32, path: &'static str) -> (u32, u64) {
    let channel = Arc::new(Channel::new(B));
    let mut pace = tokio::time::interval(pause);
    let mut asked = Vec::new();
    let mut before = 0;
    for number in 0..count {
        pace.tick().await;
        if number == BEFORE {
            before = mesh.last.came();
        }
        let (caller, channel) = (Arc::clone(&mesh.caller), Arc::clone(&channel));
        asked.push(tokio::spawn(async move { channel.get(&caller, path, "").await.is_ok_and(|(status, _)| status == 200) }));
    }
    let ended = join_all(asked).await;
    (ended.into_iter().map(|fine| u32::from(fine.unwrap_or(false))).sum(), before)
}

//! Services that ask one another, each through a waypoint that sends failed requests again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::join_all;

use crate::backend::How;
use crate::client::Channel;
use crate::mesh::Mesh;
use crate::objects::{B, HURRIED};

/// The pause between two of them: what is said of three layers holds from 250 requests a second on (docs/waypoints.md).
const PACE: Duration = Duration::from_millis(4);
/// So many come before it is counted: until then a layer has what it has saved.
const BEFORE: u32 = 375;
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

/// The same where all fail, by no answer or one that is late.
pub async fn without_an_answer(mesh: &Mesh) -> anyhow::Result<()> {
    const OFFERED: u32 = 1000;
    for (how, path) in [(How::Resets, "/"), (How::Late, HURRIED)] {
        mesh.last.fail_by(100, how);
        for time in 1..=TIMES {
            let began = Instant::now();
            let (fine, before) = ask_after(mesh, BEFORE + OFFERED, path).await;
            let late = lateness(began, PACE * (BEFORE + OFFERED));
            let ratio = (mesh.last.came() - before) as f64 / f64::from(OFFERED);
            println!("of {OFFERED} requests {ratio:.3} times as many came to a last service that fails by {how:?}");
            ensure!(fine == 0, "{fine} went well, though the last service fails by {how:?}");
            ensure!(ratio >= 1.0, "{ratio:.3} times as many came to a last service that fails by {how:?}");
            if ratio <= MOST {
                break;
            }
            ensure!(late > LATE && time < TIMES, "{ratio:.3} times as many came to a last service that fails by {how:?}");
        }
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
    (ratio, fine, lateness(began, PACE * offered))
}

/// By which part of the time that it was to take something took longer.
fn lateness(began: Instant, planned: Duration) -> f64 {
    began.elapsed().as_secs_f64() / planned.as_secs_f64() - 1.0
}

/// Asks at an even pace, whatever becomes of it, and says how many went well.
async fn ask(mesh: &Mesh, count: u32) -> u32 {
    ask_after(mesh, count, "/").await.0
}

/// The same, and how many had come to the last service when [`BEFORE`] were asked.
async fn ask_after(mesh: &Mesh, count: u32, path: &'static str) -> (u32, u64) {
    let channel = Arc::new(Channel::new(B));
    let mut pace = tokio::time::interval(PACE);
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

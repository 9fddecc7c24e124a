//! New connections at a fixed rate: each is opened when it is due, whatever became of those before it.

use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::{Load, Sample, http::Client, tally::Tally, timer::Timer};

/// How long one connection may take from when it was due until its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens `rate` connections a second, with one request on each. Latency counts from when a connection was due.
pub(super) async fn run(load: &Load, rate: u64) -> anyhow::Result<Sample> {
    let tally = Tally::new(load)?;
    let interval = Duration::from_secs_f64(1.0 / rate as f64);
    let until = tally.borrow().until;
    let tasks = LocalSet::new();
    let (timer, writer, load) = (Timer::new()?, tally.clone(), load.clone());
    let arriving = async move {
        let open = std::rc::Rc::new(std::cell::Cell::new(0_usize));
        // A random beginning, so that many of these do not come at the same moment.
        let mut due = Instant::now() + interval.mul_f64(f64::from(std::process::id() % 97) / 97.0);
        for number in 0.. {
            if due >= until || timer.wait_until(due).await.is_err() {
                break;
            }
            let (tally, open, target, began) = (writer.clone(), open.clone(), load.target(number), due);
            due += interval;
            if open.get() >= load.connections {
                tally.borrow_mut().failed();
                continue;
            }
            open.set(open.get() + 1);
            tokio::task::spawn_local(async move {
                let once = async { Client::open(target).await?.exchange().await };
                match tokio::time::timeout(PATIENCE, once).await {
                    Ok(Ok(())) => tally.borrow_mut().record(began, Instant::now()),
                    _ => tally.borrow_mut().failed(),
                }
                open.set(open.get() - 1);
            });
        }
    };
    tasks.spawn_local(arriving);
    tasks.await;
    let tally = tally.borrow();
    tally.sample()
}

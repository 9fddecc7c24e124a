//! New connections: open, one request and its answer, close.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::task::LocalSet;

use super::{Load, Sample, http::Client};

/// Opens and closes real connections, `load.connections` at once.
pub(super) async fn run(load: &Load) -> anyhow::Result<Sample> {
    let from = Instant::now() + load.warmup();
    let until = from + load.measured();
    let (count, errors) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let tasks = LocalSet::new();
    for worker in 0..load.connections {
        let (count, errors, load) = (count.clone(), errors.clone(), load.clone());
        tasks.spawn_local(async move {
            let mut next = worker;
            while Instant::now() < until {
                let target = load.target(next);
                next += 1;
                let once = async { Client::open(target).await?.exchange().await };
                let result = tokio::time::timeout(Duration::from_secs(5), once).await;
                if Instant::now() < from {
                    continue;
                }
                match result {
                    Ok(Ok(())) => count.set(count.get() + 1),
                    _ => {
                        errors.set(errors.get() + 1);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    tasks.await;
    if count.get() == 0 {
        bail!("no connection was made ({} errors)", errors.get());
    }
    Ok(Sample { seconds: load.seconds, count: count.get(), errors: errors.get(), ..Sample::default() })
}

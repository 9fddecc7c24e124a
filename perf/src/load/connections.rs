//! New connections: open a TCP connection, send one request, read all of its answer of 1 KB, close. The client closes first, and
//! opens the next as soon as the last is closed; every connection is one of its own through every proxy of the path.

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
    let (count, all, errors) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let tasks = LocalSet::new();
    for worker in 0..load.connections {
        let (count, all, errors, load) = (count.clone(), all.clone(), errors.clone(), load.clone());
        tasks.spawn_local(async move {
            let mut next = worker;
            while Instant::now() < until {
                let target = load.target(next);
                next += 1;
                let once = async { Client::open(target).await?.exchange().await };
                let result = tokio::time::timeout(Duration::from_secs(5), once).await;
                all.set(all.get() + u64::from(matches!(result, Ok(Ok(())))));
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
    Ok(Sample { seconds: load.seconds, count: count.get(), all: all.get(), errors: errors.get(), ..Sample::default() })
}

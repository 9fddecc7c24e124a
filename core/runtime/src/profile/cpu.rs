//! Where processor time goes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::encode::{Kind, Profile};
use super::modules::Modules;
use super::unwind::Unwinder;
use super::{aside, duration, refused};
use crate::admin::{Query, Reply};
use crate::sys::Sampler;

/// A sample is taken each time that the process has used so much processor time.
const PERIOD: Duration = Duration::from_millis(10);
/// How often samples are taken out, so that there is room for others.
const TAKE: Duration = Duration::from_millis(20);

/// `/debug/pprof/profile?seconds=N`: where the processor time of the next N seconds goes.
pub async fn cpu(query: Query) -> Reply {
    let limit = match duration(&query) {
        Ok(limit) => limit,
        Err(reply) => return reply,
    };
    let ended = Ended(Arc::default());
    let seen = Arc::clone(&ended.0);
    // Whoever asked may go away before; then this future is dropped, and the sampling ends.
    let collecting = tokio::task::spawn_blocking(move || collect(limit, &seen));
    match collecting.await {
        Ok(Ok((modules, counted))) => aside(move || Ok(written(&modules, &counted, limit))).await,
        Ok(Err(error)) => refused(&error),
        Err(error) => refused(&io::Error::other(error)),
    }
}

/// Tells the thread that takes samples out when nobody wants them any more.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Counted = HashMap<Vec<u64>, u64>;

fn collect(limit: Duration, ended: &AtomicBool) -> io::Result<(Modules, Counted)> {
    let modules = Modules::load()?;
    let mut counted = Counted::new();
    let mut unwinder = Unwinder::default();
    let mut sampler = Sampler::start(PERIOD)?;
    let until = Instant::now() + limit;
    while Instant::now() < until && !ended.load(Ordering::Relaxed) {
        std::thread::sleep(TAKE.min(until.saturating_duration_since(Instant::now())));
        sampler.take(|sample| {
            let frames = unwinder.frames(&modules, sample);
            match counted.get_mut(frames) {
                Some(count) => *count += 1,
                None => drop(counted.insert(frames.to_vec(), 1)),
            }
        });
    }
    if sampler.lost() > 0 {
        tracing::warn!(samples = sampler.lost(), "there was no room for some samples of the profile");
    }
    Ok((modules, counted))
}

fn written(modules: &Modules, counted: &Counted, limit: Duration) -> Vec<u8> {
    let period = PERIOD.as_nanos() as i64;
    let mut profile = Profile::new(
        &[Kind { name: "samples", unit: "count" }, Kind { name: "cpu", unit: "nanoseconds" }],
        Kind { name: "cpu", unit: "nanoseconds" },
        period,
    );
    for (frames, count) in counted {
        let count = *count as i64;
        profile.add(frames, &[count, count.saturating_mul(period)]);
    }
    profile.finish(modules, SystemTime::now(), limit)
}

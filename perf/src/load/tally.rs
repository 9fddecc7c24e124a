//! What all connections of a sample write down.

use std::{cell::RefCell, rc::Rc, time::Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;

use super::{Load, Sample};
use crate::serve::BODY;

/// The shares of requests at which the distribution of latency is told.
const SHARES: [f64; 22] = [
    0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999,
    1.0,
];

/// Answers and when they came.
#[derive(Debug)]
pub(super) struct Tally {
    from: Instant,
    /// When measuring ends.
    pub until: Instant,
    latency: Histogram<u64>,
    all: u64,
    errors: u64,
}

impl Tally {
    pub(super) fn new(load: &Load) -> anyhow::Result<Rc<RefCell<Self>>> {
        let from = Instant::now() + load.warmup();
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).context("a histogram of microseconds")?;
        Ok(Rc::new(RefCell::new(Self { from, until: from + load.measured(), latency, all: 0, errors: 0 })))
    }

    /// An answer, and when it was due or asked for.
    pub(super) fn record(&mut self, started: Instant, finished: Instant) {
        self.all += 1;
        if finished >= self.from && finished < self.until {
            let micros = u64::try_from((finished - started).as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(micros.max(1));
        }
    }

    /// A request without an answer.
    pub(super) fn failed(&mut self) {
        self.errors += 1;
    }

    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        let count = self.latency.len();
        if count == 0 {
            bail!("no request was answered ({} errors)", self.errors);
        }
        let milliseconds = |share| self.latency.value_at_quantile(share) as f64 / 1000.0;
        Ok(Sample {
            seconds: (self.until - self.from).as_secs_f64(),
            count,
            errors: self.errors,
            all: self.all,
            bytes: count * BODY as u64,
            all_bytes: self.all * BODY as u64,
            p50_ms: Some(milliseconds(0.5)),
            p99_ms: Some(milliseconds(0.99)),
            latency: SHARES.map(|share| [share, milliseconds(share)]).to_vec(),
            ..Sample::default()
        })
    }
}

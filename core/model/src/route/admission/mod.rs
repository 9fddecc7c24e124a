//! How many requests are let in at once, as a pure decision (`envoy.extensions.filters.http.adaptive_concurrency.v3`, its gradient controller):
//! as long as requests take hardly longer than when there are few, more are let in; when they take longer, fewer.

#[cfg(test)]
mod tests;
mod times;

use std::time::{Duration, Instant};

use serde::Serialize;

use times::Times;

/// As long as a look at what requests take changes the number by no more than this.
const GRADIENTS: (f64, f64) = (0.5, 2.0);
/// So many looks in a row with the least number mean that what requests take when there are few was not measured well.
const AT_LEAST: u32 = 5;

/// What is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AdmissionSettings {
    /// What requests take is the time in which so many of a hundred have ended.
    pub percentile: f64,
    /// How many are let in at first, and while it is measured what they take when there are few.
    pub first: u32,
    /// Never fewer.
    pub least: u32,
    /// Never more.
    pub most: u32,
    /// How often the number changes.
    pub every: Duration,
    /// What requests take when there are few.
    pub best: BestTime,
    /// As a part of that time, how much longer they may take.
    pub buffer: f64,
    /// What those that are not let in are answered with.
    pub status: u16,
}

/// What requests take when there are few.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BestTime {
    /// It is said.
    Fixed(Duration),
    /// It is measured.
    Measured {
        /// How long after it was measured last.
        every: Duration,
        /// As a part of that, at most how much later.
        jitter: f64,
        /// Of so many requests.
        requests: u32,
    },
}

/// How many are let in now, and what that goes by. It has no clock: whoever asks says what time it is.
#[derive(Debug, Clone)]
pub struct Gradient {
    limit: u32,
    best: Option<Duration>,
    times: Times,
    /// While it is measured, how many were let in before.
    before: Option<u32>,
    /// What began before it was measured last says nothing.
    since: Option<Instant>,
    next_look: Option<Instant>,
    next_measurement: Option<Instant>,
    /// So many looks in a row have given the least number.
    at_least: u32,
}

impl Gradient {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: &AdmissionSettings, now: Instant) -> Self {
        let mut made = Self {
            limit: settings.first,
            best: None,
            times: Times::default(),
            before: None,
            since: None,
            next_look: now.checked_add(settings.every),
            next_measurement: None,
            at_least: 0,
        };
        match settings.best {
            BestTime::Fixed(time) => made.best = Some(time),
            BestTime::Measured { .. } => made.measure(settings, now),
        }
        made
    }

    /// How many may be under way at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// A request is there: does what is due by now.
    pub fn look(&mut self, settings: &AdmissionSettings, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if self.before.is_none() && due(self.next_measurement) {
            self.measure(settings, now);
        }
        if self.before.is_some() || !due(self.next_look) {
            return;
        }
        self.next_look = now.checked_add(settings.every);
        let (Some(best), Some(took)) = (self.best, self.times.percentile(settings.percentile)) else { return };
        self.times = Times::default();
        let limit = next(self.limit, best, took, settings);
        let still = self.limit == settings.least && limit == settings.least;
        self.at_least = if still { self.at_least.saturating_add(1) } else { 0 };
        if self.at_least >= AT_LEAST && matches!(settings.best, BestTime::Measured { .. }) {
            self.next_measurement = Some(now);
        }
        self.limit = limit;
    }

    /// A request that began then has ended. `random`, evenly spread over its whole range, spreads the measurements of several proxies.
    pub fn ended(&mut self, settings: &AdmissionSettings, began: Instant, now: Instant, random: u64) {
        if self.since.is_some_and(|since| began < since) {
            return;
        }
        self.times.add(now.saturating_duration_since(began));
        let BestTime::Measured { every, jitter, requests } = settings.best else { return };
        let Some(before) = self.before.filter(|_| self.times.count() >= requests) else { return };
        self.best = self.times.percentile(settings.percentile);
        self.times = Times::default();
        (self.limit, self.before) = (before, None);
        let later = every.as_secs_f64() * jitter * (random as f64 / u64::MAX as f64);
        let later = every.saturating_add(Duration::try_from_secs_f64(later).unwrap_or_default());
        (self.next_look, self.next_measurement) = (now.checked_add(settings.every), now.checked_add(later));
    }

    /// From now on few are let in, until it is known what they take.
    fn measure(&mut self, settings: &AdmissionSettings, now: Instant) {
        (self.before, self.limit) = (Some(self.limit), settings.first);
        (self.since, self.next_measurement, self.at_least) = (Some(now), None, 0);
        self.times = Times::default();
    }
}

/// How many after `limit`, when requests took so long.
fn next(limit: u32, best: Duration, took: Duration, settings: &AdmissionSettings) -> u32 {
    let may = best.as_secs_f64() * (1.0 + settings.buffer);
    let gradient = (may / took.as_secs_f64().max(1e-6)).clamp(GRADIENTS.0, GRADIENTS.1);
    let limit = f64::from(limit) * gradient;
    // Some more than there are, so that it is seen whether more could be.
    ((limit + limit.sqrt()) as u32).min(settings.most).max(settings.least)
}

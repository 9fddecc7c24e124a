//! How many requests of a filter chain are let in at once, by how long they take.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use ambit_model::route::{AdmissionSettings, Gradient, HeaderMatch, RequestView};
use serde::Serialize;

/// What is said of it, and what it has come to.
#[derive(Debug, Clone, Serialize)]
pub struct Admission {
    /// What is said.
    pub settings: AdmissionSettings,
    /// Requests with all headers of one of these are always let in, and say nothing of how long requests take: probes of health.
    pub probes: Vec<Vec<HeaderMatch>>,
    /// What goes on. Kept when the chain is configured anew.
    #[serde(skip)]
    live: Arc<Mutex<Live>>,
}

#[derive(Debug)]
struct Live {
    gradient: Gradient,
    under_way: u32,
}

/// A request that was let in, until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    live: Arc<Mutex<Live>>,
    settings: AdmissionSettings,
    began: Instant,
    whole: bool,
}

impl Admission {
    /// Nothing is under way yet.
    pub fn new(settings: AdmissionSettings, probes: Vec<Vec<HeaderMatch>>, now: Instant) -> Self {
        let live = Live { gradient: Gradient::new(&settings, now), under_way: 0 };
        Self { settings, probes, live: Arc::new(Mutex::new(live)) }
    }

    /// Goes on where another one is, which this takes the place of.
    pub fn follow(&mut self, before: &Self) {
        if self.settings == before.settings {
            self.live = before.live.clone();
        }
    }

    /// Whether the request is let in whatever goes on.
    #[must_use]
    pub fn is_probe(&self, request: &RequestView<'_>) -> bool {
        self.probes.iter().any(|headers| headers.iter().all(|header| header.matches(request)))
    }

    /// How many are let in at once now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).gradient.limit()
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// With how many there may be at once, when there are as many.
    pub fn admit(&self, now: Instant) -> Result<Admitted, u32> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.gradient.look(&self.settings, now);
        let limit = live.gradient.limit();
        if live.under_way >= limit {
            return Err(limit);
        }
        live.under_way += 1;
        Ok(Admitted { live: self.live.clone(), settings: self.settings, began: now, whole: false })
    }
}

impl Admitted {
    /// It was answered: how long it took counts.
    pub fn whole(&mut self) {
        self.whole = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.under_way = live.under_way.saturating_sub(1);
        if self.whole {
            live.gradient.ended(&self.settings, self.began, Instant::now(), fastrand::u64(..));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ambit_model::route::BestTime;

    use super::*;

    fn settings() -> AdmissionSettings {
        AdmissionSettings {
            percentile: 50.0,
            first: 2,
            least: 2,
            most: 2,
            every: Duration::from_secs(1),
            best: BestTime::Fixed(Duration::from_millis(1)),
            buffer: 0.25,
            status: 503,
        }
    }

    #[test]
    fn places_are_given_back_and_kept_when_the_same_is_said_again() {
        let now = Instant::now();
        let admission = Admission::new(settings(), Vec::new(), now);
        let (first, second) = (admission.admit(now).unwrap(), admission.admit(now).unwrap());
        assert_eq!(admission.admit(now).map(drop), Err(2));
        let mut again = Admission::new(settings(), Vec::new(), now);
        again.follow(&admission);
        assert_eq!(again.admit(now).map(drop), Err(2), "those that are under way are forgotten");
        let mut other = Admission::new(AdmissionSettings { least: 1, ..settings() }, Vec::new(), now);
        other.follow(&admission);
        assert!(other.admit(now).is_ok());
        drop(first);
        assert!(again.admit(now).is_ok());
        drop(second);
        assert_eq!(again.limit(), 2);
    }
}

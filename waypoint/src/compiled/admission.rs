//! How many requests of a filter chain are let in at once, by how long they take.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ambit_model::route::{AdmissionSettings, Gradient, HeaderMatch, RequestView};
use serde::Serialize;

/// A place is kept for so long, and while others come for twice as long at most. What lasts longer is a stream: a few of them would have all
/// places, nothing would end any more, and so nothing would ever be let in again.
const KEPT: Duration = Duration::from_secs(30);

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
    /// Counts the spans of time by whose ends places lapse.
    span: u64,
    span_began: Instant,
    /// Those under way that began in this span, and in the one before it.
    young: u32,
    old: u32,
}

impl Live {
    /// How many have a place.
    fn under_way(&mut self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.span_began);
        if since >= 2 * KEPT {
            (self.old, self.young, self.span, self.span_began) = (0, 0, self.span + 2, now);
        } else if since >= KEPT {
            (self.old, self.young, self.span, self.span_began) = (self.young, 0, self.span + 1, now);
        }
        self.young.saturating_add(self.old)
    }
}

/// A request that was let in, until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    live: Arc<Mutex<Live>>,
    settings: AdmissionSettings,
    began: Instant,
    span: u64,
    whole: bool,
}

impl Admission {
    /// Nothing is under way yet.
    pub fn new(settings: AdmissionSettings, probes: Vec<Vec<HeaderMatch>>, now: Instant) -> Self {
        let live = Live { gradient: Gradient::new(&settings, now), span: 0, span_began: now, young: 0, old: 0 };
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
        if live.under_way(now) >= limit {
            return Err(limit);
        }
        live.young = live.young.saturating_add(1);
        Ok(Admitted { live: self.live.clone(), settings: self.settings, began: now, span: live.span, whole: false })
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
        match live.span.saturating_sub(self.span) {
            0 => live.young = live.young.saturating_sub(1),
            1 => live.old = live.old.saturating_sub(1),
            // It has none any more.
            _ => {}
        }
        if self.whole {
            live.gradient.ended(&self.settings, self.began, Instant::now(), fastrand::u64(..));
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_lasts_does_not_keep_its_place_for_ever() {
        let began = Instant::now();
        let admission = Admission::new(settings(), Vec::new(), began);
        let admit = |second: u64| admission.admit(began + Duration::from_secs(second));
        let streams = [admit(0).unwrap(), admit(1).unwrap()];
        for second in [29, 31, 59] {
            assert_eq!(admit(second).map(drop), Err(2), "after {second} s");
        }
        let later = admit(62).unwrap();
        drop(streams);
        let last = admit(63).unwrap();
        assert_eq!(admit(64).map(drop), Err(2), "what had no place any more gives none back");
        drop((later, last));
        assert!(admit(65).is_ok() && admit(200).is_ok());
    }
}

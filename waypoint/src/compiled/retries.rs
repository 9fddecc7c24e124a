//! How many requests to a cluster are under way for another time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ambit_model::route::{Pace, RetryBudget, Savings};

/// Requests to a cluster that are under way, and how many of them for another time. Cloning shares the counts.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    retries: AtomicUsize,
    earned: Mutex<Earned>,
}

/// What requests have earned, and how many of them come.
#[derive(Debug)]
struct Earned {
    savings: Savings,
    pace: Pace,
}

impl Default for Earned {
    fn default() -> Self {
        Self { savings: Savings::default(), pace: Pace::new(Instant::now()) }
    }
}

impl Earned {
    /// Takes a retry, if there is one, after a try that failed at this moment.
    fn take(&mut self, now: Instant, budget: &RetryBudget) -> bool {
        self.pace.count();
        let coming = self.pace.at(now);
        self.savings.keep(budget.saved(coming));
        self.savings.take(now, budget.a_second(coming))
    }
}

/// A request that is counted until this is dropped.
#[derive(Debug)]
pub struct Counted(Retries, fn(&Counts) -> &AtomicUsize);

impl Retries {
    /// Counts a request that is under way.
    #[must_use]
    pub fn request(&self) -> Counted {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        Counted(self.clone(), |counts| &counts.requests)
    }

    /// A request that could have been sent again went well.
    pub fn well(&self, budget: &RetryBudget) {
        if let Some(part) = budget.earned() {
            let mut earned = self.0.earned.lock().unwrap_or_else(PoisonError::into_inner);
            earned.pace.count();
            earned.savings.earn(part);
        }
    }

    /// As [`Self::another`], for a try that endpoints have work with once more, which requests that went well must have earned.
    #[must_use]
    pub fn earned(&self, budget: &RetryBudget) -> Option<Counted> {
        let place = self.another(budget)?;
        let earned = || self.0.earned.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), budget);
        (budget.earned().is_none() || earned()).then_some(place)
    }

    /// A place for one more try, if there is one.
    #[must_use]
    pub fn another(&self, budget: &RetryBudget) -> Option<Counted> {
        let requests = self.0.requests.load(Ordering::Acquire);
        let more = |retries: usize| budget.allows(requests, retries).then_some(retries + 1);
        self.0.retries.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Counted(self.clone(), |counts| &counts.retries))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0.0).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn places_are_given_back() {
        let retries = Retries::default();
        let budget = RetryBudget::Share { percent: 50.0, least: Some(1) };
        let first = retries.another(&budget).unwrap();
        assert!(retries.another(&budget).is_none());
        let requests: Vec<_> = (0..4).map(|_| retries.request()).collect();
        let second = retries.another(&budget).unwrap();
        assert!(retries.another(&budget).is_none());
        drop(requests);
        drop((first, second));
        assert!(retries.another(&budget).is_some());
    }

    #[test]
    fn what_endpoints_have_work_with_is_earned() {
        let (retries, budget) = (Retries::default(), RetryBudget::Share { percent: 100.0, least: Some(1) });
        let taken = |budget: &RetryBudget| (0..100).filter(|_| retries.earned(budget).is_some()).count();
        assert!((20..30).contains(&taken(&budget)));
        assert!(taken(&budget) < 5 && retries.another(&budget).is_some());
        assert!(retries.earned(&RetryBudget::Count(1)).is_some(), "a number says nothing of what is earned");
        (0..8).for_each(|_| retries.well(&budget));
        assert!((2..10).contains(&taken(&budget)));
    }

    /// How many requests come to the last of three services in a row, which fails altogether, for each that is asked of the first one in half a
    /// minute, of which the first second does not count. Each asks the next one, and sends again what its budget has.
    fn cascade(pace: u32, budget: &RetryBudget) -> f64 {
        let mut layers = [Earned::default(), Earned::default(), Earned::default()];
        let now = Instant::now();
        let (mut offered, mut came) = (0, 0);
        for number in 0..30 * pace {
            let at = now + Duration::from_secs(1) * number / pace;
            let mut asked = 1;
            for layer in &mut layers {
                let mut tries = 0;
                for _ in 0..asked {
                    tries += 1;
                    // Three retries are the most that the route has.
                    tries += (0..3).take_while(|_| layer.take(at, budget)).count();
                }
                asked = tries;
            }
            if number >= pace {
                offered += 1;
                came += asked;
            }
        }
        came as f64 / f64::from(offered)
    }

    #[test]
    fn three_layers_ask_for_less_than_a_fifth_more_at_any_pace_from_twenty_five_a_second_on() {
        let budget = RetryBudget::Share { percent: 20.0, least: None };
        for pace in [25, 50, 100, 250, 1000] {
            let ratio = cascade(pace, &budget);
            assert!((1.02..1.2).contains(&ratio), "{ratio:.3} at {pace} a second");
        }
        let said = cascade(50, &RetryBudget::Share { percent: 20.0, least: Some(10) });
        assert!(said > 1.5, "{said:.3} where somebody wants ten a second in any case");
    }
}

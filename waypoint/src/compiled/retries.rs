//! How many requests to a cluster are under way for another time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ambit_model::route::{RetryBudget, Savings};

/// Requests to a cluster that are under way, and how many of them for another time. Cloning shares the counts.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    retries: AtomicUsize,
    savings: Mutex<Savings>,
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
            self.0.savings.lock().unwrap_or_else(PoisonError::into_inner).earn(part);
        }
    }

    /// As [`Self::another`], for a try that endpoints have work with once more, which requests that went well must have earned.
    #[must_use]
    pub fn earned(&self, budget: &RetryBudget) -> Option<Counted> {
        let place = self.another(budget)?;
        let earned = || self.0.savings.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), budget.a_second());
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
}

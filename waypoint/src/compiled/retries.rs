//! How many requests to a cluster are under way for another time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ambit_model::route::RetryBudget;

/// Requests to a cluster that are under way, and how many of them for another time. Cloning shares the counts.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    retries: AtomicUsize,
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
        let budget = RetryBudget::Share { percent: 50.0, least: 1 };
        let first = retries.another(&budget).unwrap();
        assert!(retries.another(&budget).is_none());
        let requests: Vec<_> = (0..4).map(|_| retries.request()).collect();
        let second = retries.another(&budget).unwrap();
        assert!(retries.another(&budget).is_none());
        drop(requests);
        drop((first, second));
        assert!(retries.another(&budget).is_some());
    }
}

//! How many requests of a filter chain suffer by faults.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ambit_model::route::Fault;
use serde::Serialize;

/// What is said of faults where routes say nothing, and who suffers by any. Cloning shares the count.
#[derive(Debug, Clone, Serialize)]
pub struct Faults {
    /// What is said.
    pub otherwise: Arc<Fault>,
    #[serde(skip)]
    active: Arc<AtomicUsize>,
}

/// A request that is counted until this is dropped.
#[derive(Debug)]
pub struct Suffering(Arc<AtomicUsize>);

impl Faults {
    /// Nobody suffers yet.
    pub fn of(otherwise: Arc<Fault>) -> Self {
        Self { otherwise, active: Arc::default() }
    }

    /// How many suffer.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one more.
    #[must_use]
    pub fn suffers(&self) -> Suffering {
        self.active.fetch_add(1, Ordering::Relaxed);
        Suffering(self.active.clone())
    }
}

impl Drop for Suffering {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The lock around a connection's state, shared by its driver, its tunnels and its pool.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Mux;

/// A connection's state, to be shared.
#[derive(Debug)]
pub(crate) struct Link(Mutex<Mux>);

impl Link {
    pub(crate) fn new(mux: Mux) -> Self {
        Self(Mutex::new(mux))
    }

    /// For the driver, which wakes by itself whom it has to.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Mux> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For everybody else: uses the state, then wakes whom that concerns.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Mux) -> R) -> R {
        let mut mux = self.lock();
        let result = work(&mut mux);
        let awaited = mux.urgent || (mux.stirred && !mux.blocked);
        let driver = if awaited { mux.driver.take() } else { None };
        let wakes = std::mem::take(&mut mux.wakes);
        drop(mux);
        for waker in driver.into_iter().chain(wakes) {
            waker.wake();
        }
        result
    }
}

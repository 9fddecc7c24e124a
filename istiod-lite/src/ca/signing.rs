//! Signatures take their turns beside the tasks of the runtime: one with an RSA key of 4096 bits, which plug-in authorities often have, takes
//! milliseconds, and discovery, the Lease and readiness do not wait behind thousands of them.

use std::{sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Signatures that may wait for their turn: some seconds of the slowest key.
const WAITING: usize = 2000;

/// Why nothing was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    /// Too many wait.
    TooMany,
    /// It was begun and did not come to its end, which is a defect.
    BrokenOff,
}

/// The turns.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Turns {
    /// As many at once as there are processors, but for one.
    pub fn new() -> Self {
        let at_once = available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1));
        Self::with(at_once, WAITING)
    }

    fn with(at_once: usize, waiting: usize) -> Self {
        Self { at_once: Arc::new(Semaphore::new(at_once)), places: Arc::new(Semaphore::new(at_once + waiting)) }
    }

    /// Does `work` when it is its turn.
    pub async fn take<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unsigned> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Unsigned::TooMany)?;
        // Nobody closes it.
        let turn = Arc::clone(&self.at_once).acquire_owned().await.map_err(|_| Unsigned::BrokenOff)?;
        let work = move || {
            // Also when nobody waits for the answer any more, the processor is taken until it is there.
            let _held = (place, turn);
            work()
        };
        spawn_blocking(work).await.map_err(|_| Unsigned::BrokenOff)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn so_many_as_there_are_turns_work_and_so_many_as_there_are_places_wait() {
        let turns = Turns::with(1, 1);
        let (go, wait) = mpsc::channel::<()>();
        let mut first = Box::pin(turns.take(move || wait.recv().is_ok()));
        let mut second = Box::pin(turns.take(|| 2));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        assert_eq!(turns.take(|| 3).await, Err(Unsigned::TooMany));
        go.send(()).unwrap();
        assert_eq!((first.await, second.await), (Ok(true), Ok(2)));
        // A place that was given up is free again.
        let (stay, wait) = mpsc::channel::<()>();
        let mut first = Box::pin(turns.take(move || wait.recv().is_err()));
        let mut given_up = Box::pin(turns.take(|| 4));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        drop(stay);
        assert_eq!((turns.take(|| 5).await, first.await), (Ok(5), Ok(true)));
    }

    #[tokio::test]
    async fn work_that_breaks_off_takes_no_turn_with_it() {
        let turns = Turns::with(1, 0);
        assert_eq!(turns.take(|| assert!(std::hint::black_box(false), "broken off by the test")).await, Err(Unsigned::BrokenOff));
        assert_eq!(turns.take(|| 6).await, Ok(6));
    }
}

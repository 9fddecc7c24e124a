//! A thread with a runtime of its own.

use std::{
    io,
    sync::{Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::awake::{self, Stayed};
use crate::clock::ThreadClock;

/// A thread with a runtime of its own, which goes on until it is stopped.
#[derive(Debug)]
pub struct Thread {
    handle: Handle,
    clock: ThreadClock,
    stayed: Stayed,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    /// Starts it. The runtime is made by the thread itself: where there is no thread, there must be no runtime that is dropped by a task
    /// of another one, which would panic. While its traffic comes back within `awake`, it does not sleep in between.
    ///
    /// # Errors
    /// When there can be no further thread, or no runtime.
    pub fn start(builder: thread::Builder, awake: Duration) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (tell, told) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let stayed = Stayed::default();
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all();
        if !awake.is_zero() {
            awake::stay(&mut runtime, awake, stayed.clone());
        }
        let work = move || match runtime.build() {
            Ok(runtime) => {
                if !awake.is_zero() {
                    runtime.spawn(awake::keep());
                }
                let _asked_for = tell.send(Ok((runtime.handle().clone(), ThreadClock::current())));
                runtime.block_on(stopped.cancelled());
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let thread = Mutex::new(Some(builder.spawn(work)?));
        let (handle, clock) = told.recv().map_err(io::Error::other)??;
        Ok(Self { handle, clock, stayed, stop, thread })
    }

    /// Its runtime.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How much it has worked, as long as it runs. It has not worked while it only stayed awake.
    #[must_use]
    pub fn used(&self) -> Option<Duration> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if runs { self.clock.used().map(|used| used.saturating_sub(self.stayed.time())) } else { None }
    }

    /// Ends it with what it still does. Not to be called by a task of it.
    pub fn stop(&self) {
        self.stop.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a worker failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_cannot_be_started_is_an_error_for_the_task_that_asks_for_it_and_no_panic() {
        assert!(Thread::start(thread::Builder::new().stack_size(1 << 47), Duration::ZERO).is_err());
        let thread = Thread::start(thread::Builder::new(), Duration::from_micros(100)).unwrap();
        assert_eq!(thread.handle.spawn(async { 7 }).await.unwrap(), 7);
        assert!(thread.used().is_some());
        thread.stop();
        assert_eq!(thread.used(), None);
    }

    /// Lets a connection of the thread have its turn again and again, a millisecond after the last, until `enough`.
    fn keep_busy(thread: &Thread, enough: impl Fn() -> bool) -> bool {
        let (ask, mut asked) = tokio::sync::mpsc::channel(1);
        let (answer, answered) = mpsc::sync_channel(1);
        thread.handle.spawn(async move {
            while asked.recv().await.is_some() {
                awake::turn();
                let _nobody_waits = answer.send(());
            }
        });
        (0..5000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            ask.blocking_send(()).unwrap();
            answered.recv().unwrap();
            enough()
        })
    }

    #[test]
    fn a_thread_stays_awake_while_its_connection_has_turns_and_sleeps_afterwards() {
        let thread = Thread::start(thread::Builder::new(), Duration::from_millis(100)).unwrap();
        assert!(keep_busy(&thread, || thread.stayed.time() > Duration::from_millis(20)));
        let sleeps = (0..100).any(|_| {
            let before = (thread.stayed.time(), thread.clock.used().unwrap());
            thread::sleep(Duration::from_millis(300));
            let after = (thread.stayed.time(), thread.clock.used().unwrap());
            before.0 == after.0 && after.1.checked_sub(before.1).unwrap() < Duration::from_millis(10)
        });
        assert!(sleeps);
        thread.stop();
    }

    #[test]
    fn a_thread_that_is_not_to_stay_awake_does_not() {
        let thread = Thread::start(thread::Builder::new(), Duration::ZERO).unwrap();
        let turns = std::cell::Cell::new(0);
        assert!(keep_busy(&thread, || turns.replace(turns.get() + 1) == 50));
        assert_eq!(thread.stayed.time(), Duration::ZERO);
        thread.stop();
    }
}

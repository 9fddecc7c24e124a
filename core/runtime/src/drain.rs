//! Drain: every task that carries work holds a [`Watch`]; the owner holds the [`Trigger`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let (trigger, watch) = ambit_runtime::drain::channel();
//! let task = tokio::spawn(async move { watch.draining().await });
//! let outcome = trigger.drain(std::time::Duration::from_secs(5)).await;
//! assert_eq!(outcome, ambit_runtime::drain::Outcome::Finished);
//! # task.await.unwrap(); }
//! ```

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Tells the watchers to finish and waits for them.
#[derive(Debug)]
pub struct Trigger {
    begin: watch::Sender<bool>,
    finished: mpsc::Receiver<()>,
}

/// Begins a drain that somebody else waits for.
#[derive(Clone, Debug)]
pub struct Starter(watch::Sender<bool>);

/// Held by each task that must finish before the program may stop. Dropping the last clone ends the drain.
#[derive(Clone, Debug)]
pub struct Watch {
    begun: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every watch was dropped in time.
    Finished,
    /// The deadline passed with at least one watch still held.
    DeadlinePassed,
}

/// A new drain with its two ends.
pub fn channel() -> (Trigger, Watch) {
    let (begin, begun) = watch::channel(false);
    let (alive, finished) = mpsc::channel(1);
    (Trigger { begin, finished }, Watch { begun, _alive: alive })
}

impl Starter {
    /// Starts the drain, if it has not begun.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }
}

impl Trigger {
    /// What starts the drain as well. While it is there, the drain is not begun by the loss of its trigger.
    pub fn starter(&self) -> Starter {
        Starter(self.begin.clone())
    }

    /// Starts the drain without waiting: [`Watch::draining`] completes everywhere.
    pub fn begin(&self) {
        self.begin.send_replace(true);
    }

    /// Starts the drain and waits until every watch is dropped, or until `deadline` has passed.
    pub async fn drain(mut self, deadline: Duration) -> Outcome {
        self.begin();
        match tokio::time::timeout(deadline, self.finished.recv()).await {
            Ok(_) => Outcome::Finished,
            Err(_) => Outcome::DeadlinePassed,
        }
    }
}

impl Watch {
    /// Completes once the drain has begun (or its trigger is gone). Cancel safe; may be called any number of times.
    pub async fn draining(&self) {
        let mut begun = self.begun.clone();
        // An error means that the trigger was dropped: nobody is left to wait for us, so finish as well.
        let _ = begun.wait_for(|begun| *begun).await;
    }

    /// Whether the drain has begun, which is the only change that there ever is. Looks at one number, without a lock: each request asks.
    pub fn is_draining(&self) -> bool {
        self.begun.has_changed().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_every_clone_of_the_watch() {
        let (trigger, watch) = channel();
        let other = watch.clone();
        let first = tokio::spawn(async move { watch.draining().await });
        let second = tokio::spawn(async move {
            other.draining().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            other.is_draining()
        });
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Outcome::Finished);
        first.await.unwrap();
        assert!(second.await.unwrap());
    }

    #[tokio::test]
    async fn a_drain_gives_up_at_its_deadline() {
        let (trigger, watch) = channel();
        assert!(!watch.is_draining());
        assert_eq!(trigger.drain(Duration::from_millis(20)).await, Outcome::DeadlinePassed);
        assert!(watch.is_draining());
    }

    #[tokio::test]
    async fn a_lost_trigger_means_drain() {
        let (trigger, watch) = channel();
        drop(trigger);
        watch.draining().await;
        assert!(watch.is_draining());
    }
}

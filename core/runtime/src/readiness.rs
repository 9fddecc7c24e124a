//! Readiness: the program is ready once every named start-up task is done.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// The set of start-up tasks that are not yet done. Clones share it.
#[derive(Clone, Debug)]
pub struct Readiness {
    pending: Arc<watch::Sender<BTreeSet<String>>>,
}

/// One start-up task. Dropping it (or calling [`Task::done`]) marks it as done.
#[derive(Debug)]
#[must_use = "a task that is dropped at once counts as done at once"]
pub struct Task {
    readiness: Readiness,
    name: String,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Nothing pending: ready.
    pub fn new() -> Self {
        Self { pending: Arc::new(watch::Sender::new(BTreeSet::new())) }
    }

    /// Registers a task; the program is not ready before it is done. Names appear in `/healthz/ready`.
    pub fn task(&self, name: impl Into<String>) -> Task {
        let name = name.into();
        self.pending.send_modify(|pending| {
            pending.insert(name.clone());
        });
        Task { readiness: self.clone(), name }
    }

    /// The tasks that are not yet done, in order of name.
    pub fn pending(&self) -> Vec<String> {
        self.pending.borrow().iter().cloned().collect()
    }

    /// Whether no task is pending.
    pub fn is_ready(&self) -> bool {
        self.pending.borrow().is_empty()
    }

    /// Completes when no task is pending.
    pub async fn ready(&self) {
        // `self` keeps a sender alive, so waiting cannot fail.
        let _ = self.pending.subscribe().wait_for(BTreeSet::is_empty).await;
    }
}

impl Task {
    /// Marks the task as done.
    pub fn done(self) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        self.readiness.pending.send_modify(|pending| {
            pending.remove(&self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_ready_when_the_last_task_is_done() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let xds = readiness.task("xds");
        let listener = readiness.task("listener");
        assert_eq!(readiness.pending(), ["listener", "xds"]);
        xds.done();
        assert!(!readiness.is_ready());
        drop(listener);
        readiness.ready().await;
        assert!(readiness.is_ready());
    }
}

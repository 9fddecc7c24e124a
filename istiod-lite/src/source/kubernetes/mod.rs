//! A Kubernetes API server as the source: one list and one watch for each kind, merged into one stream.
//!
//! | file | what it does |
//! |---|---|
//! | `client.rs` | from flags to a client |
//! | `reflector.rs` | one kind: what to ask next, and what an answer means; no I/O, no clock |
//! | `failure.rs` | what an error of the client means, and its text |
//! | `watch.rs` | one kind: asks what the reflector wants, notices a watch that says nothing any more, counts |
//! | `read.rs`, `trim.rs`, `strict.rs` | from a tree of values to the object as it is kept, and what holds when it cannot be read |
//! | `merge.rs` | all kinds: the first batch when each is listed, then changes; no I/O |
//! | `named.rs` | which Secrets Gateways name, and may name; no other is asked for; no I/O |
//! | `secrets.rs` | a list and a watch for each of these |
//!
//! `kube::runtime::watcher` is not used: it hides bookmarks, so that nobody could tell a quiet watch from a dead one, and one object
//! that does not fit its type would stop its whole kind.
//! Rules: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

mod client;
mod failure;
mod merge;
mod named;
mod read;
mod reflector;
mod secrets;
mod strict;
#[cfg(test)]
mod tests;
mod trim;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::readiness::{Readiness, Task};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use client::{client_config, connect};
pub(crate) use failure::chain;
use merge::{Merge, Update};
use reflector::Reflector;
use secrets::Secrets;

use super::{Event, Kind, Problem, Source, SourceError};

/// Updates that may wait; the watches wait when there are more.
const UPDATES: usize = 1024;
/// Events that are given at once, as far as they come singly.
const BATCH: usize = 4096;
/// How long changes wait for Secrets that are named anew: a listener that is to show another certificate would have none until that is read.
const UNREAD: Duration = Duration::from_secs(1);

/// How long the source waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The pause after a first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause after failures.
    pub longest_pause: Duration,
    /// The time between two looks for a kind that the server does not have.
    pub absent_pause: Duration,
    /// A watch without an event or bookmark for this long is begun anew. API servers send a bookmark about every minute.
    pub stale: Duration,
    /// The server is asked to end a watch after this long, or up to a fifth less, so that not all end at once; less than 295 s, to
    /// which servers and proxies in between are used.
    pub watch: Duration,
    /// No answer may take longer to begin, and no page of a list longer to come.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(10),
            absent_pause: Duration::from_secs(5),
            stale: Duration::from_mins(3),
            watch: Duration::from_secs(290),
            answer: Duration::from_mins(1),
        }
    }
}

/// The objects of a cluster, as its API server tells of them.
///
/// While the server cannot be reached what it said last stays in force. Dropping the source ends its watches.
pub struct Kubernetes {
    updates: mpsc::Receiver<Update>,
    watches: JoinSet<Kind>,
    secrets: Secrets,
    /// Until when changes wait for Secrets that are named anew.
    waits: Option<Instant>,
    merge: Merge,
    /// What readiness waits for, by kind.
    pending: BTreeMap<Kind, Task>,
    told: Arc<Vec<Problem>>,
}

impl Kubernetes {
    /// Begins to list and watch every kind; the program is not `ready` before each was listed.
    #[must_use]
    pub fn new(client: &Client, timing: Timing, ready: &Readiness) -> Self {
        let (sender, updates) = mpsc::channel(UPDATES);
        let mut watches = JoinSet::new();
        let mut pending = BTreeMap::new();
        for kind in Kind::ALL.iter().copied() {
            pending.insert(kind, ready.task(format!("the list of {} of the API server", kind.plural())));
            // These are asked for by name.
            if kind == Kind::TlsSecret {
                continue;
            }
            let watch = watch::Watch::new(client.clone(), Reflector::new(kind), timing, sender.clone());
            watches.spawn(async move {
                watch.run().await;
                kind
            });
        }
        let secrets = Secrets::new(client.clone(), timing, sender);
        Self { updates, watches, secrets, waits: None, merge: Merge::new(Kind::ALL), pending, told: Arc::default() }
    }

    /// The same that asks for no Secret, whichever Gateways name.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.secrets.withhold();
        self
    }

    fn take(&mut self, update: Update) {
        if !self.secrets.expects(&update) {
            return;
        }
        if update.listed && update.only.is_none() {
            self.pending.remove(&update.kind);
        }
        let named_anew = self.secrets.look(&update.events);
        self.merge.take(update);
        if named_anew {
            self.secrets.follow(&mut self.merge);
            self.waits = self.waits.or_else(|| Some(Instant::now() + UNREAD));
        }
        // Which there are is known once all are that could name one.
        let unlisted = |kind| self.pending.contains_key(&kind);
        let naming = [Kind::Gateway, Kind::GatewayClass, Kind::ReferenceGrant];
        if unlisted(Kind::TlsSecret) && !naming.into_iter().any(unlisted) && self.secrets.are_listed() {
            self.pending.remove(&Kind::TlsSecret);
            self.merge.listed(Kind::TlsSecret);
        }
    }

    /// Says what stands in the way of the first batch. Later on, whoever takes the batches says it.
    fn tell(&mut self) {
        let problems = self.merge.problems();
        for problem in problems.iter().filter(|problem| !self.told.contains(problem)) {
            tracing::warn!(%problem, "the cluster is not listed yet");
        }
        self.told = problems;
    }
}

#[async_trait::async_trait]
impl Source for Kubernetes {
    async fn next(&mut self) -> Result<Vec<Event>, SourceError> {
        loop {
            let until = self.waits.unwrap_or_else(Instant::now);
            let update = tokio::select! {
                update = self.updates.recv() => match update {
                    Some(update) => Some(update),
                    None => return Err(SourceError::Ended("all kinds of objects")),
                },
                () = sleep_until(until), if self.waits.is_some() => None,
                ended = self.watches.join_next() => {
                    return Err(SourceError::Ended(ended.and_then(Result::ok).map_or("a kind of object", Kind::plural)));
                }
                () = self.secrets.ended() => return Err(SourceError::Ended(Kind::TlsSecret.plural())),
            };
            match update {
                Some(update) => self.take(update),
                None => self.waits = None,
            }
            while self.merge.waiting() < BATCH
                && let Ok(update) = self.updates.try_recv()
            {
                self.take(update);
            }
            if self.waits.is_some_and(|until| Instant::now() < until)
                && !self.secrets.are_listed()
                && self.merge.waiting() < BATCH
            {
                continue;
            }
            self.waits = None;
            match self.merge.batch() {
                Some(events) => return Ok(events),
                None if !self.merge.is_listed() => self.tell(),
                None => {}
            }
        }
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        self.merge.problems()
    }
}

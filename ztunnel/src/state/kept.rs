//! The last good state on disk: a proxy that starts while the control plane is away serves the peers it knew.
//!
//! Resources are kept as they came, policies with them, so that what a policy closed stays closed. The file is complete or it is not
//! there: it is first written when both types are known, replaced as a whole, and removed when it cannot be kept up to date. Without
//! it everything waits for the control plane, as ever. Keys are not in it, they never leave the process: a proxy that starts needs
//! the certificate authority to answer (one that is not part of the control plane that is away), and refuses until it does.
//!
//! Of two proxies, one that drains and one that takes over, one writes: the old one until it drains, then the new one all that it knows.

mod contents;
mod file;
mod handler;
mod keeper;
mod turn;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ambit_xds::{Rejected, Resource};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use contents::{Base, age, restore};
pub use file::Kind;
pub use handler::{InForce, keeping, put_in_force};
use turn::Turn;

/// The file in the directory that is given.
const FILE: &str = "mesh-state";
/// How often a proxy that stands by looks whether it is alone.
const STAND_BY: Duration = Duration::from_millis(100);

/// Keeps the state of one node.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    owner: String,
    /// A state that the control plane has not stood behind for longer is of no use.
    oldest: Duration,
    held: Mutex<Held>,
    changed: Notify,
    outdated: Notify,
    stage: watch::Sender<Stage>,
}

/// How far [`Kept::run`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Runs,
    /// It is to end.
    Leaves,
    Left,
}

#[derive(Debug)]
struct Held {
    /// Whether this proxy writes, and no other one serves the node in its place. None when there can be no lock, or it was left to others.
    turn: Option<Turn>,
    base: Base,
    /// What the file does not have yet.
    pending: BTreeMap<(Kind, String), Change>,
    /// When the control plane last stood behind the state.
    confirmed: SystemTime,
    /// The state of the file is in force, and the control plane has not answered yet.
    in_use: bool,
    /// Whether the file is (or will be) the whole state.
    complete: bool,
    /// Why nothing is kept any more. The turn stays: a proxy that stands by must not begin beside one that serves.
    broken: Option<String>,
}

impl Held {
    /// Whether this one wrote when that was asked last.
    fn writes(&self) -> bool {
        self.broken.is_none() && self.turn.as_ref().is_some_and(Turn::was_mine)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Put {
        taken: bool,
        /// Whether it stands in place of what the file has, even when it was rejected.
        replaces: bool,
        version: String,
        body: Vec<u8>,
    },
    Remove,
}

/// What a file held.
#[derive(Debug)]
pub struct Restored {
    /// Workloads and services.
    pub addresses: Vec<Resource>,
    /// Policies.
    pub policies: Vec<Resource>,
    /// How long ago the control plane stood behind it.
    pub age: Duration,
}

/// For the admin page.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Where it is kept.
    pub file: PathBuf,
    /// Whether this proxy writes it. Another one does that this one takes over from, or that takes over from this one.
    pub writes: bool,
    /// Whether connections are decided by the file's state, because the control plane has not answered since the start.
    pub in_use: bool,
    /// How long ago the control plane stood behind the state.
    pub age_seconds: u64,
    /// Changes that are not in the file yet.
    pub pending: usize,
    /// Why nothing is kept any more, if so.
    pub broken: Option<String>,
}

impl Kept {
    /// Keeps the state of `owner` (node, cluster and trust domain) in `directory`, and reads what an earlier run has kept there, unless
    /// that is older than `oldest` or damaged: then there is none.
    pub fn open(directory: &Path, owner: String, oldest: Duration) -> (Self, Option<Restored>) {
        let path = directory.join(FILE);
        // Before the file is read: from then on nobody else writes.
        let asked = file::prepare(directory).and_then(|()| Turn::ask(directory));
        let asked = asked.map_err(|error| format!("{}: {error}", directory.display()));
        if let Err(reason) = &asked {
            tracing::error!(reason, "the state cannot be kept on disk");
        }
        let read = asked.as_ref().map_err(Clone::clone).and_then(|_| restore(&path, &owner));
        let (restored, file) = match read {
            Ok(Some((restored, _))) if restored.age > oldest => {
                tracing::warn!(file = %path.display(), age_s = restored.age.as_secs(), "the kept state is too old to be used");
                (None, None)
            }
            Ok(read) => read.unzip(),
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "there is no kept state");
                (None, None)
            }
        };
        let waits = asked.as_ref().is_ok_and(|turn| !turn.was_mine());
        if restored.is_none() && !waits {
            // It is of no use to anybody.
            let _gone = fs::remove_file(&path);
        }
        let base = match file {
            None => Base::Nothing,
            Some(file) if waits => Base::Read(Arc::new(file)),
            Some(_) => Base::Ours,
        };
        let confirmed = SystemTime::now() - restored.as_ref().map_or(Duration::ZERO, |restored| restored.age);
        let (turn, broken) = asked.map_or_else(|reason| (None, Some(reason)), |turn| (Some(turn), None));
        let (pending, complete) = (BTreeMap::new(), restored.is_some());
        let held = Held { turn, base, pending, confirmed, in_use: false, complete, broken };
        let stage = watch::Sender::new(Stage::Runs);
        let (held, changed, outdated) = (Mutex::new(held), Notify::new(), Notify::new());
        (Self { path, owner, oldest, held, changed, outdated, stage }, restored)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a handler has done with a batch.
    fn note(&self, kind: Kind, upserts: Vec<Resource>, removals: Vec<String>, rejected: &[Rejected]) {
        let mut held = self.held();
        if held.turn.is_none() || held.broken.is_some() {
            return;
        }
        for name in removals {
            held.pending.insert((kind, name), Change::Remove);
        }
        for Resource { name, version, body } in upserts {
            let taken = !rejected.iter().any(|rejected| rejected.name == name);
            let key = (kind, name);
            let before = held.pending.get(&key);
            if !taken && matches!(before, Some(Change::Put { taken: true, .. })) {
                // The version before it stays in force.
                continue;
            }
            let replaces = taken || matches!(before, Some(Change::Remove | Change::Put { replaces: true, .. }));
            held.pending.insert(key, Change::Put { taken, replaces, version, body: body.value });
        }
        drop(held);
        self.changed.notify_one();
    }

    /// Notes that connections are decided by the file's state from now on; `false` when that is too old by now, or when another proxy has
    /// written it since it was read, so that what is known here could open what a policy has closed since: then this proxy is
    /// [outdated](Self::outdated).
    #[must_use]
    pub fn used(&self) -> bool {
        let mut held = self.held();
        if !held.base.is_current(&self.path) {
            let why = "the control plane does not answer, and the proxy before has left a newer state than was read: a start anew reads it";
            tracing::warn!(file = %self.path.display(), "{why}");
            self.outdated.notify_one();
            return false;
        }
        // The proxy before has noted there for how long the state still held.
        if let Some(confirmed) = held.base.confirmed() {
            held.confirmed = confirmed;
        }
        let age = age(held.confirmed);
        if age > self.oldest {
            let why = "the control plane does not answer, and the kept state has become too old to be used";
            tracing::warn!(file = %self.path.display(), age_s = age.as_secs(), "{why}");
            return false;
        }
        if !std::mem::replace(&mut held.in_use, true) {
            tracing::warn!(age_s = age.as_secs(), "the control plane does not answer: the kept state is in force");
        }
        true
    }

    /// For the admin page.
    #[must_use]
    pub fn status(&self) -> Status {
        let held = self.held();
        Status {
            file: self.path.clone(),
            writes: held.writes(),
            in_use: held.in_use,
            age_seconds: age(held.confirmed).as_secs(),
            pending: held.pending.len(),
            broken: held.broken.clone(),
        }
    }

    /// Completes when no other proxy keeps its state in this directory: then there is none that serves the node in place of this one.
    pub async fn alone(&self) {
        while !self.held().turn.as_mut().is_none_or(Turn::is_mine) {
            tokio::time::sleep(STAND_BY).await;
        }
    }

    /// Completes when this proxy is to serve the node by what it has read: when it is [alone](Self::alone), and nobody has written
    /// the file since. One that would not use its state must not take the pods from one that is started anew. Completes when it is to end, too.
    pub async fn takes_over(&self) {
        self.alone().await;
        let current = self.held().base.is_current(&self.path);
        if !current {
            self.pause(Duration::MAX).await;
        }
    }

    /// Completes when the control plane does not answer, and another proxy has left a newer state than was read here: one that is
    /// started anew reads it. Gives the file. For one who waits.
    pub async fn outdated(&self) -> PathBuf {
        self.outdated.notified().await;
        self.path.clone()
    }
}

#[cfg(test)]
mod tests;

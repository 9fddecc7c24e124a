//! The last good state on disk: a proxy that starts while the control plane is away serves the peers it knew.
//!
//! Resources are kept as they came, policies with them, so that what a policy closed stays closed. The file is complete or it is not
//! there: it is first written when both types are known, replaced as a whole, and removed when it cannot be kept up to date. Without
//! it everything waits for the control plane, as ever. Keys are not in it, they never leave the process: a proxy that starts needs
//! the certificate authority to answer (one that is not part of the control plane that is away), and refuses until it does.

mod file;
mod handler;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use ambit_api::type_url;
use ambit_xds::{Any, Rejected, Resource};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::Shared;
pub use file::Kind;
use file::{MOST, Record};
pub use handler::{InForce, keeping, put_in_force};

/// The file in the directory that is given.
const FILE: &str = "mesh-state";
/// How long changes are gathered before the file is written; policies are written sooner.
const GATHER: Duration = Duration::from_secs(1);
const GATHER_POLICIES: Duration = Duration::from_millis(100);
/// How often the age is looked at, and how often it is noted in the file that the state still holds.
const LOOK: Duration = Duration::from_secs(5);
const CONFIRM: Duration = Duration::from_secs(60);
/// How far a clock may be set back between two runs before the age of a file is not known.
const CLOCK_ERROR: Duration = Duration::from_mins(5);

/// Keeps the state of one node.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    owner: String,
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug)]
struct Held {
    /// What the file does not have yet.
    pending: BTreeMap<(Kind, String), Change>,
    /// When the control plane last stood behind the state.
    confirmed: SystemTime,
    /// The state of the file is in force, and the control plane has not answered yet.
    in_use: bool,
    /// Whether the file is (or will be) the whole state.
    complete: bool,
    /// Why nothing is kept any more.
    broken: Option<String>,
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
        let prepared = file::prepare(directory).map_err(|error| format!("{}: {error}", directory.display()));
        if let Err(reason) = &prepared {
            tracing::error!(reason, "the state cannot be kept on disk");
        }
        let restored = match prepared.clone().and_then(|()| restore(&path, &owner)) {
            Ok(Some(restored)) if restored.age > oldest => {
                tracing::warn!(file = %path.display(), age_s = restored.age.as_secs(), "the kept state is too old to be used");
                None
            }
            Ok(restored) => restored,
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "there is no kept state");
                None
            }
        };
        if restored.is_none() {
            // What changes from now on must not be added to it.
            let _gone = fs::remove_file(&path);
        }
        let confirmed = SystemTime::now() - restored.as_ref().map_or(Duration::ZERO, |restored| restored.age);
        let held =
            Held { pending: BTreeMap::new(), confirmed, in_use: false, complete: restored.is_some(), broken: prepared.err() };
        (Self { path, owner, held: Mutex::new(held), changed: Notify::new() }, restored)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a handler has done with a batch.
    fn note(&self, kind: Kind, upserts: Vec<Resource>, removals: Vec<String>, rejected: &[Rejected]) {
        let mut held = self.held();
        if held.broken.is_some() {
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

    /// Notes that connections are decided by the file's state from now on.
    pub fn used(&self) {
        let mut held = self.held();
        if !std::mem::replace(&mut held.in_use, true) {
            let age = age(held.confirmed);
            tracing::warn!(age_s = age.as_secs(), "the control plane does not answer: the kept state is in force");
        }
    }

    /// For the admin page.
    #[must_use]
    pub fn status(&self) -> Status {
        let held = self.held();
        Status {
            file: self.path.clone(),
            in_use: held.in_use,
            age_seconds: age(held.confirmed).as_secs(),
            pending: held.pending.len(),
            broken: held.broken.clone(),
        }
    }

    /// Writes changes and shows the age, for as long as the program runs. The control plane stands behind the state while all of `answers`
    /// are true: it is connected, and has answered for each type since the start.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>, answers: [watch::Receiver<bool>; 3]) {
        let mut confirmed_file = Instant::now();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            self.flush(&shared).await;
            if answers.iter().all(|answered| *answered.borrow()) {
                let mut held = self.held();
                (held.confirmed, held.in_use) = (SystemTime::now(), false);
                drop(held);
                if confirmed_file.elapsed() >= CONFIRM {
                    confirmed_file = Instant::now();
                    // Without it the state only looks older than it is.
                    let _older = fs::File::options().write(true).open(&self.path).and_then(|f| f.set_modified(SystemTime::now()));
                }
            }
            let status = self.status();
            metrics::gauge!("ztunnel_kept_state_age_seconds").set(status.age_seconds as f64);
            metrics::gauge!("ztunnel_kept_state_in_use").set(f64::from(u8::from(status.in_use)));
            metrics::gauge!("ztunnel_kept_state_broken").set(f64::from(u8::from(status.broken.is_some())));
        }
    }

    /// Gathers for a moment and writes, once the state is whole.
    async fn flush(self: &Arc<Self>, shared: &Shared) {
        let gather = match self.held().pending.last_key_value() {
            Some(((Kind::Policy, _), _)) => GATHER_POLICIES,
            Some(_) => GATHER,
            None => return,
        };
        tokio::time::sleep(gather).await;
        let changes = shared.changes();
        let pending = {
            let mut held = self.held();
            held.complete |= changes.addresses_synced && changes.policies_synced && !held.in_use;
            if !held.complete || held.broken.is_some() {
                return;
            }
            std::mem::take(&mut held.pending)
        };
        let (this, begun) = (Arc::clone(self), Instant::now());
        let written = tokio::task::spawn_blocking(move || merge(&this.path, &this.owner, &pending)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = failed {
            tracing::error!(file = %self.path.display(), reason, "the state can no longer be kept on disk");
            // A state that is behind could open what a policy has closed since.
            let _gone = fs::remove_file(&self.path);
            let mut held = self.held();
            held.pending.clear();
            held.broken = Some(reason);
        }
        self.rest(9 * begun.elapsed()).await;
    }

    /// Waits, so that a large state that changes all the time costs a tenth of the time; policies do not wait.
    async fn rest(&self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                () = self.changed.notified() => {
                    if self.held().pending.keys().any(|(kind, _)| *kind == Kind::Policy) {
                        break;
                    }
                }
            }
        }
        // What came meanwhile is written next.
        self.changed.notify_one();
    }
}

fn age(confirmed: SystemTime) -> Duration {
    SystemTime::now().duration_since(confirmed).unwrap_or(Duration::ZERO)
}

fn read(path: &Path) -> Result<Option<(Vec<u8>, SystemTime)>, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if metadata.len() > MOST {
        return Err(format!("it has {} bytes", metadata.len()));
    }
    let confirmed = metadata.modified().map_err(|error| error.to_string())?;
    Ok(Some((fs::read(path).map_err(|error| error.to_string())?, confirmed)))
}

fn restore(path: &Path, owner: &str) -> Result<Option<Restored>, String> {
    let Some((bytes, confirmed)) = read(path)? else { return Ok(None) };
    if confirmed > SystemTime::now() + CLOCK_ERROR {
        return Err("it is from the future, so its age is not known: the clock was set back".to_owned());
    }
    let mut restored = Restored { addresses: Vec::new(), policies: Vec::new(), age: age(confirmed) };
    for record in file::decode(&bytes, owner)? {
        let (all, type_url) = match record.kind {
            Kind::Address => (&mut restored.addresses, type_url::ADDRESS),
            Kind::Policy => (&mut restored.policies, type_url::AUTHORIZATION),
        };
        let body = Any { type_url: type_url.to_owned(), value: record.body.to_vec() };
        // A version is not held unless the resource was taken.
        let version = if record.taken { record.version } else { "" };
        all.push(Resource { name: record.name.to_owned(), version: version.to_owned(), body });
    }
    Ok(Some(restored))
}

/// The file with these changes.
fn merge(path: &Path, owner: &str, pending: &BTreeMap<(Kind, String), Change>) -> Result<(), String> {
    let before = read(path)?;
    let before = before.as_ref().map_or(Ok(Vec::new()), |(bytes, _)| file::decode(bytes, owner))?;
    let by_key = |record: &Record<'_>| pending.get(&(record.kind, record.name.to_owned()));
    let stays = |record: &Record<'_>| match by_key(record) {
        None => true,
        Some(Change::Put { replaces: false, .. }) => record.taken,
        Some(_) => false,
    };
    let stay: Vec<Record<'_>> = before.into_iter().filter(stays).collect();
    let kept: std::collections::HashSet<(Kind, &str)> = stay.iter().map(|record| (record.kind, record.name)).collect();
    let new = pending.iter().filter_map(|((kind, name), change)| match change {
        Change::Put { taken, version, body, .. } if !kept.contains(&(*kind, name.as_str())) => {
            Some(Record { kind: *kind, taken: *taken, name, version, body })
        }
        _ => None,
    });
    file::write(path, owner, stay.iter().copied().chain(new)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

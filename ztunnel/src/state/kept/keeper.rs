//! The task that keeps the file as the state is, and its end.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{
    Kept, Stage,
    contents::{Base, merge},
    file::Kind,
    turn::Turn,
};
use crate::state::Shared;

/// How long changes are gathered before the file is written; policies are written sooner.
const GATHER: Duration = Duration::from_secs(1);
const GATHER_POLICIES: Duration = Duration::from_millis(100);
/// How often the age is looked at, and how often it is noted in the file that the state still holds.
const LOOK: Duration = Duration::from_secs(5);
const CONFIRM: Duration = Duration::from_secs(60);
/// How long a proxy that drains waits until what it still had to write is written.
const LEAVE: Duration = Duration::from_secs(5);

impl Kept {
    /// Writes changes and shows the age, until [`Kept::leave`]. The control plane stands behind the state while all of `answers`
    /// are true: it is connected, and has answered for each type since the start.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>, answers: [watch::Receiver<bool>; 3]) {
        let mut confirmed_file = Instant::now();
        while !self.leaves() {
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.pause(LOOK) => {}
            }
            self.flush(&shared).await;
            if answers.iter().all(|answered| *answered.borrow()) {
                let mut held = self.held();
                (held.confirmed, held.in_use) = (SystemTime::now(), false);
                // What another one has written may tell of what this one never heard of.
                let ours = matches!(held.base, Base::Ours) && held.writes();
                drop(held);
                if ours && confirmed_file.elapsed() >= CONFIRM {
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
        self.write(&shared).await;
        let mut held = self.held();
        held.pending.clear();
        held.turn = None;
        drop(held);
        self.stage.send_replace(Stage::Left);
    }

    /// Writes what is still to be written, and leaves the file to the proxy that takes over. To be called while [`Kept::run`] runs.
    pub async fn leave(&self) {
        let mut stage = self.stage.subscribe();
        self.stage.send_if_modified(|stage| {
            let runs = *stage == Stage::Runs;
            if runs {
                *stage = Stage::Leaves;
            }
            runs
        });
        let left = tokio::time::timeout(LEAVE, stage.wait_for(|stage| *stage == Stage::Left)).await;
        if left.is_err() {
            tracing::warn!(file = %self.path.display(), "the state is not written in time; the next proxy writes when this one ends");
        }
    }

    fn leaves(&self) -> bool {
        *self.stage.borrow() != Stage::Runs
    }

    /// Waits, unless this is to end.
    pub(super) async fn pause(&self, pause: Duration) {
        let mut stage = self.stage.subscribe();
        let _either = tokio::time::timeout(pause, stage.wait_for(|stage| *stage != Stage::Runs)).await;
    }

    /// Gathers for a moment and writes.
    pub(super) async fn flush(self: &Arc<Self>, shared: &Shared) {
        let gather = match self.held().pending.last_key_value() {
            Some(((Kind::Policy, _), _)) => GATHER_POLICIES,
            Some(_) => GATHER,
            None => Duration::ZERO,
        };
        self.pause(gather).await;
        let begun = Instant::now();
        if self.write(shared).await {
            self.rest(9 * begun.elapsed()).await;
        }
    }

    /// Writes what there is to write, once the state is whole and nobody else writes; whether that was tried.
    async fn write(self: &Arc<Self>, shared: &Shared) -> bool {
        let changes = shared.changes();
        let (base, pending) = {
            let mut held = self.held();
            let all = changes.addresses_synced && changes.policies_synced && !held.in_use;
            held.complete |= all;
            // What another one has written is replaced even if nothing has changed.
            let due = !held.pending.is_empty() || (all && !matches!(held.base, Base::Ours));
            if !due || !held.complete || held.broken.is_some() || !held.turn.as_mut().is_some_and(Turn::is_mine) {
                return false;
            }
            // Until the control plane has told all, what another one has written may be newer.
            if !all && !held.base.is_current(&self.path) {
                return false;
            }
            (held.base.clone(), std::mem::take(&mut held.pending))
        };
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || merge(&this.path, &base, &this.owner, &pending)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        let mut held = self.held();
        held.base = Base::Ours;
        if let Some(reason) = failed {
            tracing::error!(file = %self.path.display(), reason, "the state can no longer be kept on disk");
            // A state that is behind could open what a policy has closed since.
            let _gone = fs::remove_file(&self.path);
            held.pending.clear();
            held.broken = Some(reason);
        }
        true
    }

    /// Waits, so that a large state that changes all the time costs a tenth of the time; policies do not wait.
    async fn rest(&self, pause: Duration) {
        let over = self.pause(pause);
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

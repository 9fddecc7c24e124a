//! The task that keeps one identity's certificate fresh.

use std::{sync::Arc, time::Duration};

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    Svid, SvidSource, TlsError, Trust, WallClock, clock,
    rotation::{Backoff, Step, renew_at, step},
    server_config,
    verify::believed,
};

/// How often it is looked whether the wall clock has jumped: a machine that wakes up has new certificates this soon.
const LOOK: Duration = Duration::from_secs(1);
/// Over how long the identities of a node are spread when all are to be renewed.
const SPREAD: Duration = Duration::from_secs(5);

/// The outcome of the attempts so far.
#[derive(Default, Clone)]
pub(crate) struct Slot {
    pub(crate) held: Option<Held>,
    pub(crate) error: Option<TlsError>,
}

/// A certificate, and the server's configuration made of it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) svid: Arc<Svid>,
    pub(crate) server: Arc<ServerConfig>,
}

/// Keeps one identity's certificate fresh. Holds no reference to the store, so that dropping the store ends it.
pub(crate) struct Keeper {
    pub(crate) id: SpiffeId,
    pub(crate) source: Arc<dyn SvidSource>,
    pub(crate) aliases: Vec<TrustDomain>,
    /// Pauses between attempts that fail.
    pub(crate) backoff: Backoff,
    pub(crate) slot: watch::Sender<Slot>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) trust: Trust,
    /// Rises when all are to be renewed.
    pub(crate) renew: watch::Receiver<u64>,
    /// Rises when the wall clock has jumped.
    pub(crate) jumps: watch::Receiver<u64>,
    /// Is told of this identity when its certificate was replaced by another.
    pub(crate) renewals: broadcast::Sender<SpiffeId>,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        // When authorities disagree about the roots, each certificate makes the others useless: that must not spin.
        let mut disowned = self.backoff.clone();
        loop {
            // Before it is asked: what changes meanwhile is seen.
            let version = self.source.version(&self.id).await;
            match self.obtain().await {
                Ok(held) => {
                    let svid = self.put(held);
                    match self.rest(&svid, version).await {
                        Rested::Due => disowned.after_success(),
                        Rested::Disowned => self.pause(disowned.after_failure(fastrand::f64()), version).await,
                    }
                }
                Err(error) => {
                    let pause = self.backoff.after_failure(fastrand::f64());
                    tracing::warn!(identity = %self.id, %error, retry_in_ms = pause.as_millis(), "no certificate");
                    self.slot.send_modify(|slot| slot.error = Some(error));
                    self.pause(pause, version).await;
                }
            }
        }
    }

    /// Waits before another attempt; not when the source has something else by now, and not after a sleep of the machine, when what
    /// failed before may well succeed.
    async fn pause(&mut self, pause: Duration, version: Option<u64>) {
        let source = Arc::clone(&self.source);
        self.jumps.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed(&mut self.jumps) => {}
            () = superseded(&*source, &self.id, version) => {}
        }
    }

    /// Has everybody use it from now on.
    fn put(&mut self, held: Held) -> Arc<Svid> {
        let svid = Arc::clone(&held.svid);
        tracing::info!(identity = %self.id, serial = svid.serial(), "certificate obtained");
        self.backoff.after_success();
        let before = self.slot.send_replace(Slot { held: Some(held), error: None });
        if before.held.is_some_and(|before| before.svid.serial() != svid.serial()) {
            // Nobody need listen.
            let _heard = self.renewals.send(self.id.clone());
        }
        svid
    }

    /// Waits as long as the certificate is good; one that somebody else renews, until that has happened or its time is over.
    async fn rest(&mut self, svid: &Svid, version: Option<u64>) -> Rested {
        let source = Arc::clone(&self.source);
        let due = match version {
            None => renew_at(svid.validity(), self.clock.now(), fastrand::f64()),
            Some(_) => svid.not_after(),
        };
        let mut changes = self.trust.changes();
        // They may have changed since it was asked for.
        if !believed(svid) {
            return Rested::Disowned;
        }
        loop {
            let Step::Wait(left) = step(svid.validity(), due, self.clock.now()) else { return Rested::Due };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = changed(&mut self.jumps) => tracing::info!(identity = %self.id, "the wall clock has jumped"),
                () = changed(&mut changes) => {
                    if !believed(svid) {
                        tracing::info!(identity = %self.id, "the roots no longer stand for our certificate");
                        return Rested::Disowned;
                    }
                }
                () = superseded(&*source, &self.id, version) => return Rested::Due,
                () = changed(&mut self.renew) => {
                    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
                    return Rested::Due;
                }
            }
        }
    }

    async fn obtain(&mut self) -> Result<Held, TlsError> {
        let asked = Instant::now();
        // Whoever asks for a renewal from here on wants another one.
        self.renew.mark_unchanged();
        let svid = self.source.issue(&self.id).await?;
        let now = self.clock.now();
        if !svid.valid_at(now) {
            return Err(TlsError::not_valid(&self.id, svid.validity(), now));
        }
        if self.trust.adopt(&svid.trust().roots(), asked) {
            tracing::info!(roots = self.trust.roots().len(), "the roots of the mesh are others now");
        }
        let svid = svid.trusting(self.trust.clone());
        let server = server_config(&svid, &self.aliases)?;
        Ok(Held { svid: Arc::new(svid), server })
    }
}

/// Why a certificate is to be replaced.
enum Rested {
    /// Its time has come.
    Due,
    /// Peers no longer believe it.
    Disowned,
}

/// Completes when the source has something else than `version`; never for one that has no versions.
async fn superseded(source: &dyn SvidSource, id: &SpiffeId, version: Option<u64>) {
    match version {
        Some(version) => source.changed(id, version).await,
        None => std::future::pending().await,
    }
}

/// Completes with the next change; never when there can be none any more.
async fn changed(receiver: &mut watch::Receiver<u64>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Looks at the clock for all identities of a store.
pub(crate) struct Jumps {
    jumps: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Jumps {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Jumps {
    /// Looks at `clock` from now on.
    pub(crate) fn watch(clock: Arc<dyn WallClock>) -> Self {
        let (tell, jumps) = watch::channel(0);
        let task = tokio::spawn(async move {
            let (mut wall, mut steady) = (clock.now(), Instant::now());
            loop {
                tokio::time::sleep(LOOK).await;
                let (now, then) = (clock.now(), Instant::now());
                if clock::jumped(wall, now, then.duration_since(steady)) {
                    tell.send_modify(|jumps| *jumps += 1);
                }
                (wall, steady) = (now, then);
            }
        });
        Self { jumps, task }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.jumps.clone()
    }
}

//! The certificates of this process: one per identity, renewed in the background.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ambit_identity::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use crate::{
    Svid, SvidSource, SystemClock, TlsError, Trust, WallClock,
    keeper::{Held, Jumps, Keeper, Slot},
    rotation::Backoff,
};

/// Renewals that a listener may be behind; one that is further behind has to take all identities for renewed.
const RENEWALS: usize = 1024;

/// How the store behaves.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Trust domains whose clients are accepted besides the own one.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// First pause after a failure, for each identity on its own.
    pub backoff_least: Duration,
    /// Longest pause.
    pub backoff_most: Duration,
    /// The clock that validity is judged by, for our own certificates.
    pub clock: Arc<dyn WallClock>,
    /// Whom all certificates of the store believe. The roots that come with the newest certificate replace what is in it.
    pub trust: Trust,
}

impl Default for StoreConfig {
    /// 0.5 s to 150 s (wire contract, section 3), no aliases, this machine's clock, and nobody believed before the first certificate.
    fn default() -> Self {
        Self {
            trust_domain_aliases: Vec::new(),
            backoff_least: Duration::from_millis(500),
            backoff_most: Duration::from_secs(150),
            clock: Arc::new(SystemClock),
            trust: Trust::default(),
        }
    }
}

/// What is held for one identity, for the admin pages.
#[derive(Debug, Clone)]
pub struct SvidStatus {
    /// The identity.
    pub id: SpiffeId,
    /// Serial number, hexadecimal; none before the first certificate.
    pub serial: Option<String>,
    /// Validity of the certificate held.
    pub validity: Option<(SystemTime, SystemTime)>,
    /// Why the last attempt to get one failed, if it did.
    pub error: Option<TlsError>,
}

/// Certificates by identity. The first caller for an identity starts a task that obtains and renews its certificate; callers that come
/// meanwhile wait for the same attempt. A certificate that is still valid stays in use while the authority is away. Cloning is cheap;
/// the tasks end with [`SvidStore::shutdown`] or with the last clone.
#[derive(Clone)]
pub struct SvidStore {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<dyn SvidSource>,
    config: StoreConfig,
    entries: Mutex<Entries>,
    /// Rises when all are to be renewed.
    renew: watch::Sender<u64>,
    renewals: broadcast::Sender<SpiffeId>,
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<SpiffeId, Entry>,
    closed: bool,
    /// From the first identity on.
    jumps: Option<Jumps>,
}

struct Entry {
    slot: watch::Receiver<Slot>,
    task: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for SvidStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidStore").field("identities", &self.shared.entries().by_id.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // The map is consistent after any panic: each change is one insert or remove.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SvidStore {
    /// A store that obtains certificates from `source`.
    #[must_use]
    pub fn new(source: Arc<dyn SvidSource>, config: StoreConfig) -> Self {
        let (renew, renewals) = (watch::Sender::new(0), broadcast::Sender::new(RENEWALS));
        Self { shared: Arc::new(Shared { source, config, entries: Mutex::default(), renew, renewals }) }
    }

    /// The certificate of `id`: at once when one is held, else after the attempt in progress.
    ///
    /// # Errors
    /// Why the last attempt failed, when there is no valid certificate; the store goes on trying.
    pub async fn get(&self, id: &SpiffeId) -> Result<Arc<Svid>, TlsError> {
        Ok(self.held(id).await?.svid)
    }

    /// The server side's TLS configuration for `id`, with the certificate of this moment. It is built once for each certificate, so
    /// asking for each accepted connection is cheap and is how rotation takes effect.
    ///
    /// # Errors
    /// As [`SvidStore::get`].
    pub async fn server_config(&self, id: &SpiffeId) -> Result<Arc<ServerConfig>, TlsError> {
        Ok(self.held(id).await?.server)
    }

    /// The certificate held for `id` now, if it is valid. Starts nothing.
    #[must_use]
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        let entries = self.shared.entries();
        let slot = entries.by_id.get(id)?.slot.borrow();
        slot.held.as_ref().map(|held| Arc::clone(&held.svid)).filter(|svid| svid.valid_at(self.shared.config.clock.now()))
    }

    /// Starts obtaining a certificate for `id` without waiting for it.
    pub fn prefetch(&self, id: &SpiffeId) {
        // Only a closed store refuses, and then there is nobody to serve.
        let _slot = self.slot(id);
    }

    /// Whom the certificates of this store believe.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.shared.config.trust
    }

    /// Renews all certificates within a few seconds, for example because the roots of the mesh are said to be others.
    pub fn renew_soon(&self) {
        self.shared.renew.send_modify(|times| *times += 1);
    }

    /// Tells each identity whose certificate was replaced: connections made with the one before should take no more tunnels, so
    /// that none outlives its certificate by much.
    #[must_use]
    pub fn renewals(&self) -> broadcast::Receiver<SpiffeId> {
        self.shared.renewals.subscribe()
    }

    /// Forgets every identity not in `ids`: keys are held for the identities that run on this node and for no other.
    pub fn retain(&self, ids: &HashSet<SpiffeId>) {
        self.shared.entries().by_id.retain(|id, _| ids.contains(id));
    }

    /// Forgets one identity.
    pub fn forget(&self, id: &SpiffeId) {
        self.shared.entries().by_id.remove(id);
    }

    /// What is held, sorted by identity.
    #[must_use]
    pub fn status(&self) -> Vec<SvidStatus> {
        let entries = self.shared.entries();
        let mut all: Vec<_> = entries
            .by_id
            .iter()
            .map(|(id, entry)| {
                let slot = entry.slot.borrow();
                let svid = slot.held.as_ref().map(|held| &held.svid);
                SvidStatus {
                    id: id.clone(),
                    serial: svid.map(|svid| svid.serial().to_owned()),
                    validity: svid.map(|svid| (svid.not_before(), svid.not_after())),
                    error: slot.error.clone(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Ends all tasks and drops all keys. Callers that wait get [`TlsError::Shutdown`].
    pub fn shutdown(&self) {
        let mut entries = self.shared.entries();
        entries.closed = true;
        entries.by_id.clear();
        entries.jumps = None;
    }

    async fn held(&self, id: &SpiffeId) -> Result<Held, TlsError> {
        let mut slot = self.slot(id)?;
        loop {
            if let Some(outcome) = usable(&slot.borrow_and_update(), id, self.shared.config.clock.now()) {
                return outcome;
            }
            if slot.changed().await.is_err() {
                let closed = self.shared.entries().closed;
                return Err(if closed { TlsError::Shutdown } else { TlsError::NotHeld(id.clone()) });
            }
        }
    }

    /// The slot of `id`, with its task started.
    fn slot(&self, id: &SpiffeId) -> Result<watch::Receiver<Slot>, TlsError> {
        let mut entries = self.shared.entries();
        if entries.closed {
            return Err(TlsError::Shutdown);
        }
        if let Some(entry) = entries.by_id.get(id) {
            return Ok(entry.slot.clone());
        }
        let (sender, slot) = watch::channel(Slot::default());
        let config = &self.shared.config;
        let keep = Keeper {
            id: id.clone(),
            source: Arc::clone(&self.shared.source),
            aliases: config.trust_domain_aliases.clone(),
            backoff: Backoff::new(config.backoff_least, config.backoff_most),
            slot: sender,
            clock: Arc::clone(&config.clock),
            trust: config.trust.clone(),
            renew: self.shared.renew.subscribe(),
            jumps: entries.jumps.get_or_insert_with(|| Jumps::watch(Arc::clone(&config.clock))).subscribe(),
            renewals: self.shared.renewals.clone(),
        };
        let entry = Entry { slot: slot.clone(), task: tokio::spawn(keep.run()) };
        entries.by_id.insert(id.clone(), entry);
        Ok(slot)
    }
}

/// What a caller gets from this state of affairs; none means wait.
fn usable(slot: &Slot, id: &SpiffeId, now: SystemTime) -> Option<Result<Held, TlsError>> {
    match &slot.held {
        Some(held) if held.svid.valid_at(now) => Some(Ok(held.clone())),
        Some(Held { svid, .. }) => {
            Some(Err(slot.error.clone().unwrap_or_else(|| TlsError::not_valid(id, (svid.not_before(), svid.not_after()), now))))
        }
        None => slot.error.clone().map(Err),
    }
}

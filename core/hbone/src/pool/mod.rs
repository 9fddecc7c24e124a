//! Connections to peers, shared by the tunnels of one source to one destination.

mod dial;
mod entries;
#[cfg(test)]
mod tests;
mod types;

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_tls::Presented;
use http::HeaderMap;
use tokio::{net::TcpStream, sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    ConnectError, Transport, TunnelStream,
    connection::{Connection, Slot},
};
use dial::Dialer;
use entries::{Dialed, Entries, Entry, Place};
pub use types::{ConnectRequest, PoolConfig, PoolKey, PoolStatus, Spread};

/// Connections by key. Cloning is cheap; the last clone ends all connections. The task of each connection belongs to the pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    config: PoolConfig,
    entries: Mutex<Entries>,
    tasks: TaskTracker,
}

/// What a caller does next.
enum Step {
    Use(Slot),
    Wait(watch::Receiver<Dialed>),
    Dial(Dialer),
    /// Dial a further connection, or else use this place in one that is pressed.
    Spread(Dialer, Slot),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("keys", &self.shared.entries().by_key.len()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.entries().cut();
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        let shared = Shared { config, entries: Mutex::default(), tasks: TaskTracker::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a tunnel, in a connection at hand if one has room, else in one that `dial` makes (TCP and TLS; its error is passed on).
    ///
    /// For one key one dial runs at a time; callers that come meanwhile use its connection, or share its failure. A request that a
    /// connection at hand turns out unable to carry (going away, or gone) is sent once more, on a connection made since.
    ///
    /// # Errors
    /// See [`ConnectError`]. Headers of success are returned with the tunnel, those of a refusal are in the error.
    pub async fn connect<D, F, T>(
        &self,
        key: &PoolKey,
        dial: D,
        request: ConnectRequest,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        self.open(key, dial, request, None).await
    }

    /// As [`Pool::connect`], for a client whose first bytes go with the request, or before its answer, in a connection at hand: a client that
    /// speaks first waits for one round trip less. The bytes stay in the client's socket until the tunnel stands and [`crate::copy::pump`],
    /// which alone may carry it, passes over them; so a request that comes to nothing can be made again, unless the error is
    /// [`ConnectError::Unknown`].
    ///
    /// RFC 9113, section 8.5, lets DATA follow the request; a server passes it on when it has accepted.
    ///
    /// # Errors
    /// As [`Pool::connect`], and when the client's connection has failed.
    pub async fn connect_for<D, F, T>(
        &self,
        key: &PoolKey,
        dial: D,
        request: ConnectRequest,
        client: &TcpStream,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        self.open(key, dial, request, Some(client)).await
    }

    async fn open<D, F, T>(
        &self,
        key: &PoolKey,
        dial: D,
        request: ConnectRequest,
        client: Option<&TcpStream>,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        let mut dial = Some(dial);
        let mut made_since = None;
        loop {
            let (slot, own) = self.slot(key, &mut dial, made_since).await?;
            match slot.open(&request, client, self.shared.config.answer_timeout).await {
                Ok(opened) => return Ok(opened),
                Err(unopened) if unopened.again && !own && made_since.is_none() => made_since = Some(Instant::now()),
                Err(unopened) => return Err(unopened.error),
            }
        }
    }

    /// Ends in order: no new tunnels, those that are open have `deadline` to finish, then all connections are cut.
    pub async fn drain(&self, deadline: Duration) {
        {
            let mut entries = self.shared.entries();
            entries.closed = true;
            entries.by_key.clear();
            entries.running.iter().for_each(Connection::close);
        }
        self.shared.tasks.close();
        if tokio::time::timeout(deadline, self.shared.tasks.wait()).await.is_err() {
            self.shared.entries().cut();
            self.shared.tasks.wait().await;
        }
    }

    /// Closes the connections of `source` to new tunnels, for example when its certificate has changed; open tunnels go on.
    pub fn forget(&self, source: &SpiffeId) {
        self.retire(|key| key.source == *source);
    }

    /// Closes the connections of these keys to new tunnels, for example when their pod is gone; open tunnels go on. One that is being made
    /// meanwhile takes the tunnel that it is made for, and no other.
    pub fn retire(&self, of: impl Fn(&PoolKey) -> bool) {
        self.shared.entries().by_key.retain(|key, entry| {
            let stays = !of(key);
            if !stays {
                entry.connections.iter().for_each(Connection::close);
            }
            stays
        });
    }

    /// Ends these connections with their tunnels, for example when their peer is no longer trusted; they are told by the certificates of
    /// their peers. Returns how many.
    pub fn cut(&self, of: impl Fn(Option<&Presented>) -> bool) -> usize {
        // To verify a certificate takes its time, in which others must not wait.
        let running = self.shared.entries().running.clone();
        running.iter().filter(|connection| of(connection.presented.as_ref())).map(Connection::cut).count()
    }

    /// What is open now.
    #[must_use]
    pub fn status(&self) -> Vec<PoolStatus> {
        let entries = self.shared.entries();
        let of = |(key, entry): (&Arc<PoolKey>, &Entry)| PoolStatus {
            key: PoolKey::clone(key),
            tunnels: entry.connections.iter().filter(|c| c.is_open()).map(Connection::tunnels).collect(),
        };
        entries.by_key.iter().map(of).filter(|status| !status.tunnels.is_empty()).collect()
    }

    /// A place in a connection made since `since` (any if none), and whether this caller has dialled it itself.
    async fn slot<D, F, T>(
        &self,
        key: &PoolKey,
        dial: &mut Option<D>,
        since: Option<Instant>,
    ) -> Result<(Slot, bool), ConnectError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        loop {
            match self.step(key, since)? {
                Step::Use(slot) => return Ok((slot, false)),
                Step::Spread(dialer, pressed) => {
                    let Some(dial) = dial.take() else { return Ok((pressed, false)) };
                    // On the heap, so that it does not make every caller's future larger.
                    let further = Box::pin(dialer.try_run(dial(), &self.shared)).await;
                    return Ok(further.map_or((pressed, false), |slot| (slot, true)));
                }
                Step::Wait(mut dialed) => {
                    // An error means that the one who dialled gave up (its client went away): somebody else dials.
                    if let Ok(outcome) = dialed.wait_for(|outcome| !matches!(outcome, Dialed::Pending)).await
                        && let Dialed::Failed(error) = &*outcome
                    {
                        return Err(error.clone());
                    }
                }
                Step::Dial(dialer) => {
                    let Some(dial) = dial.take() else {
                        return Err(ConnectError::Reset("no connection could take the request".to_owned()));
                    };
                    return dialer.run(dial(), &self.shared).await.map(|slot| (slot, true));
                }
            }
        }
    }

    fn step(&self, key: &PoolKey, since: Option<Instant>) -> Result<Step, ConnectError> {
        let mut entries = self.shared.entries();
        if entries.closed {
            return Err(ConnectError::Shutdown);
        }
        let PoolConfig { spread, idle_timeout, .. } = &self.shared.config;
        let Some(entry) = entries.by_key.get(key) else { return Ok(Step::Dial(self.dialer(&mut entries, key, *idle_timeout))) };
        match (entry.take(&self.shared.config, since), &entry.dialing) {
            (Some(Place::Pressed(pressed)), _) if entry.may_spread(spread) => {
                Ok(Step::Spread(self.dialer(&mut entries, key, spread.idle_timeout), pressed))
            }
            (Some(Place::Free(slot) | Place::Pressed(slot)), _) => Ok(Step::Use(slot)),
            (None, Some(dialing)) => Ok(Step::Wait(dialing.clone())),
            (None, None) => Ok(Step::Dial(self.dialer(&mut entries, key, *idle_timeout))),
        }
    }

    /// The one who dials for `key`.
    fn dialer(&self, entries: &mut Entries, key: &PoolKey, idle: Duration) -> Dialer {
        let key = entries.by_key.get_key_value(key).map_or_else(|| Arc::new(key.clone()), |(key, _)| Arc::clone(key));
        let (tell, dialing) = watch::channel(Dialed::Pending);
        entries.by_key.entry(Arc::clone(&key)).or_default().dialing = Some(dialing);
        Dialer::new(key, Arc::downgrade(&self.shared), tell, idle)
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

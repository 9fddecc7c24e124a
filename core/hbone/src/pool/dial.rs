//! Making a connection for a key, and keeping it as long as it is of use.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{PoolKey, Shared, entries::Dialed};
use crate::{
    ConnectError, Transport,
    aside::Roaming,
    connection::{Connection, Slot},
};

/// The one who dials for a key. However it ends, the next may dial.
pub(super) struct Dialer {
    key: Arc<PoolKey>,
    pool: Weak<Shared>,
    tell: watch::Sender<Dialed>,
    /// How long the connection may be without tunnels.
    idle: Duration,
}

impl Drop for Dialer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.entries().change(&self.key, |entry| {
                if entry.waits_for(&self.tell) {
                    entry.dialing = None;
                }
            });
        }
    }
}

impl Dialer {
    pub(super) fn new(key: Arc<PoolKey>, pool: Weak<Shared>, tell: watch::Sender<Dialed>, idle: Duration) -> Self {
        Self { key, pool, tell, idle }
    }

    pub(super) async fn run<F, T>(self, dial: F, pool: &Arc<Shared>) -> Result<Slot, ConnectError>
    where
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        let outcome = match dial.await {
            Ok(io) => pool.adopt(&self, io),
            Err(error) => Err(ConnectError::Dial(Arc::new(error))),
        };
        self.tell.send_replace(match &outcome {
            Ok(_) => Dialed::Connected,
            Err(error) => Dialed::Failed(error.clone()),
        });
        outcome
    }

    /// As [`Self::run`], for a further connection, which is not needed: nothing comes of a dial that fails or takes too long.
    pub(super) async fn try_run<F, T>(self, dial: F, pool: &Arc<Shared>) -> Option<Slot>
    where
        F: Future<Output = io::Result<T>>,
        T: Transport,
    {
        let (key, spread) = (Arc::clone(&self.key), pool.config.spread);
        let slot = tokio::time::timeout(spread.dial_timeout, self.run(dial, pool)).await.ok().and_then(Result::ok);
        if slot.is_none() {
            let until = Instant::now() + spread.idle_timeout;
            pool.entries().change(&key, |entry| entry.alone_until = Some(until));
        }
        slot
    }
}

impl Shared {
    /// Makes `io` a connection of the pool, with one place taken for the caller. When what was at hand was retired meanwhile, nobody else
    /// gets a place: it was made with what has changed since.
    fn adopt<T: Transport>(self: &Arc<Self>, dialer: &Dialer, io: T) -> Result<Slot, ConnectError> {
        let (connection, driver) = Connection::start(io, &self.config, dialer.idle);
        let slot = connection.take(self.config.max_streams).ok_or(ConnectError::Shutdown)?;
        let mut entries = self.entries();
        if entries.closed {
            return Err(ConnectError::Shutdown);
        }
        if let Some(entry) = entries.by_key.get_mut(&dialer.key).filter(|entry| entry.waits_for(&dialer.tell)) {
            entry.connections.push(connection.clone());
        }
        entries.running.push(connection.clone());
        drop(entries);
        let (pool, key) = (Arc::downgrade(self), Arc::clone(&dialer.key));
        self.tasks.spawn(async move {
            if let Err(failure) = Roaming::new(driver).await {
                tracing::debug!(?failure, "tunnel connection ended");
            }
            connection.close();
            if let Some(pool) = pool.upgrade() {
                pool.entries().forget(&key, &connection);
            }
        });
        Ok(slot)
    }
}

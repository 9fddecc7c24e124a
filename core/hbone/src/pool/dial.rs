//! Making a connection for a key, and keeping it as long as it is of use.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::{Dialed, PoolKey, Shared};
use crate::{
    ConnectError,
    connection::{Connection, Slot},
};

/// The one who dials for a key. However it ends, the next may dial.
pub(super) struct Dialer {
    key: PoolKey,
    pool: Weak<Shared>,
    tell: watch::Sender<Dialed>,
}

impl Drop for Dialer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.entries().change(&self.key, |entry| entry.dialing = None);
        }
    }
}

impl Dialer {
    pub(super) fn new(key: PoolKey, pool: Weak<Shared>, tell: watch::Sender<Dialed>) -> Self {
        Self { key, pool, tell }
    }

    pub(super) async fn run<F, T>(self, dial: F, pool: &Arc<Shared>) -> Result<Slot, ConnectError>
    where
        F: Future<Output = io::Result<T>>,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let outcome = match dial.await {
            Ok(io) => pool.adopt(&self.key, io).await,
            Err(error) => Err(ConnectError::Dial(Arc::new(error))),
        };
        self.tell.send_replace(match &outcome {
            Ok(_) => Dialed::Connected,
            Err(error) => Dialed::Failed(error.clone()),
        });
        outcome
    }
}

impl Shared {
    /// Makes `io` a connection of the pool, with one place taken for the caller.
    async fn adopt<T>(self: &Arc<Self>, key: &PoolKey, io: T) -> Result<Slot, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connection, drive) = Connection::start(io, &self.config.settings).await?;
        let slot = connection.take(self.config.max_streams).ok_or(ConnectError::Shutdown)?;
        let mut entries = self.entries();
        if entries.closed {
            return Err(ConnectError::Shutdown);
        }
        entries.by_key.entry(key.clone()).or_default().connections.push(Arc::clone(&connection));
        drop(entries);
        let (pool, key, stop) = (Arc::downgrade(self), key.clone(), self.stop.clone());
        let idle = release_when_idle(Arc::downgrade(&connection), pool.clone(), key.clone(), self.config.idle_timeout);
        drop(connection);
        self.tasks.spawn(async move {
            tokio::pin!(drive);
            tokio::select! {
                () = &mut drive => {}
                () = stop.cancelled() => return,
                // The pool has let go of it: it ends by itself when its last tunnel has.
                () = idle => tokio::select! {
                    () = drive => {}
                    () = stop.cancelled() => return,
                },
            }
            if let Some(pool) = pool.upgrade() {
                pool.entries().change(&key, |_| {});
            }
        });
        Ok(slot)
    }
}

/// Waits until the connection is out of use, and takes it out of the pool.
async fn release_when_idle(connection: Weak<Connection>, pool: Weak<Shared>, key: PoolKey, limit: Duration) {
    let step = (limit / 4).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(step).await;
        match connection.upgrade() {
            Some(connection) if !connection.close_if_idle(limit) => {}
            _ => break,
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.entries().change(&key, |_| {});
    }
}

//! What a pool has at hand for each key, and whether that is enough.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::{PoolConfig, PoolKey, Spread};
use crate::{
    ConnectError,
    connection::{Connection, Slot},
};

/// The connections of a pool.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) by_key: HashMap<Arc<PoolKey>, Entry>,
    /// All that have not ended yet, also those that take no more tunnels.
    pub(super) running: Vec<Connection>,
    pub(super) closed: bool,
}

/// What is at hand for one key.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) connections: Vec<Connection>,
    pub(super) dialing: Option<watch::Receiver<Dialed>>,
    /// No further connections before that.
    pub(super) alone_until: Option<Instant>,
}

/// What those who wait for somebody else's dial learn.
#[derive(Clone)]
pub(super) enum Dialed {
    Pending,
    Connected,
    Failed(ConnectError),
}

/// A place that is at hand.
pub(super) enum Place {
    /// In a connection that takes what it is given.
    Free(Slot),
    /// In one that is pressed, as all are.
    Pressed(Slot),
}

impl Entry {
    /// Whether `dial` is under way for it. Else the entry it was begun for was retired since.
    pub(super) fn waits_for(&self, dial: &watch::Sender<Dialed>) -> bool {
        self.dialing.as_ref().is_some_and(|dialing| dialing.same_channel(&dial.subscribe()))
    }

    /// A place in a connection made since `since` (any if none): in the first that is not pressed, so that those that were made for a load
    /// fall idle after it; else in the one that has the fewest tunnels.
    pub(super) fn take(&self, config: &PoolConfig, since: Option<Instant>) -> Option<Place> {
        let usable = || self.connections.iter().filter(|c| since.is_none_or(|since| c.made >= since));
        let mut at_ease = usable().filter(|c| !c.is_pressed(config.spread.pressed));
        if let Some(slot) = at_ease.find_map(|c| c.take(config.max_streams)) {
            return Some(Place::Free(slot));
        }
        let mut all: Vec<&Connection> = usable().collect();
        // Each is asked once: others open and end tunnels meanwhile, and a sort must not see that.
        all.sort_by_cached_key(|c| c.tunnels());
        all.into_iter().find_map(|c| c.take(config.max_streams)).map(Place::Pressed)
    }

    /// Whether a further connection may be dialled while all are pressed.
    pub(super) fn may_spread(&self, spread: &Spread) -> bool {
        let open = self.connections.iter().filter(|c| c.is_open()).count();
        self.dialing.is_none() && open < spread.connections && self.alone_until.is_none_or(|until| until <= Instant::now())
    }
}

impl Entries {
    /// A connection has ended.
    pub(super) fn forget(&mut self, key: &PoolKey, connection: &Connection) {
        self.running.retain(|running| !running.is(connection));
        self.change(key, |_| {});
        if self.running.capacity() > 4 * self.running.len() + 64 {
            // A storm is over.
            self.running.shrink_to(2 * self.running.len());
            self.by_key.shrink_to(2 * self.by_key.len());
        }
    }

    /// Ends all connections with their tunnels, also those that take no more.
    pub(super) fn cut(&self) {
        self.running.iter().for_each(Connection::cut);
    }

    /// Changes the entry of `key`, drops its closed connections, and itself when nothing is left of it.
    pub(super) fn change(&mut self, key: &PoolKey, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.by_key.get_mut(key) else { return };
        change(entry);
        entry.connections.retain(Connection::is_open);
        if entry.connections.is_empty() && entry.dialing.is_none() {
            self.by_key.remove(key);
        }
    }
}

//! What goes on at one endpoint of a cluster.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_model::balance::{History, Why};
use serde::Serialize;
use tokio::sync::Notify;

use crate::compiled::Target;

/// What goes on at one endpoint of a cluster.
#[derive(Debug)]
pub struct Host {
    pub(super) target: Target,
    pub(super) under_way: AtomicUsize,
    /// Those of HTTP/1.1 and of bytes, and those of HTTP/2.
    pub(super) connections: [AtomicUsize; 2],
    /// Told when a request may go on a connection at hand, of the one kind or the other.
    freed: [Notify; 2],
    ejected: AtomicBool,
    history: Mutex<History>,
}

/// An endpoint as the admin page shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    target: Target,
    requests: usize,
    connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected: Option<Why>,
    /// How long it still is.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_for: Option<Duration>,
}

impl Host {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            under_way: AtomicUsize::default(),
            connections: Default::default(),
            freed: Default::default(),
            ejected: AtomicBool::default(),
            history: Mutex::default(),
        }
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Whether it is given no requests.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    pub(super) fn connections(&self, http2: bool) -> &AtomicUsize {
        let [other, multiplexed] = &self.connections;
        if http2 { multiplexed } else { other }
    }

    /// Told when a request may go on a connection at hand, or be the first to have one.
    pub(super) fn freed(&self, http2: bool) -> &Notify {
        let [other, multiplexed] = &self.freed;
        if http2 { multiplexed } else { other }
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of it, and whether it is ejected by that.
    pub(super) fn judge<R>(&self, change: impl FnOnce(&mut History) -> R) -> R {
        let mut history = self.history();
        let result = change(&mut history);
        self.ejected.store(history.ejected().is_some(), Ordering::Release);
        result
    }

    /// It is ejected no more.
    pub(super) fn acquit(&self) {
        self.judge(History::acquit);
    }

    pub(super) fn shown(&self, now: Duration) -> Shown {
        let ejected = self.history().ejected();
        Shown {
            target: self.target.clone(),
            requests: self.under_way(),
            connections: self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            ejected: ejected.map(|(why, _)| why),
            ejected_for: ejected.map(|(_, until)| until.saturating_sub(now)),
        }
    }
}

/// For the log.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Hbone { address, .. } | Target::Clear { address } => address.fmt(f),
            Target::OriginalDestination => f.write_str("original destination"),
            Target::Internal { listener } => f.write_str(listener),
        }
    }
}

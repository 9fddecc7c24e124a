//! What goes on at one endpoint of a cluster.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_model::balance::{Checks, History, Why};
use serde::Serialize;
use tokio::sync::Notify;

use super::{checks::Health, latency::Latency, warm::Since};
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
    checked: AtomicBool,
    failing: AtomicBool,
    health: Mutex<Health>,
    pub(super) since: Since,
    /// Since when it takes requests after it was ejected, where that matters to its share.
    pub(super) returned: Since,
    /// Requests, and connections whose bytes are carried, that it was given so far.
    pub(super) sent: AtomicU64,
    /// Those of them that it answered with a status from 500 on, broke off or did not answer, and those for which it was not reached.
    pub(super) errors: AtomicU64,
    /// How soon it answers, where its cluster goes by that.
    pub(super) latency: Latency,
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
    /// What its health checks say, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'static str>,
    /// What the last one has found, if it was no good answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<String>,
    /// How soon it answers, where its cluster goes by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Duration>,
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
            checked: AtomicBool::default(),
            failing: AtomicBool::default(),
            health: Mutex::default(),
            since: Since::default(),
            returned: Since::default(),
            sent: AtomicU64::default(),
            errors: AtomicU64::default(),
            latency: Latency::default(),
        }
    }

    /// How many requests it was given so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many of them ended badly.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// How many connections to it stand or are being made.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Whether no check of it has ended yet, where it is to be checked.
    pub(crate) fn awaits_check(&self) -> bool {
        self.is_checked() && !self.checked_so_far().0
    }

    /// How it is reached.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
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

    /// Whether it is asked now and then whether it is well.
    pub fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    /// Whether it is given no requests because of what its health checks have found.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Why it is given no requests by its health checks, if so.
    pub(crate) fn why_failing(&self) -> Option<String> {
        if !self.is_failing() {
            return None;
        }
        let health = self.health();
        Some(match &health.why {
            Some(why) => why.clone(),
            None if health.checks.known() => "its last health check was a good one, and it takes more in a row".to_owned(),
            None => "it waits for its first health check".to_owned(),
        })
    }

    /// Whether a check has ended, and what the last one has found if it was no good answer.
    fn checked_so_far(&self) -> (bool, Option<String>) {
        let health = self.health();
        (health.checks.known(), health.why.clone())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of it by its health checks, and whether it fails by that.
    pub(super) fn checked_again<R>(&self, change: impl FnOnce(&mut Health) -> R) -> R {
        let mut health = self.health();
        let result = change(&mut health);
        self.failing.store(health.checks.failing(), Ordering::Release);
        result
    }

    /// Whether it is checked from now on; one that `waits` takes no requests before its first check. What is known of it stays as long as it
    /// is.
    pub(super) fn set_checked(&self, checked: bool, waits: bool) {
        if self.checked.swap(checked, Ordering::AcqRel) != checked {
            self.checked_again(|health| *health = Health { checks: Checks::new(checked && waits), why: None });
        }
    }

    pub(super) fn shown(&self, now: Duration) -> Shown {
        let ejected = self.history().ejected();
        let (known, health_check) = self.checked_so_far();
        Shown {
            target: self.target.clone(),
            requests: self.under_way(),
            connections: self.open_connections(),
            ejected: ejected.map(|(why, _)| why),
            ejected_for: ejected.map(|(_, until)| until.saturating_sub(now)),
            health: self.is_checked().then_some(match (known, self.is_failing()) {
                (_, true) => "failing",
                (true, false) => "healthy",
                (false, false) => "unknown",
            }),
            health_check,
            latency: self.latency.known(now),
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

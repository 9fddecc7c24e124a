//! How much of a cluster is in use: connections, requests that wait for one, requests under way. Each is counted until its guard is dropped,
//! whatever becomes of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ambit_model::{Reason, Refusal, balance::Outcome};
use metrics::counter;
use tokio::sync::{Notify, futures::Notified};

use super::{Host, Live};
use crate::compiled::{Cluster, Target};

/// Counts what was refused because so much of its cluster was in use, by `limit`.
const OVERFLOWS: &str = "ambit_cluster_overflows_total";

/// What of a cluster is in use.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    connections: AtomicUsize,
    pending: AtomicUsize,
    requests: AtomicUsize,
    /// Requests, and connections whose bytes are carried, that went to an endpoint so far.
    sent: AtomicU64,
    /// Told when one more connection may be made.
    freed: Notify,
}

impl Breakers {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// One more, unless there are as many already.
fn take(count: &AtomicUsize, most: u32) -> bool {
    // Without a limit there is nothing to compare, and nobody tries again because another one was quicker.
    if most == u32::MAX {
        count.fetch_add(1, Ordering::AcqRel);
        return true;
    }
    let more = |count: usize| (count < most as usize).then_some(count + 1);
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}

fn overflow(cluster: &Cluster, limit: &'static str) -> Refusal {
    counter!(OVERFLOWS, "limit" => limit).increment(1);
    Refusal::new(Reason::ClusterOverloaded, format!("cluster {}, {limit}", cluster.name))
}

/// A request that waits for a connection.
#[derive(Debug)]
pub struct Pending(Arc<Live>);

/// A connection that stands or is being made.
#[derive(Debug)]
pub struct Connected {
    live: Arc<Live>,
    host: Arc<Host>,
    http2: bool,
    /// It is itself what is under way.
    carries: bool,
}

/// A request that is with an endpoint.
#[derive(Debug)]
pub struct UnderWay {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
}

impl Cluster {
    /// A place for a request that waits for a connection.
    ///
    /// # Errors
    /// When as many wait as may.
    pub fn pending(&self) -> Result<Pending, Refusal> {
        match take(&self.live.breakers.pending, self.limits.pending) {
            true => Ok(Pending(self.live.clone())),
            false => Err(overflow(self, "max_pending_requests")),
        }
    }

    /// A place for a request that is sent to `host`.
    ///
    /// # Errors
    /// When as many are under way as may be.
    pub fn under_way(self: &Arc<Self>, host: &Arc<Host>) -> Result<UnderWay, Refusal> {
        if !take(&self.live.breakers.requests, self.limits.requests) {
            return Err(overflow(self, "max_requests"));
        }
        host.under_way.fetch_add(1, Ordering::AcqRel);
        self.live.given(host);
        Ok(UnderWay { cluster: self.clone(), host: host.clone() })
    }

    /// Whether there are as many connections as may be.
    #[must_use]
    pub fn has_all_connections(&self) -> bool {
        self.live.breakers.connections() >= self.limits.connections as usize
    }

    /// A place for a connection to `host`, which may have its first one of a protocol all the same; `None` when a request is to wait.
    #[must_use]
    pub fn another_connection(&self, host: &Arc<Host>, http2: bool) -> Option<Connected> {
        let count = host.connections(http2);
        if take(&self.live.breakers.connections, self.limits.connections) {
            count.fetch_add(1, Ordering::AcqRel);
        } else {
            count.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).ok()?;
            self.live.breakers.connections.fetch_add(1, Ordering::AcqRel);
        }
        Some(Connected { live: self.live.clone(), host: host.clone(), http2, carries: false })
    }

    /// A place for a connection to `host` whose bytes are carried as they are: it waits for no other.
    ///
    /// # Errors
    /// When there are as many as may be.
    pub fn connection(&self, host: &Arc<Host>) -> Result<Connected, Refusal> {
        if !take(&self.live.breakers.connections, self.limits.connections) {
            return Err(overflow(self, "max_connections"));
        }
        host.connections(false).fetch_add(1, Ordering::AcqRel);
        host.under_way.fetch_add(1, Ordering::AcqRel);
        self.live.given(host);
        Ok(Connected { live: self.live.clone(), host: host.clone(), http2: false, carries: true })
    }
}

impl Live {
    fn given(&self, host: &Host) {
        self.breakers.sent.fetch_add(1, Ordering::Relaxed);
        host.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Completes when one more connection may be made. It is to be enabled before it is looked whether so.
    pub fn slot(&self) -> Notified<'_> {
        self.breakers.freed.notified()
    }

    /// One who waited goes on, and may have been told of more than it takes: the next one looks.
    pub fn next(&self, host: &Host, http2: bool) {
        self.breakers.freed.notify_one();
        host.tell(http2);
    }
}

impl Host {
    /// Completes when a request may go on a connection at hand. It is to be enabled before it is looked whether so.
    pub fn at_hand(&self, http2: bool) -> Notified<'_> {
        self.freed(http2).notified()
    }

    /// One who waits for a connection at hand looks for it. Where connections lead to many addresses all do: what is free may be for the
    /// last of them.
    pub fn tell(&self, http2: bool) {
        match self.target {
            Target::OriginalDestination => self.freed(http2).notify_waiters(),
            _ => self.freed(http2).notify_one(),
        }
    }

    /// There is a connection that several may share.
    pub fn told_shared(&self) {
        self.freed(true).notify_waiters();
    }
}

impl Connected {
    /// Whose it is.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl UnderWay {
    /// What goes on at the endpoint.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The answer broke off.
    pub fn broke(&self) {
        self.cluster.note(&self.host, Outcome::Failed);
    }

    /// The connection of the request, which is used for something else from now on.
    #[must_use]
    pub fn connected(&self) -> Connected {
        self.host.connections(false).fetch_add(1, Ordering::AcqRel);
        self.cluster.live.breakers.connections.fetch_add(1, Ordering::AcqRel);
        Connected { live: self.cluster.live.clone(), host: self.host.clone(), http2: false, carries: false }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.breakers.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if self.carries {
            self.host.under_way.fetch_sub(1, Ordering::AcqRel);
        }
        self.host.connections(self.http2).fetch_sub(1, Ordering::AcqRel);
        self.live.breakers.connections.fetch_sub(1, Ordering::AcqRel);
        self.live.next(&self.host, self.http2);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.host.under_way.fetch_sub(1, Ordering::AcqRel);
        self.cluster.live.breakers.requests.fetch_sub(1, Ordering::AcqRel);
        // On a shared connection there is a place.
        self.host.tell(true);
    }
}

//! A connection of HTTP/2, which several requests share.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ambit_hbone::Carrier;
use hyper::client::conn::http2;

use super::{IDLE, stays};
use crate::upstream::{EmptyFrames, Host, MOST_EMPTY_FRAMES, RequestBody};

/// Requests on one at once; more open another. As long as nothing is known of a connection each may bring an empty frame.
const MOST: usize = MOST_EMPTY_FRAMES;

/// What requests are sent by.
pub(super) type Http2 = http2::SendRequest<RequestBody>;

/// A connection of HTTP/2.
pub(super) struct Multiplexed {
    pub(super) sender: Http2,
    carrier: Option<Carrier>,
    /// What came on it.
    empty: EmptyFrames,
    in_flight: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// Whose place it has. Requests of other clusters with the same endpoint go on it, too.
    owner: Arc<Host>,
}

impl Multiplexed {
    /// One that has just been made, and its first place.
    pub(super) fn new(sender: Http2, carrier: Option<Carrier>, empty: EmptyFrames, owner: Arc<Host>) -> (Arc<Self>, Shares) {
        let (in_flight, idle_since) = (AtomicUsize::new(1), Mutex::new(Instant::now()));
        let on = Arc::new(Self { sender, carrier, empty, in_flight, idle_since, owner });
        (on.clone(), Shares { on, lent: false })
    }

    /// Whether it may carry further requests, now or later.
    pub(super) fn stays(&self) -> bool {
        !self.sender.is_closed() && stays(self.carrier.as_ref()) && !self.empty.are_many()
    }

    /// Whether it has carried nothing for too long.
    pub(super) fn is_idle(&self) -> bool {
        let idle = self.idle_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= IDLE;
        idle && self.in_flight.load(Ordering::Acquire) == 0
    }

    /// Whether it may carry one more now.
    pub(super) fn has_room(&self) -> bool {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        in_flight < MOST && self.empty.leave_room(in_flight)
    }

    /// A place for a request to `host`, of which there is room for one.
    pub(super) fn share(self: &Arc<Self>, host: &Arc<Host>) -> Shares {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Shares { on: self.clone(), lent: !Arc::ptr_eq(&self.owner, host) }
    }
}

/// A place on a shared connection.
pub(super) struct Shares {
    pub(super) on: Arc<Multiplexed>,
    /// The request is of another cluster than the connection.
    lent: bool,
}

impl Drop for Shares {
    fn drop(&mut self) {
        if self.on.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.on.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        // Those who wait in the request's own cluster are told by the end of the request.
        if self.lent {
            self.on.owner.tell(true);
        }
    }
}
